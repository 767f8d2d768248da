"""Scores a checked text: how well it keeps the rules. Pure; it says nothing about how good an image gets."""

from collections.abc import Mapping
from itertools import pairwise

from handler.api.enhance import Check
from handler.enhancement.checks import Candidate
from handler.enhancement.vocabulary import stems, tokens

#: the score of a text that failed a hard check, at most
CAP = 0.49


def score(candidate: Candidate, checks: Mapping[str, Check]) -> tuple[float, dict[str, float]]:
    """How well the rules are kept, 0 to 1, and the parts that it is the weighted mean of."""
    rules, weights = candidate.rules, candidate.rules.score.model_dump()
    own = stems(candidate.prompt, candidate.words.without_content)
    pairs = list(pairwise(word.casefold() for word in tokens(candidate.text)))
    length = (candidate.tokens or 0) / candidate.min_tokens if candidate.min_tokens else 1.0
    parts = {
        "words_kept": 1 - len(checks["words_kept"].found) / len(own) if own else 1.0,
        "coverage": 1 - len(checks["coverage"].found) / len(rules.coverage) if rules.coverage else 1.0,
        "repetition": len(set(pairs)) / len(pairs) if pairs else 1.0,
        "added_style": 1 / (1 + len(checks["added_style"].found)),
        "length": min(1.0, length),
    }
    value: float = sum(parts[name] * weight for name, weight in weights.items()) / sum(weights.values())
    if any(one.hard and not one.passed for one in checks.values()):
        value = min(value, CAP)
    return round(value, 4), {name: round(part, 4) for name, part in parts.items()}
