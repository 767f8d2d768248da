"""Puts the user's words back into an answer that lost or contradicted them. Pure; asks no model."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from handler.api.enhance import Repair
from handler.enhancement import vocabulary
from handler.enhancement.brief import Brief
from handler.enhancement.clauses import Clause, concatenate, join, split
from handler.enhancement.regions import Region, Regions
from handler.enhancement.spans import missing, reversed_in, unbroken
from handler.pool import check_stop

#: clauses without a content word that are searched in a known text, at most; a text has a few of them
MAX_SEARCHES = 1000


def repaired(brief: Brief, text: str) -> tuple[str, tuple[Repair, ...]]:
    """The text with its repairs.

    Clauses that contradict one of the user's negations are removed. The user's own clauses are inserted in front for
    spans that are missing, and for words of the user's that were removed.
    """
    text, removed = _without_contradictions(brief, text)
    inserted = _insertions(brief, text, removed)
    repairs = [Repair(kind="removed", text=body) for body in removed]
    if inserted:
        text = concatenate([*inserted, without_repetitions(brief, text, " ".join(inserted))])
        repairs += [Repair(kind="inserted", text=clause) for clause in inserted]
    return text, tuple(repairs)


def without_repetitions(brief: Brief, text: str, known: str) -> str:
    """A text without the clauses that only repeat what a known text has."""
    known_stems = vocabulary.stems(known).keys()
    clauses = split(text, unbroken(text, brief.spans))
    searched = brief.spans.searched(text)
    needed = [place for span in missing(known, brief.spans) for place in searched.places(span)]
    ends = [clause.end for clause in clauses]
    bringing = {one.start for place in needed if len(touched := _touched(clauses, ends, place)) == 1 for one in touched}
    repeated: dict[str, bool] = {}

    def repeats(body: str) -> bool:
        if body not in repeated:
            repeated[body] = len(repeated) < MAX_SEARCHES and body in known
        return repeated[body]

    def adds(clause: Clause) -> bool:
        check_stop()
        own = vocabulary.stems(clause.text).keys()
        return clause.start in bringing or not own <= known_stems or (not own and not repeats(clause.body))

    return join(clause for clause in clauses if adds(clause))


def _without_contradictions(brief: Brief, text: str) -> tuple[str, list[str]]:
    """The text without the clauses that name what the user negated, and those clauses."""
    places = Regions(reversed_in(text, brief.spans))
    kept: list[Clause] = []
    removed: list[str] = []
    for clause in split(text, unbroken(text, brief.spans)):
        if places.overlap((clause.start, clause.end)):
            removed.append(clause.body)
        else:
            kept.append(clause)
    return (join(kept), removed) if removed else (text, removed)


def _insertions(brief: Brief, text: str, removed: list[str]) -> list[str]:
    """The user's clauses that a text lacks, in the order of the prompt."""
    present = text if brief.mode == "rewrite" else f"{brief.prompt}\n{text}"
    own = split(brief.prompt, unbroken(brief.prompt, brief.spans))
    lost = brief.stems(" ".join(removed)) - brief.stems(present)
    insertions = {(one.start, join([one]).strip()) for one in own if lost & brief.stems(one.text)}
    prompt, ends = brief.spans.searched(brief.prompt), [one.end for one in own]
    for span in missing(present, brief.spans):
        around = _touched(own, ends, prompt.place(span))
        insertions.add((around[0].start, join(around).strip()) if around else (len(brief.prompt), span.text))
    return [text for _, text in sorted(insertions)]


def _touched(clauses: Sequence[Clause], ends: Sequence[int], region: Region | None) -> Sequence[Clause]:
    """The clauses that a region has a part of; `ends` are those of the clauses."""
    if region is None:
        return ()
    start, end = region
    return clauses[bisect_right(ends, start) : bisect_left(ends, end) + 1]
