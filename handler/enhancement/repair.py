"""Puts the user's words back into an answer that lost or contradicted them. Pure; asks no model."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from handler.api.enhance import Repair
from handler.enhancement import vocabulary
from handler.enhancement.amend import amended
from handler.enhancement.brief import Brief
from handler.enhancement.clauses import SENTENCE_END, SEPARATORS, Clause, concatenate, join, split
from handler.enhancement.parting import is_mark, parted
from handler.enhancement.regions import Region, Regions
from handler.enhancement.spans import missing, reversed_in, unbroken, without_moved
from handler.pool import check_stop

#: clauses of an answer that are compared with one of the user's for each of its words, at most
MAX_COMPARED = 8
#: clauses without a content word that are searched in a known text, at most; a text has a few of them
MAX_SEARCHES = 1000


@dataclass(frozen=True, slots=True)
class _Insertion:
    """Clauses of the user's that an answer lacks."""

    #: in the prompt
    start: int
    text: str


def repaired(brief: Brief, text: str) -> tuple[str, tuple[Repair, ...]]:
    """The text with its repairs.

    Clauses that contradict one of the user's negations are removed. A lost count or colour is written before its noun,
    where the text has that. For other spans that are missing, and for words of the user's that were removed, the
    user's own clauses are inserted: the prompt's first one in front, any other one behind the clause that is about the
    same as its neighbour in the prompt.
    """
    text, removed = _without_contradictions(brief, without_moved(text, brief.spans))
    repairs = [Repair(kind="removed", text=body) for body in removed]
    if brief.mode == "rewrite":
        text, amendments = amended(brief, text)
        repairs += amendments
    for _ in range(2):  # the clause that an insertion replaces may have had other words of the user's
        if insertions := _insertions(brief, text, removed):
            text, replaced = _inserted(brief, text, insertions)
            repairs += [Repair(kind="removed", text=body) for body in replaced]
            repairs += [Repair(kind="inserted", text=one.text) for one in insertions]
            removed += replaced
    if brief.mode == "rewrite":
        text, marks = parted(brief, text, anew=bool(repairs))
        repairs += marks
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


def _insertions(brief: Brief, text: str, removed: list[str]) -> list[_Insertion]:
    """The user's clauses that a text lacks, in the order of the prompt."""
    present = text if brief.mode == "rewrite" else f"{brief.prompt}\n{text}"
    own = split(brief.prompt, unbroken(brief.prompt, brief.spans))
    lost = brief.stems(" ".join(removed)) - brief.stems(present)
    insertions = {(one.start, join([one]).strip()) for one in own if lost & brief.stems(one.text)}
    prompt, ends = brief.spans.searched(brief.prompt), [one.end for one in own]
    for span in missing(present, brief.spans):
        if is_mark(span.text):  # `parted` knows its place
            continue
        place = span.region or prompt.place(span)
        around = _touched(own, ends, place)
        insertions.add((around[0].start, join(around).strip()) if around else (len(brief.prompt), span.text))
    # What a longer insertion holds is not inserted a second time.
    found: list[_Insertion] = []
    behind = -1
    for start, inserted in sorted(insertions, key=lambda one: (one[0], -len(one[1]))):
        check_stop()
        if start == len(brief.prompt) or start + len(inserted) > behind:
            found.append(_Insertion(start, inserted))
            behind = max(behind, start + len(inserted)) if start < len(brief.prompt) else behind
    return found


def _inserted(brief: Brief, text: str, insertions: Sequence[_Insertion]) -> tuple[str, list[str]]:
    """A text with the user's clauses where they read well, and the clauses that they replace."""
    text = without_repetitions(brief, text, " ".join(one.text for one in insertions))
    own = split(brief.prompt, unbroken(brief.prompt, brief.spans))
    clauses = split(text, unbroken(text, brief.spans))
    having = _clauses_of_stems(brief, clauses)
    starts = [clause.start for clause in own]
    front: list[str] = []
    behind: dict[int, list[str]] = {}
    place, reach = front, 0
    for one in insertions:
        check_stop()
        index = bisect_left(starts, one.start) - 1
        before = own[max(0, index)] if own else None
        if brief.mode == "extend" or before is None or index < 0 or not clauses:  # the prompt is before all of it
            place = front
        elif not reach or before.start >= reach:  # else it follows the clause that was inserted before it
            place = behind.setdefault(_most_like(brief.stems(before.text), having), [])
        place.append(one.text)
        reach = one.start + len(one.text)
    replaced: list[str] = []
    if front and clauses and _is_of_the_same(brief.stems(front[0]), brief.stems(clauses[0].text)):
        # The user's own words about the subject stand for the answer's, so that there are not two of it.
        replaced.append(clauses[0].body)
        clauses = clauses[1:]
        behind = {index - 1: texts for index, texts in behind.items()}
    front += behind.pop(-1, [])
    parts = [_with_behind(clause, behind.get(index, ())) for index, clause in enumerate(clauses)]
    return concatenate([*front, "".join(parts)]), replaced


def _clauses_of_stems(brief: Brief, clauses: Sequence[Clause]) -> Mapping[str, Sequence[int]]:
    """The first clauses that have each stem, by index."""
    having: dict[str, list[int]] = {}
    for index, clause in enumerate(clauses):
        for stem in brief.stems(clause.text):
            indexes = having.setdefault(stem, [])
            if len(indexes) < MAX_COMPARED:
                indexes.append(index)
    return having


def _most_like(wanted: Set[str], having: Mapping[str, Sequence[int]]) -> int:
    """The clause that has most of the wanted stems; the first one where none has any."""
    common = Counter(index for stem in wanted for index in having.get(stem, ()))
    return max(common, key=lambda index: (common[index], -index), default=0)


def _is_of_the_same(own: Set[str], other: Set[str]) -> bool:
    """Whether the first clauses of prompt and answer are about the same, and the answer's says little more."""
    return bool(own & other) and (2 * len(own & other) >= len(other) or len(other) <= 2 * len(own))


def _with_behind(clause: Clause, inserted: Sequence[str]) -> str:
    """A clause with others before the mark at its end."""
    if not inserted:
        return clause.text
    body = clause.text.rstrip().rstrip(SEPARATORS + SENTENCE_END)
    return ", ".join((*filter(None, (body,)), *inserted)) + clause.text[len(body) :]


def _touched(clauses: Sequence[Clause], ends: Sequence[int], region: Region | None) -> Sequence[Clause]:
    """The clauses that a region has a part of; `ends` are those of the clauses."""
    if region is None:
        return ()
    start, end = region
    return clauses[bisect_right(ends, start) : bisect_left(ends, end) + 1]
