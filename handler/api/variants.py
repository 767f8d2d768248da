"""The `n` answers of chat and generate, in one reply. Enhance has its own, which are judged."""

from typing import Literal

from pydantic import Field

from handler.api.fields import Part
from handler.api.text import DrawnLogprob
from handler.engine.stream import FinishReason


class AnswerFacts(Part):
    """The facts of one of `n` answers; the others of the run are the same for all of them."""

    seed: int
    same_as: int | None = Field(
        None,
        description="The place of an earlier answer that this one repeats, from 0: at temperature 0 no draw differs, "
        "and the model ran once.",
    )
    finish_reason: FinishReason
    completion_tokens: int = Field(description="Of this answer; 0 where it repeats another.")
    reasoning: str | None = Field(None, description="The think block, where the model was to think.")
    reasoning_cut: Literal[True] | None = Field(
        None, description="Where the thought was closed at `max_thinking_tokens`."
    )
    logprobs: tuple[DrawnLogprob, ...] | None = Field(
        None, description="Where `logprobs` was sent: one for each completion token."
    )


class ChatVariant(AnswerFacts):
    """One of `n` answers to a chat."""

    response: str


class GenerateVariant(AnswerFacts):
    """One of `n` texts."""

    text: str
