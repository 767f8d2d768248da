"""Puts the user's words back into an answer that lost or contradicted them. Pure; asks no model."""

from handler.api.enhance import Repair
from handler.enhancement import vocabulary
from handler.enhancement.brief import Brief
from handler.enhancement.clauses import Clause, concatenate, join, overlaps, split
from handler.enhancement.spans import missing, reversed_in, unbroken


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
    needed = missing(known, brief.spans)

    def adds(clause: Clause) -> bool:
        own = vocabulary.stems(clause.text).keys()
        has_span = any(span.pattern.search(clause.text) for span in needed)
        return has_span or not own <= known_stems or (not own and clause.body not in known)

    return join(clause for clause in split(text, unbroken(text, brief.spans)) if adds(clause))


def _without_contradictions(brief: Brief, text: str) -> tuple[str, list[str]]:
    """The text without the clauses that name what the user negated, and those clauses."""
    places = reversed_in(text, brief.spans, brief.prompt)
    kept: list[Clause] = []
    removed: list[str] = []
    for clause in split(text, unbroken(text, brief.spans)):
        if overlaps((clause.start, clause.end), places):
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
    for span in missing(present, brief.spans):
        found = span.pattern.search(brief.prompt)
        around = [] if found is None else [one for one in own if overlaps(found.span(), [(one.start, one.end)])]
        insertions.add((around[0].start, join(around).strip()) if around else (len(brief.prompt), span.text))
    return [text for _, text in sorted(insertions)]
