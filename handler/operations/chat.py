"""chat: the conversation that a request stands for, and its next turn."""

from collections.abc import AsyncGenerator

from handler.api.chat import ChatEcho, ChatReply, ChatRequest, Turn
from handler.api.reply import Reply
from handler.api.text import DryRunReply, Message
from handler.api.variants import AnswerFacts, ChatVariant
from handler.engine.fold import Piece
from handler.operations.answer import Answer, answer
from handler.operations.core import Core
from handler.operations.facts import dry_run
from handler.operations.prompt import conversation, system_of, with_default_system


def chat(core: Core, request: ChatRequest) -> AsyncGenerator[Piece | Reply, None]:
    """Yield the text as it comes, then the reply."""
    asked_at = core.now()
    sent = _messages(request)
    messages = with_default_system(core, sent)

    def reply(answered: Answer) -> ChatReply:
        variants = answered.variants
        return ChatReply(
            response=answered.text,
            system_prompt_used=answered.prepared.system,
            conversation_history=_history(request, answered.text, asked_at, core.now()),
            echo=ChatEcho.of(request),
            message_id=core.new_id(),
            variants=None if variants is None else tuple(_variant(*one) for one in variants),
            run=answered.run,
        )

    field = "message" if request.messages is None else "messages"
    return answer(
        core,
        request,
        messages,
        conversation(core, request, messages),
        field=field,
        reply=reply,
        dry_run=lambda prepared: _dry_run(dry_run(core, prepared), sent, prepared.messages),
    )


def _variant(text: str, facts: AnswerFacts) -> ChatVariant:
    return ChatVariant(response=text, **dict(facts))


def _messages(request: ChatRequest) -> tuple[Message, ...]:
    """The conversation as sent, with nothing added."""
    if request.messages is not None:
        return request.messages
    system = () if request.system_prompt is None else (Message(role="system", content=request.system_prompt),)
    history = (Message(role=turn.sender, content=turn.content) for turn in request.conversation_history)
    return (*system, *history, Message(role="user", content=request.message or ""))


def _history(request: ChatRequest, text: str, asked_at: str, answered_at: str) -> tuple[Turn, ...] | None:
    """The turns to store, the two new ones last; the user's has the time at which the job began."""
    if request.message is None:
        return None
    return (
        *request.conversation_history,
        Turn(sender="user", content=request.message, created_at=asked_at),
        Turn(sender="assistant", content=text, created_at=answered_at),
    )


def _dry_run(dry_run: DryRunReply, sent: tuple[Message, ...], built: tuple[Message, ...]) -> DryRunReply:
    """With the names that callers of the former /chat/debug/system-prompt read."""
    return dry_run.model_copy(
        update={
            "system_prompt_received": system_of(sent),
            "system_prompt_used": system_of(built),
            "messages_built": built,
        }
    )
