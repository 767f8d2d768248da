"""Makes a draft, a prompt that is not judged yet: from the model's answer, or from the user's prompt alone. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

from handler.api.enhance import JudgedBy, Repair, Trimmed
from handler.engine.stream import FinishReason
from handler.enhancement import budget, vocabulary
from handler.enhancement.begun import up_to_repeated_clause
from handler.enhancement.brief import MIN_ROOM, UNLIMITED, Brief
from handler.enhancement.budget import Fitted
from handler.enhancement.choice import naming_the_subject
from handler.enhancement.clauses import SENTENCE_END, SEPARATORS, concatenate, join, separator, split
from handler.enhancement.clean import clean
from handler.enhancement.limits import Ranking
from handler.enhancement.pack import Fault, Kind
from handler.enhancement.repair import repaired, without_repetitions
from handler.enhancement.scripts import speaks
from handler.enhancement.spans import regions, unbroken
from handler.enhancement.verdict import verdict

#: every word list of kinds
_KINDS: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind != "subject")


@dataclass(frozen=True, slots=True)
class Draft:
    """A prompt, and what was changed to get it."""

    text: str
    trimmed: tuple[Trimmed, ...] = ()
    repairs: tuple[Repair, ...] = ()
    #: it ends where a clause does
    whole: bool = True
    #: the user's prompt leaves no room for anything else
    full: bool = False
    #: the text before it was repaired and fitted, which has no fault; None where no fault was looked for
    answer: str | None = None


def draft(brief: Brief, answer: str, finish_reason: FinishReason, *, by: JudgedBy = "rules") -> Draft | Fault:
    """Make a prompt of an answer, or say why there is none in it.

    In mode extend the answer is the text after the prompt. No fault is looked for in an answer to the caller's own
    messages. `by`: see `verdict`.
    """
    extends = brief.mode == "extend"
    text, repairs, whole = answer, tuple[Repair, ...](), finish_reason == "stop"
    if brief.by_pack:
        text = clean(answer, brief.prompt, brief.words)
        if extends:
            text, ended = _continuation(brief, text)
            whole = whole or ended
        whole_text = _joined(brief, text) if extends else text
        if (fault := verdict(brief, whole_text, begun=extends, by=by)) is not None:
            return fault
    elif extends:
        text, ended = _continuation(brief, text)
        whole = whole or ended
    if not whole and brief.fit:
        text, whole = _without_unfinished_clause(brief, text)
    said = None if not brief.by_pack else _joined(brief, text) if extends else text
    if brief.repair:
        text, repairs = repaired(brief, text)
    if not extends:
        made = _draft_of(budget.fit(text, brief.limit, ranking(brief))) if brief.fit else Draft(text)
        if brief.by_pack and not made.text:
            return "empty"
    else:
        made = _appended(brief, text)
        if brief.by_pack and made.text == brief.prompt and not made.trimmed:
            return "unchanged"
    return replace(made, repairs=repairs, whole=whole, answer=said)


def _continuation(brief: Brief, text: str) -> tuple[str, bool]:
    """The text that goes on with the prompt, up to a clause that comes again, and whether it was cut there."""
    text = text.strip().lstrip(SEPARATORS)
    return up_to_repeated_clause(text, unbroken(text, brief.spans))


def as_it_is(brief: Brief, text: str) -> Draft:
    """A text that is no prompt, with nothing changed; in mode extend behind the prompt."""
    return Draft(_joined(brief, text) if brief.mode == "extend" else text)


def without_room(brief: Brief) -> Draft | None:
    """The user's own text, trimmed where it is over the budget; None where the budget has room for more."""
    if not brief.fit:
        return None
    if not brief.limit.fits(brief.prompt):
        made = over_budget(brief)
        return made if made.text else None
    full = brief.mode == "extend" and brief.room is not None and brief.room < MIN_ROOM
    return Draft(brief.prompt, full=True) if full else None


def over_budget(brief: Brief) -> Draft:
    """The user's own text, trimmed, as the budget has no room for anything else. Empty where not one word fits."""
    # Every word of it is the user's own, and the user's order says what matters.
    by_place = replace(ranking(brief), own=frozenset(), order=())
    return _draft_of(budget.fit(brief.prompt, brief.limit, by_place))


def composed(brief: Brief) -> Draft | None:
    """The user's prompt with the pack's clauses, as many as fit; None where the pack has none in its language.

    A clause on what the prompt speaks of by itself, such as its light or camera, could contradict it, and is left out.
    """
    if brief.found is None or not brief.by_pack or not brief.found.entry.compose:
        return None
    if not speaks(brief.prompt, brief.found.entry.compose_language, brief.words):
        return None
    said = _kinds(brief, brief.prompt).keys()
    fitting = (one for one in brief.found.entry.compose if said.isdisjoint(_kinds(brief, one)))
    made = _appended(brief, ", ".join(fitting))
    return made if made.text and (made.trimmed or made.text != brief.prompt) else None


def ranking(brief: Brief) -> Ranking:
    """The order in which a brief's clauses are kept."""
    lexicon, order, wanted = brief.words.lexicon, brief.rules.drop_order, brief.rules.coverage
    kinds = tuple(dict.fromkeys((*order, *wanted)))
    has_own_words = partial(
        vocabulary.has_own_words, lexicon=lexicon, kinds=kinds, stopwords=brief.words.without_content
    )
    subject = naming_the_subject(brief.prompt, unbroken(brief.prompt, brief.spans), has_own_words)
    return Ranking(
        regions=partial(regions, spans=brief.spans),
        unbroken=partial(unbroken, spans=brief.spans),
        kinds=partial(vocabulary.kinds_in, lexicon=lexicon, kinds=kinds),
        has_own_words=has_own_words,
        order=order,
        wanted=wanted,
        own=frozenset(brief.stems(brief.prompt)),
        subject=frozenset(brief.stems(subject)),
        stems=brief.stems,
    )


def _kinds(brief: Brief, text: str) -> Mapping[Kind, int]:
    return vocabulary.kinds_in(text, brief.words.lexicon, _KINDS)


def _joined(brief: Brief, added: str) -> str:
    """The user's prompt with a text after it; the prompt alone where the text is empty."""
    return f"{brief.head}{separator(brief.head)}{added}" if added.strip() else brief.prompt


def _appended(brief: Brief, text: str) -> Draft:
    """The user's prompt to the letter where it fits, followed by what a text adds to it; else trimmed."""
    limit = brief.limit if brief.fit else UNLIMITED
    if not limit.fits(brief.prompt):
        return over_budget(brief)
    added = _style_first(brief, without_repetitions(brief, text, brief.prompt))
    made = _draft_of(budget.append(brief.head, added, limit, ranking(brief)))
    return replace(made, text=brief.prompt) if made.text == brief.head else made


def _style_first(brief: Brief, text: str) -> str:
    """A list of phrases with those that name a style in front; sentences keep their order."""
    clauses = split(text, unbroken(text, brief.spans))
    if any(clause.text.rstrip().endswith(tuple(SENTENCE_END)) for clause in clauses[:-1]):
        return text
    kinds = [vocabulary.kind_of(clause.text, brief.words.lexicon, brief.rules.drop_order) for clause in clauses]
    first = [clause.body for clause, kind in zip(clauses, kinds, strict=True) if kind == "style"]
    if not first or all(kind == "style" for kind in kinds[: len(first)]):
        return text
    return concatenate([*first, *(clause.body for clause, kind in zip(clauses, kinds, strict=True) if kind != "style")])


def _without_unfinished_clause(brief: Brief, text: str) -> tuple[str, bool]:
    """The text without a last clause that the model did not finish, and whether it ends where a clause does."""
    if text.rstrip().endswith(tuple(SENTENCE_END)):
        return text, True
    finished = split(text, unbroken(text, brief.spans))[:-1]
    return (join(finished), True) if finished else (text, False)


def _draft_of(fitted: Fitted) -> Draft:
    return Draft(fitted.text, fitted.trimmed)
