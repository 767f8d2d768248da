"""The contexts in which the model itself judges an answer: texts of a pack, with marks for prompt and answer.

Knows no engine: `likelihood` scores texts after them.
"""

import re
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from handler.engine.values import Value

Context = Annotated[str, Field(min_length=1, max_length=2000)]
_MARK = re.compile(r"\{\{(\w*)\}\}")


class Judge(Value):
    """The contexts of the texts that the model scores, and the figures that an answer must reach."""

    kept: Context = Field(description="Before the user's prompt: it is likely here where `{{answer}}` says the same.")
    nothing: Context = Field(description="An answer that says nothing, above which an answer has to be.")
    described: Context = Field(
        description="Before the text behind a copy of the prompt, as a description of `{{prompt}}` goes on."
    )
    said: Context = Field(description="The user's turn with `{{prompt}}` that an assistant answers.")
    begun: Context = Field(description="How the assistant's answer begins, which has `{{prompt}}`; the text follows.")
    least_kept: float = Field(
        description="Below it an answer has lost the prompt's meaning: 1 is the gain of the prompt by itself, 0 that "
        "by `nothing`."
    )
    least_described: float = Field(
        description="Below it the text behind a copy of the prompt is talk: nats a token, by which it is likelier "
        "after `described` than after `said` and `begun`."
    )

    @model_validator(mode="after")
    def _has_its_marks(self) -> Self:
        places = (("kept", "answer"), ("described", "prompt"), ("said", "prompt"), ("begun", "prompt"))
        for name, mark in places:
            if {found.group(1) for found in _MARK.finditer(getattr(self, name))} != {mark}:
                values = {"place": name, "mark": "{{" + mark + "}}"}
                raise PydanticCustomError("mark", "{place} must hold {mark}, and no other mark", values)
        return self


def filled(context: str, value: str) -> str:
    """The context with the value in place of its mark; marks inside the value stay text."""
    return _MARK.sub(lambda _: value, context)
