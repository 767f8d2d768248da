"""Scores a checked text: how much of the prompt it keeps, and how well it adds. Pure; says nothing about images.

`docs/enhance.md` says what the figure means, and what it was held against.
"""

from collections.abc import Iterable, Mapping, Set
from itertools import pairwise
from types import MappingProxyType

from handler.api.enhance import Check
from handler.enhancement.checks import Candidate
from handler.enhancement.clauses import split
from handler.enhancement.content import Content, content, length
from handler.enhancement.pack import Fault, Words
from handler.enhancement.vocabulary import tokens

#: the score of a text that failed a hard check, at most
CAP = 0.49
#: the score of a text that is no prompt: a person would rather have the one with the higher figure
OF_FAULTS: Mapping[Fault, float] = {
    "loop": 0.2,
    "echo": 0.2,
    "question": 0.15,
    "refusal": 0.1,
    "language": 0.1,
    "off_subject": 0.05,
    "empty": 0.0,
}
#: the parts that say how much of the prompt is kept
KEPT = ("words_kept", "bindings", "meaning")
#: words of a clause that describes; shorter ones are keywords
_DESCRIBES = 3
#: words of content that a text adds for each token that it is to have, and at least
_PER_TOKEN, _AT_LEAST = 0.4, 8


def score(
    candidate: Candidate, checks: Mapping[str, Check], figures: Mapping[str, float] = MappingProxyType({})
) -> tuple[float, dict[str, float]]:
    """A text's score, 0 to 1, and the parts that it is made of; `figures` are those by the model."""
    parts = {**_parts(candidate, checks), **figures}
    value = OF_FAULTS.get(candidate.fault) if candidate.fault is not None else None
    if value is None:
        weights = candidate.rules.score.model_dump()
        value = _mean(parts, weights, KEPT) * _mean(parts, weights, parts.keys() - KEPT)
        if any(one.hard and not one.passed for one in checks.values()):
            value = min(value, CAP)
    return round(value, 4), {name: round(part, 4) for name, part in parts.items()}


def _mean(parts: Mapping[str, float], weights: Mapping[str, float], names: Iterable[str]) -> float:
    """The weighted mean of some parts; 1 where they have no weight, or are not there."""
    there = [name for name in names if name in parts]
    total = sum(weights[name] for name in there)
    return sum(parts[name] * weights[name] for name in there) / total if total else 1.0


def _parts(candidate: Candidate, checks: Mapping[str, Check]) -> dict[str, float]:
    small, rules = candidate.words.small, candidate.rules
    asked, there = content(candidate.prompt, small), content(candidate.text, small)
    pairs = list(pairwise(word.casefold() for word in tokens(candidate.text)))
    size = (candidate.tokens or 0) / candidate.min_tokens if candidate.min_tokens else 1.0
    kept = {} if candidate.translated else {"words_kept": asked.kept_by(there), "bindings": asked.bound_in(there)}
    return {
        **kept,
        "described": _described(candidate, asked),
        "coverage": 1 - len(checks["coverage"].found) / len(rules.coverage) if rules.coverage else 1.0,
        "repetition": len(set(pairs)) / len(pairs) if pairs else 1.0,
        "added_style": 1 / (1 + len(checks["added_style"].found)),
        "length": min(1.0, size),
    }


def _described(candidate: Candidate, asked: Content) -> float:
    """How much of the description that the prompt leaves room for is added in clauses, not in keywords."""
    room = max(_AT_LEAST, _PER_TOKEN * candidate.min_tokens) - len(_told(candidate.prompt, candidate.words))
    added = _told(candidate.text, candidate.words) - asked.places.keys()
    return min(1.0, len(added) / room) if room > 0 else 1.0


def _told(text: str, words: Words) -> Set[str]:
    """The words of content in a text's clauses that are no keywords."""
    parts: list[str] = []
    start = 0
    for begin, end in words.lexicon.generic.find(text):
        parts += (text[start:begin], " " * (end - begin))
        start = end
    own = "".join((*parts, text[start:]))
    told = [own[one.start : one.end] for one in split(text) if length(one.text) >= _DESCRIBES]
    return content("".join(told), words.small).words
