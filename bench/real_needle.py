"""Needles in a long text: does a model with YaRN find facts in a text that is longer than it was trained to read?

`ROPE_SCALING` extends the context of 8,192 tokens by a factor of 2. The text has about 10,000 tokens and three facts. A
model of this size mixes up numbers in a short text too, so that not all three have to be found.
"""

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.real_worker import answer, chat, working

ROPE_SCALING = json.dumps({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8192})
TOKENS = 10_000
#: share of the text before each needle: who, and the number to find
NEEDLES = ((0.1, "Marta", "7402"), (0.5, "Tobias", "3195"), (0.9, "Ingrid", "8846"))
#: needles to find, at least
NEEDED = 2

WHO = ("An old sailor", "The baker", "A tall girl", "My neighbour", "The teacher", "A quiet man", "The painter")
DID = ("walked along", "looked at", "wrote about", "remembered", "talked about", "photographed", "waited beside")
WHAT = ("the harbour", "a stone bridge", "the empty market", "a row of poplars", "the railway", "a small chapel")
WHEN = ("before dawn", "in the rain", "on a Sunday", "with two friends", "for an hour", "without a word", "in winter")


class Found(NamedTuple):
    """One question about the long text."""

    who: str
    #: tokens of the prompt, and those between the fact and the question, about
    tokens: int
    back: int
    said: str
    right: bool


def haystack(sentences: int) -> str:
    """A text of so many sentences with the needles in it; the same each time."""
    dice = random.Random(19)
    lines = [" ".join(map(dice.choice, (WHO, DID, WHAT, WHEN))) + "." for _ in range(sentences)]
    for depth, who, number in reversed(NEEDLES):
        lines.insert(int(depth * sentences), f"The secret number of {who} is {number}.")
    return " ".join(lines)


def find(checkpoint: Path, tokens: int, **settings: str) -> Iterator[Found]:
    """Ask for each needle in a text of about so many tokens, greedily.

    The text comes first, so that it is computed once for all questions.

    Raises:
        StartError: the worker does not start with these settings.
    """
    with working(checkpoint, MAX_MODEL_LEN=str(tokens + 400), **settings) as jobs:
        text = haystack(100 * tokens // jobs.operations.core.template.count(haystack(100)))
        for depth, who, number in NEEDLES:
            question = f"{text}\n\nWhat is the secret number of {who}? Answer with the number."
            request = chat("You answer questions about a text.", question, temperature=0, max_tokens=24)
            reply = asyncio.run(answer(jobs, request))
            read = reply["usage"]["prompt_tokens"]
            yield Found(who, read, int((1 - depth) * read), reply["response"], number in reply["response"])


def extended(checkpoint: Path) -> Iterator[Found]:
    """Ask in a text that is longer than the context that the checkpoint says, which ROPE_SCALING extends."""
    return find(checkpoint, TOKENS, ROPE_SCALING=ROPE_SCALING)
