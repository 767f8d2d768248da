"""chat: a conversation in, its next turn out."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from handler.api.fields import LIST, PASSED_BACK, AnyJson, Echo, NonBlank, Text
from handler.api.text import MAX_TURNS, TextReply, TextRequest, exactly_one, none_of
from handler.api.variants import ChatVariant


class Turn(Echo):
    """One turn of a conversation as chat applications store it."""

    sender: Literal["user", "assistant"]
    content: Text
    created_at: Annotated[Text | None, PASSED_BACK] = Field(
        None, description="Passed back as it came.", examples=["2026-11-20T12:00:00+00:00"]
    )


History = Annotated[tuple[Turn, ...], Field(max_length=MAX_TURNS, fail_fast=True), LIST]


class ChatEcho(Echo):
    """The fields of a chat that come back as they were sent."""

    conversation_id: AnyJson = Field(None, description="Passed back as it came.", examples=["c-1"])
    context_type: AnyJson = Field(None, description="Passed back as it came.", examples=["support"])
    project_id: AnyJson = Field(None, description="Passed back as it came.", examples=["p-1"])


class ChatRequest(ChatEcho, TextRequest):
    """A conversation to continue: `messages`, or `message` with the turns before it."""

    MEANT: ClassVar[Mapping[str, str]] = {"prompt": "message"}

    operation: Literal["chat"]
    message: NonBlank | None = Field(None, description="The new turn of the user.", examples=["hi"])
    system_prompt: Text | None = Field(
        None, description="With `message`: the system turn.", examples=["Answer in verse."]
    )
    conversation_history: History = Field((), description="With `message`: the turns before it, oldest first.")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        exactly_one(self, "messages", "message")
        if self.messages is not None:
            none_of(self, "messages", "system_prompt", "conversation_history")
        return self


class ChatReply(TextReply):
    """The answer to a chat."""

    FLAT: ClassVar[tuple[str, ...]] = ("echo", "run")

    response: str
    system_prompt_used: str | None = Field(None, description="The system turn that the model read.")
    conversation_history: tuple[Turn, ...] | None = Field(
        None, description="With `message`: the turns before it and the two new ones."
    )
    echo: ChatEcho
    message_id: str
    variants: tuple[ChatVariant, ...] | None = Field(
        None, description="With `n` above 1: all answers, the first one too, which is also `response`."
    )
