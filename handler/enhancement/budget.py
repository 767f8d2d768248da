"""Trims a text to a token budget: whole clauses first, then words. Pure; knows no tokenizer.

A text that fits is not changed, so trimming twice gives the same text.
"""

from dataclasses import dataclass

from handler.api.enhance import Trimmed
from handler.enhancement.choice import Choice
from handler.enhancement.clauses import SEPARATORS, separator
from handler.enhancement.limits import Limit, Ranking


@dataclass(frozen=True, slots=True)
class Fitted:
    """A text within its budget, and the text that was trimmed."""

    text: str
    trimmed: tuple[Trimmed, ...] = ()


def fit(text: str, limit: Limit, ranking: Ranking) -> Fitted:
    """Drop clauses, then words, until the text fits. Empty where not one word fits."""
    if limit.fits(text):
        return Fitted(text)
    choice = Choice(text, "", limit, ranking)
    if choice.keep_what_must_stay():
        choice.fill()
    choice.settle()
    return Fitted(choice.text, choice.trimmed)


def append(head: str, tail: str, limit: Limit, ranking: Ranking) -> Fitted:
    """Add a tail's clauses to a head, which must fit and is kept byte for byte; leave out what does not fit."""
    whole = head + separator(head) + tail.rstrip(SEPARATORS) if tail.rstrip(SEPARATORS) else head
    if limit.fits(whole):
        return Fitted(whole)
    choice = Choice(tail, head, limit, ranking)
    choice.add(choice.protected)
    choice.fill()
    choice.settle()
    return Fitted(choice.text, choice.trimmed)
