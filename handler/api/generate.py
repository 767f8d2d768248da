"""generate: text in, the text that follows it out."""

from typing import Literal, Self

from pydantic import Field, model_validator

from handler.api.fields import Text
from handler.api.text import TextReply, TextRequest, exactly_one
from handler.errors import InvalidRequest


class GenerateRequest(TextRequest):
    """Text to continue: `messages` through the model's template, or a raw `prompt` without one."""

    operation: Literal["generate"]
    prompt: Text | None = Field(
        None, min_length=1, description="Read by the model as it stands.", examples=["Once upon a time"]
    )
    special_tokens: bool = Field(False, description="With `prompt`: control tokens typed in it are control tokens.")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        exactly_one(self, "messages", "prompt")
        if self.special_tokens and self.prompt is None:
            raise InvalidRequest("special_tokens needs prompt", field="special_tokens")
        if self.enable_thinking is not None and self.prompt is not None:
            raise InvalidRequest(
                "enable_thinking needs messages: a raw prompt has no template", field="enable_thinking"
            )
        if self.truncate_history and self.prompt is not None:
            raise InvalidRequest("truncate_history needs messages: a raw prompt has no turns", field="truncate_history")
        return self


class GenerateReply(TextReply):
    """The text that the model wrote."""

    text: str
