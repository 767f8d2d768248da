"""The one list of sampling fields, with their bounds, words and neutral values.

The engine, requests, replies and packs all take the fields from here.
"""

import math
from typing import Annotated, Self

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

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
#: tokens with a bias, of one request, at most
MAX_BIASES = 300
#: a bias of so much bans its token
BAN = -100.0


def _few_biases(given: object) -> object:
    """Refuse too many at once: each wrong one would cost an error of its own."""
    if isinstance(given, dict) and len(given) > MAX_BIASES:
        raise PydanticCustomError(
            "biases", "has {count} token ids; send {limit} at most", {"count": len(given), "limit": MAX_BIASES}
        )
    return given


#: token id, as JSON's objects have their names: in decimal, without a sign or leading zeros
_TokenKey = Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,9})$")]
LogitBias = Annotated[
    dict[_TokenKey, Annotated[float, Field(ge=BAN, le=100)]],
    BeforeValidator(_few_biases),
    Field(
        max_length=MAX_BIASES,
        description="By token id: is added to the token's logit before penalties and cuts; -100 bans the token.",
        examples=[{"9707": -100, "151643": 2.5}],
    ),
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
    stop_token_ids: StopTokenIds = Field((), exclude_if=lambda ids: not ids)
    #: a think block is closed after so many tokens; None for any number
    max_thinking_tokens: MaxThinkingTokens | None = Field(None, exclude_if=lambda limit: limit is None)
    #: is added to the logits of these tokens before all other options, by token id; `BAN` bans a token.
    #: Log-probabilities are those of the model without it
    logit_bias: LogitBias = Field({}, exclude_if=lambda biases: not biases)

    @property
    def biases(self) -> list[tuple[int, float]]:
        """Token id and bias of each token that has one, by id; -infinity for a banned token."""
        given = ((int(token), bias if bias > BAN else -math.inf) for token, bias in self.logit_bias.items() if bias)
        return sorted(given)

    def with_seed(self, seed: int) -> Self:
        """The same with another seed, which wraps round at 2**64."""
        return self.model_copy(update={"seed": seed % 2**64})
