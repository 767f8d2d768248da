"""The conversation that a request stands for, with nothing added. Knows no template and no pack."""

from typing import assert_never

from handler.api.contracts import ChatRequest, EnhanceRequest, GenerateRequest, Generation, Message


def messages(request: Generation) -> tuple[Message, ...]:
    """The conversation that a request stands for, with nothing added; none for a raw prompt."""
    if request.messages is not None:
        return request.messages
    turns: list[tuple[str, str]]
    match request:
        case ChatRequest():
            history = [(turn.sender, turn.content) for turn in request.conversation_history or ()]
            turns = [*history, ("user", request.message or "")]
        case EnhanceRequest():
            turns = [("user", request.prompt or "")]
        case GenerateRequest():
            return ()
        case _:
            assert_never(request)
    if request.system_prompt is not None:
        turns.insert(0, ("system", request.system_prompt))
    return tuple(Message.model_validate({"role": role, "content": content}) for role, content in turns)


def field(request: Generation) -> str:
    """The field that holds what the model reads."""
    if request.messages is not None:
        return "messages"
    return "message" if isinstance(request, ChatRequest) else "prompt"


def original_prompt(request: EnhanceRequest) -> str:
    """What the user asked for: the prompt, or the last user turn."""
    if request.prompt is not None:
        return request.prompt
    return next((message.content for message in reversed(request.messages or ()) if message.role == "user"), "")
