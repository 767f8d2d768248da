"""Needles in a long text: does a model with YaRN find facts that lie further back than it was trained to read?

`ROPE_SCALING` extends the context of 8,192 tokens by a factor of 2. The text has about 10,000 tokens and three facts.
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
MAX_MODEL_LEN = "10400"
#: share of the text before each needle, the needle, the question, and the word to find; of three kinds, since a model of
#: this size mixes up three numbers in a short text too
NEEDLES = (
    (0.05, "The password of the lighthouse is walnut.", "What is the password of the lighthouse?", "walnut"),
    (0.5, "The name of the white horse is Rufus.", "What is the name of the white horse?", "Rufus"),
    (0.9, "The name of the green parrot is Pluto.", "What is the name of the green parrot?", "Pluto"),
)

WHO = ("An old sailor", "The baker", "A tall girl", "My neighbour", "The teacher", "A quiet man", "The painter")
DID = ("walked along", "looked at", "wrote about", "remembered", "talked about", "photographed", "waited beside")
WHAT = ("the harbour", "a stone bridge", "the empty market", "a row of poplars", "the railway", "a small chapel")
WHEN = ("before dawn", "in the rain", "on a Sunday", "with two friends", "for an hour", "without a word", "in winter")


class Found(NamedTuple):
    """One question about the long text."""

    question: str
    #: tokens of the prompt, and those between the fact and the question, about
    tokens: int
    back: int
    said: str
    right: bool


def haystack(sentences: int) -> str:
    """A text of so many sentences with the needles in it; the same each time."""
    dice = random.Random(19)
    lines = [" ".join(map(dice.choice, (WHO, DID, WHAT, WHEN))) + "." for _ in range(sentences)]
    for depth, needle, _, _ in reversed(NEEDLES):
        lines.insert(int(depth * sentences), needle)
    return " ".join(lines)


def find(checkpoint: Path, **settings: str) -> Iterator[Found]:
    """Ask for each needle, greedily. The text comes first, so that it is computed once for all questions.

    Raises:
        StartError: the worker does not start with these settings.
    """
    with working(checkpoint, MAX_MODEL_LEN=MAX_MODEL_LEN, **settings) as jobs:
        count = jobs.operations.core.template.count
        text = haystack(TOKENS * 100 // count(haystack(100)))
        for depth, _, question, word in NEEDLES:
            asked = f"{text}\n\n{question} Answer with one sentence."
            request = chat("You answer questions about a text.", asked, temperature=0, max_tokens=24)
            reply = asyncio.run(answer(jobs, request))
            tokens = reply["usage"]["prompt_tokens"]
            yield Found(question, tokens, int((1 - depth) * tokens), reply["response"], word in reply["response"])


def extended(checkpoint: Path) -> Iterator[Found]:
    """The same with the context extended by `ROPE_SCALING`."""
    return find(checkpoint, ROPE_SCALING=ROPE_SCALING)
