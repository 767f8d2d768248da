"""Makes a draft, a prompt that is not judged yet: from the model's answer, or from the user's prompt alone. Pure."""

from dataclasses import dataclass, replace
from functools import partial

from handler.api.enhance import Repair, Trimmed
from handler.engine.stream import FinishReason
from handler.enhancement import budget, vocabulary
from handler.enhancement.brief import UNLIMITED, Brief
from handler.enhancement.budget import Fitted, Ranking
from handler.enhancement.clauses import SENTENCE_END, join, split
from handler.enhancement.clean import clean
from handler.enhancement.pack import Fault
from handler.enhancement.repair import repaired, without_repetitions
from handler.enhancement.scripts import foreign, speaks
from handler.enhancement.spans import regions, unbroken


@dataclass(frozen=True, slots=True)
class Draft:
    """A prompt, and what was changed to get it."""

    text: str
    trimmed: tuple[Trimmed, ...] = ()
    repairs: tuple[Repair, ...] = ()
    #: it ends where a clause does
    whole: bool = True


def draft(brief: Brief, answer: str, finish_reason: FinishReason) -> Draft | Fault:
    """Make a prompt of an answer, or say why there is none in it.

    No fault is looked for in an answer to the caller's own messages.
    """
    text, repairs, whole = answer, tuple[Repair, ...](), finish_reason == "stop"
    if brief.by_pack:
        text, fault = clean(answer, brief.prompt, brief.words)
        if fault is not None:
            return fault
    if not whole and brief.fit:
        text, whole = _without_unfinished_clause(brief, text)
    if brief.by_pack and brief.language is not None and foreign(text, brief.prompt, brief.language, brief.words):
        return "language"
    if brief.repair:
        text, repairs = repaired(brief, text)
    made = _fitted(brief, text)
    if brief.by_pack and not made.text:
        return "empty"
    return replace(made, repairs=repairs, whole=whole)


def over_budget(brief: Brief) -> Draft:
    """The user's own text, trimmed, as the budget has no room for anything else. Empty where not one word fits."""
    return _draft_of(budget.fit(brief.prompt, brief.limit, ranking(brief)))


def composed(brief: Brief) -> Draft | None:
    """The user's prompt with the pack's clauses, as many as fit; None where the pack has none in its language."""
    if brief.found is None or not brief.by_pack or not brief.found.entry.compose:
        return None
    if not speaks(brief.prompt, brief.found.entry.compose_language, brief.words):
        return None
    made = _appended(brief, ", ".join(brief.found.entry.compose))
    return made if made.text else None


def ranking(brief: Brief) -> Ranking:
    """The order in which a brief's clauses are kept."""
    return Ranking(
        regions=partial(regions, spans=brief.spans),
        unbroken=partial(unbroken, spans=brief.spans),
        kind=partial(vocabulary.kind_of, lexicon=brief.words.lexicon, order=brief.rules.drop_order),
        order=brief.rules.drop_order,
        own=frozenset(brief.stems(brief.prompt)),
        stems=brief.stems,
    )


def _fitted(brief: Brief, text: str) -> Draft:
    if brief.mode == "append":
        return _appended(brief, text)
    return _draft_of(budget.fit(text, brief.limit, ranking(brief))) if brief.fit else Draft(text)


def _appended(brief: Brief, text: str) -> Draft:
    """The user's prompt, byte for byte where it fits, followed by what a text adds to it."""
    limit = brief.limit if brief.fit else UNLIMITED
    if not limit.fits(brief.prompt):
        return over_budget(brief)
    added = without_repetitions(brief, text, brief.prompt)
    return _draft_of(budget.append(brief.prompt, added, limit, ranking(brief)))


def _without_unfinished_clause(brief: Brief, text: str) -> tuple[str, bool]:
    """The text without a last clause that the model did not finish, and whether it ends where a clause does."""
    if text.rstrip().endswith(tuple(SENTENCE_END)):
        return text, True
    finished = split(text, unbroken(text, brief.spans))[:-1]
    return (join(finished), True) if finished else (text, False)


def _draft_of(fitted: Fitted) -> Draft:
    return Draft(fitted.text, fitted.trimmed)
