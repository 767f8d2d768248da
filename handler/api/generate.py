"""generate: text in, the text that follows it out; or a given text in, and how likely it is out."""

from typing import Literal, Self

from pydantic import Field, model_validator

from handler.api.fields import Text
from handler.api.reply import Reply
from handler.api.text import (
    DrawnLogprob,
    ModelFacts,
    TextReply,
    TextRequest,
    Timing,
    Usage,
    exactly_one,
    none_of,
)
from handler.api.variants import GenerateVariant
from handler.engine.sampling import Sampling
from handler.engine.values import Value
from handler.errors import InvalidRequest


class GenerateRequest(TextRequest):
    """Text to continue: `messages` through the model's template, or a raw `prompt` without one."""

    operation: Literal["generate"]
    prompt: Text | None = Field(
        None, min_length=1, description="Read by the model as it stands.", examples=["Once upon a time"]
    )
    special_tokens: bool = Field(False, description="With `prompt`: control tokens typed in it are control tokens.")
    score_text: Text | None = Field(
        None,
        min_length=1,
        description="Generate nothing: answer with the log-probability of this text after the prompt.",
        examples=["positive"],
    )

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

    @model_validator(mode="after")
    def _a_given_text_is_not_drawn(self) -> Self:
        if self.score_text is not None:
            none_of(self, "score_text", *Sampling.model_fields, "n", "sampling_defaults", "truncate_history")
            if self.stream:
                raise InvalidRequest("stream does not go with score_text: a score is one value", field="stream")
        return self


class GenerateReply(TextReply):
    """The text that the model wrote."""

    text: str
    variants: tuple[GenerateVariant, ...] | None = Field(
        None, description="With `n` above 1: all texts, the first one too, which is also `text`."
    )


class TextScore(Value):
    """How likely a text is after a prompt, in natural logarithms."""

    mean: float = Field(description="Log-probability of a token; exp(-mean) is the perplexity.")
    sum: float = Field(description="Log-probability of the whole text.")
    tokens: int = Field(description="Tokens of the text.")


class ScoreReply(Reply):
    """The score of `score_text`."""

    score: TextScore
    usage: Usage = Field(description="Prompt and text count as prompt tokens; none is completed.")
    logprobs: tuple[DrawnLogprob, ...] | None = Field(
        None, description="Where `logprobs` was sent: one for each token of the text."
    )
    model_info: ModelFacts
    prompt_sha256: str = Field(description="Of the token ids of the prompt and then of the text (fidelity.md).")
    timing: Timing
    generation_time: float = Field(description="Seconds in the engine.")
    processing_time: float = Field(description="Seconds in the worker, from job to reply.")
