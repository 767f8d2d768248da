"""The model's figures of an answer in the terms of the rules: a fault, parts of the score. Pure; asks nothing.

`likelihood` has the figures' definitions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp

from handler.api.enhance import Judged, JudgedBy
from handler.engine.spent import NO_TOKENS
from handler.engine.stream import Usage
from handler.enhancement.brief import Brief
from handler.enhancement.contexts import Judge
from handler.enhancement.pack import Fault

#: `exp` of no more than this is taken: beyond it a part is 0 or 1 to four digits
_STEEP = 30.0


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the model says of one answer, and what asking it cost."""

    #: None where the answer begins with the prompt, or where the contexts tell nothing of the prompt
    kept: float | None = None
    #: None where the answer does not begin with the prompt, or adds nothing to it
    described: float | None = None
    #: the code of the error for which there are no figures, so that the rules judged alone
    error: str | None = None
    usage: Usage = NO_TOKENS
    #: from the question to the figures
    seconds: float = 0.0


def judged_by(brief: Brief) -> JudgedBy:
    """What judges a brief's answers: the rules where the answer is to be in another language than the prompt, as the
    figures are not known to compare languages.
    """
    return "rules" if brief.translated else _entrys(brief)


def contexts(brief: Brief) -> Judge | None:
    """The contexts in which the model judges; None where the rules alone do."""
    return None if brief.found is None or judged_by(brief) == "rules" else brief.found.loaded.pack.judge


def fault(opinion: Opinion, judge: Judge) -> Fault | None:
    """The fault that the figures show: talk, or another subject; None where they show none."""
    if opinion.described is not None and opinion.described < judge.least_described:
        return "question"
    if opinion.kept is not None and opinion.kept < judge.least_kept:
        return "off_subject"
    return None


def as_parts(opinion: Opinion, judge: Judge) -> Mapping[str, float]:
    """The figures as parts of a score, from 0 to 1.

    `meaning` is the share of the prompt's meaning that is kept; `description` is 0.5 at the pack's threshold, 0.73 one
    nat above it.
    """
    found = dict[str, float]()
    if opinion.kept is not None:
        found["meaning"] = max(0.0, min(1.0, opinion.kept))
    if opinion.described is not None:
        found["description"] = _logistic(opinion.described - judge.least_described)
    return found


def told(brief: Brief, opinion: Opinion | None) -> Judged | None:
    """What a reply says of the judging; None where the entry has the rules judge."""
    if _entrys(brief) == "rules":
        return None
    if opinion is None or opinion.error is not None:
        return Judged(by="rules", error=None if opinion is None else opinion.error)
    return Judged(by=judged_by(brief), kept=_rounded(opinion.kept), described=_rounded(opinion.described))


def _entrys(brief: Brief) -> JudgedBy:
    """What the entry names; answers to the caller's own messages are not judged."""
    return brief.found.entry.judge if brief.found is not None and brief.by_pack else "rules"


def _logistic(nats: float) -> float:
    return 1 / (1 + exp(-max(-_STEEP, min(_STEEP, nats))))


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 4)
