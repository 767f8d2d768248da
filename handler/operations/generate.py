"""generate: text that follows messages or a raw prompt, or the score of a given one."""

from collections.abc import AsyncGenerator
from functools import partial

from handler.api.generate import GenerateReply, GenerateRequest
from handler.api.reply import Reply
from handler.api.text import Message, Run
from handler.engine.fold import Piece
from handler.operations.answer import answer
from handler.operations.core import Core
from handler.operations.prompt import Encode, Prepared, conversation, with_default_system
from handler.operations.score import score


def generate(core: Core, request: GenerateRequest) -> AsyncGenerator[Piece | Reply, None]:
    """Yield the text as it comes, then the reply."""

    def reply(prepared: Prepared, text: str, run: Run) -> GenerateReply:
        return GenerateReply(text=text, run=run)

    messages: tuple[Message, ...] = ()
    encode: Encode
    if request.prompt is not None:
        encode, field = partial(core.template.raw, request.prompt, special_tokens=request.special_tokens), "prompt"
    else:
        messages = with_default_system(core, request.messages or ())
        encode, field = conversation(core, request, messages), "messages"
    if request.score_text is not None:
        return score(core, request, request.score_text, messages, encode, field=field)
    return answer(core, request, messages, encode, field=field, reply=reply)
