"""Puts syntax that parts texts back into an answer that lost it: BREAK, sections, time marks, line ends. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice

from handler.api.enhance import Repair
from handler.enhancement.brief import Brief
from handler.enhancement.clauses import SEPARATORS, split
from handler.enhancement.phrases import folded
from handler.enhancement.regions import Region, Regions
from handler.enhancement.spans import unbroken
from handler.enhancement.syntax import encoded, parse
from handler.enhancement.vocabulary import words_of
from handler.pool import check_stop

_LINE = "\n"
#: Marks of a prompt, at most; a text of more keeps those that it has. Each is searched in all of the answer.
MAX_MARKS = 128


@dataclass(frozen=True, slots=True)
class _Part:
    """A mark and the text behind it, up to the next mark."""

    mark: str
    text: str


@dataclass(frozen=True, slots=True)
class _Word:
    start: int
    end: int
    stem: str


def parted(brief: Brief, text: str, *, anew: bool) -> tuple[str, list[Repair]]:
    """The text with all marks that part the user's texts, each in front of the words that it is in front of there.

    A part that the answer has no word of comes back with its mark. Of a text in another language the clauses are
    shared out among the marks. `anew`: marks that are there may not be where they were, and get their places, too.
    """
    marks = list(islice(_marks(brief.prompt), MAX_MARKS + 1))
    if not 0 < len(marks) <= MAX_MARKS:
        return text, []
    wanted = Counter(brief.prompt[start:end] for start, end in marks)
    lost = wanted - Counter(text[start:end] for start, end in _marks(text))
    if not lost and not anew:
        return text, []
    bare = _without(text, wanted)
    ends = [*(start for start, _ in marks[1:]), len(brief.prompt)]
    parts = [
        _Part(brief.prompt[start:end], brief.prompt[end:behind])
        for (start, end), behind in zip(marks, ends, strict=True)
    ]
    places = (
        _shared_out(bare, len(parts)) if brief.translated else _places(brief, bare, brief.prompt[: marks[0][0]], parts)
    )
    repairs = [Repair(kind="inserted", text=mark) for mark in lost.elements() if mark != _LINE]
    return _written(brief, bare, parts, places), repairs


def is_mark(text: str) -> bool:
    """Whether a text is one piece of syntax that parts texts."""
    elements = parse(text).elements
    return len(elements) == 1 and elements[0].is_positional and elements[0].region == (0, len(text))


def _marks(text: str) -> Iterator[Region]:
    """The marks of a text, in order; a line end with the blank lines behind it is one."""
    elements = parse(text).elements
    found = [one.region for one in elements if one.is_positional]
    inside = Regions((one.start + 1, one.end - 1) for one in elements)
    first, last = len(text) - len(text.lstrip()), len(text.rstrip())
    behind = 0
    while (start := text.find(_LINE, behind)) >= 0:
        check_stop()
        behind = start + 1
        if first < start < last and not inside.contain(start):
            found.append((start, behind))
    # A line end beside another mark parts nothing more.
    behind, is_beside = 0, True
    for start, end in sorted(found):
        check_stop()
        is_beside = is_beside and not text[behind:start].strip()
        if text[start:end] != _LINE or not is_beside or not behind:
            yield start, end
            is_beside = True
        behind = end


def _without(text: str, marks: Counter[str]) -> str:
    """A text without marks that are among these."""
    parts: list[str] = []
    behind = 0
    for start, end in _marks(text):
        if text[start:end] in marks:
            parts.append(text[behind:start].rstrip(SEPARATORS))
            behind = end
    parts.append(text[behind:])
    return ", ".join(part.strip(SEPARATORS) for part in parts if part.strip(SEPARATORS))


def _shared_out(text: str, marks: int) -> list[Region | None]:
    clauses = split(text)
    shares = [round(index * len(clauses) / (marks + 1)) for index in range(1, marks + 1)]
    return [(clauses[at].start, clauses[at].start) if at < len(clauses) else None for at in shares]


def _places(brief: Brief, text: str, first: str, parts: Sequence[_Part]) -> list[Region | None]:
    """By part: what its mark takes the place of in a text; None where the text has no word of the part."""
    words = [_Word(start, end, stem) for start, end, stem in words_of(text)]
    starts = [clause.start for clause in split(text)]
    held = unbroken(text, brief.spans)
    known: Set[str] = brief.stems(first)
    before = known
    at = next((index for index, one in enumerate(words) if one.stem in known), -1) + 1
    behind = words[at - 1].end if at else 0
    places: list[Region | None] = []
    for part in parts:
        check_stop()
        inside = brief.stems(encoded(part.mark))  # of a time mark with its own text
        stems = inside | brief.stems(part.text)
        own = (stems - known) or stems
        hit = next((index for index in range(at, len(words)) if words[index].stem in own), None)
        known = known | stems
        if hit is None:
            places.append(None)
            continue
        behind = max([behind, *(one.end for one in words[at:hit] if one.stem in before)])
        place = _place(brief, text, words, hit, behind, starts, held)
        if inside:  # the user's own words stand for the answer's
            place = place[0], next((start for start in starts if start > words[hit].start), len(text))
            hit = max((index for index, one in enumerate(words) if one.start < place[1]), default=hit)
        places.append(place)
        before, at, behind = stems, hit + 1, max(behind, words[hit].end)
    return places


def _place(
    brief: Brief,
    text: str,
    words: Sequence[_Word],
    hit: int,
    behind: int,
    starts: Sequence[int],
    held: Sequence[Region],
) -> Region:
    """Where the clause of a word begins, or the words that lead to it, behind a position."""
    place = next((start for start, end in held if start <= words[hit].start < end), words[hit].start)
    clause = max((start for start in starts if start <= place), default=0)
    if clause >= behind:
        return clause, clause
    index = hit
    while (
        index
        and words[index - 1].start >= behind
        and folded(text[words[index - 1].start : words[index - 1].end]) in (brief.words.small)
    ):
        index -= 1
        place = min(place, words[index].start)
    leading = folded(text[words[index].start : words[index].end])
    is_and = index < hit and leading in brief.words.protect.negation.ands
    return place, words[index].end if is_and else place


def _written(brief: Brief, text: str, parts: Sequence[_Part], places: Sequence[Region | None]) -> str:
    pieces: list[str] = []
    behind = 0
    for part, place in zip(parts, places, strict=True):
        if place is not None and place[0] >= behind:
            _add(pieces, text[behind : place[0]].strip())
            behind = place[1]
        elif not brief.translated:
            ahead = min((one[0] for one in places if one is not None and one[0] >= behind), default=len(text))
            _add(pieces, text[behind:ahead].strip())
            behind = ahead
        _add(pieces, part.mark)
        if place is None and not brief.translated and brief.stems(part.text):
            _add(pieces, part.text.strip())
    _add(pieces, text[behind:].strip())
    return "".join(pieces)


def _add(pieces: list[str], piece: str) -> None:
    """Put a piece behind the others, with a space between them that no line end needs."""
    if not piece:
        return
    if pieces:
        pieces[-1] = pieces[-1].rstrip(SEPARATORS) or pieces[-1]
        if piece != _LINE and pieces[-1] != _LINE:
            pieces.append(" ")
    pieces.append(piece)
