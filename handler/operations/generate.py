"""generate: text that follows messages, or a raw prompt."""

from collections.abc import AsyncGenerator

from handler.api.generate import GenerateReply, GenerateRequest
from handler.api.reply import Reply
from handler.api.text import Run
from handler.engine.fold import Piece
from handler.operations.core import Core, Prepared


def generate(core: Core, request: GenerateRequest) -> AsyncGenerator[Piece | Reply, None]:
    """Yield the text as it comes, then the reply."""

    def reply(prepared: Prepared, text: str, run: Run) -> GenerateReply:
        return GenerateReply(text=text, run=run)

    if request.prompt is not None:
        raw, special = request.prompt, request.special_tokens
        return core.answer(
            request, (), lambda room: core.template.raw(raw, room, special_tokens=special), field="prompt", reply=reply
        )
    messages = core.with_default_system(request.messages or ())
    return core.answer(request, messages, core.conversation(request, messages), field="messages", reply=reply)
