"""The one list of sampling fields, with their bounds, words and neutral values.

The engine, requests, replies and packs all take the fields from here.
"""

from typing import Annotated, Self

from pydantic import Field

from handler.engine.values import Value

MaxTokens = Annotated[int, Field(ge=1, le=1_000_000, description="Completion tokens, at most.", examples=[256])]
Temperature = Annotated[float, Field(ge=0, le=2, description="0 is greedy.", examples=[0.7])]
TopP = Annotated[float, Field(gt=0, le=1, description="1 is off.", examples=[0.9])]
TopK = Annotated[int, Field(ge=0, le=1_000_000, description="0 is off.", examples=[20])]
MinP = Annotated[float, Field(ge=0, le=1, description="0 is off.", examples=[0.05])]
RepetitionPenalty = Annotated[float, Field(gt=0, le=10, description="1 is off.", examples=[1.05])]
Penalty = Annotated[float, Field(ge=-2, le=2, description="0 is off.", examples=[0.5])]
#: tokens that end an answer, of one request, at most
MAX_STOP_TOKENS = 64
StopTokenIds = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(max_length=MAX_STOP_TOKENS, fail_fast=True)
]
MaxThinkingTokens = Annotated[
    int, Field(ge=1, le=1_000_000, description="Tokens of the thought, at most.", examples=[1024])
]
Seed = Annotated[int, Field(ge=0, lt=2**64, description="Same request and seed, same draws.", examples=[7])]


class Distribution(Value):
    """The fields that shape the probabilities of the next token. Each defaults to the value that changes nothing."""

    #: 0 takes the likeliest token; 1 leaves the distribution as it is
    temperature: Temperature = 1.0
    #: keeps the smallest set of tokens whose probability reaches this
    top_p: TopP = 1.0
    #: keeps this many of the likeliest tokens
    top_k: TopK = 0
    #: drops tokens less likely than this share of the likeliest one
    min_p: MinP = 0.0
    #: divides (or multiplies) the logits of tokens in prompt or completion
    repetition_penalty: RepetitionPenalty = 1.0
    #: is subtracted from the logits of tokens that are in the completion
    presence_penalty: Penalty = 0.0
    #: the same, once for each time that the token is there
    frequency_penalty: Penalty = 0.0

    @property
    def penalises(self) -> bool:
        """Whether tokens of prompt or completion change the probabilities of the next one."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)


class Sampling(Distribution):
    """The sampling of one completion; a reply echoes it as it was applied."""

    max_tokens: MaxTokens
    #: a draw depends on logits, seed and position alone
    seed: Seed
    #: the completion ends before the first of these that completes
    stop: tuple[str, ...] = ()
    #: the completion ends at the first of these, which adds no text
    stop_token_ids: StopTokenIds = ()
    #: a think block is closed after so many tokens; None for any number
    max_thinking_tokens: MaxThinkingTokens | None = Field(None, exclude_if=lambda limit: limit is None)

    def with_seed(self, seed: int) -> Self:
        """The same with another seed, which wraps round at 2**64."""
        return self.model_copy(update={"seed": seed % 2**64})
