"""generate: text that follows messages or a raw prompt, or the score of a given one."""

from collections.abc import AsyncGenerator
from functools import partial

from handler.api.generate import GenerateReply, GenerateRequest
from handler.api.reply import Reply
from handler.api.text import Message
from handler.api.variants import AnswerFacts, GenerateVariant
from handler.engine.fold import Piece
from handler.operations.answer import Answer, answer
from handler.operations.core import Core
from handler.operations.prompt import Encode, conversation, with_default_system
from handler.operations.score import score


def generate(core: Core, request: GenerateRequest) -> AsyncGenerator[Piece | Reply, None]:
    """Yield the text as it comes, then the reply."""

    def reply(answered: Answer) -> GenerateReply:
        variants = answered.variants
        return GenerateReply(
            text=answered.text,
            variants=None if variants is None else tuple(_variant(*one) for one in variants),
            run=answered.run,
        )

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


def _variant(text: str, facts: AnswerFacts) -> GenerateVariant:
    return GenerateVariant(text=text, **dict(facts))
