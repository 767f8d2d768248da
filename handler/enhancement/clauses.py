"""Splits text into clauses and words, outside regions that stay whole. Pure; knows no word list."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from handler.enhancement.regions import Region, Regions
from handler.enhancement.syntax import parse
from handler.pool import check_stop

#: scripts written without spaces, in which every character ends a word: kana, CJK, full-width forms
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
#: punctuation after which no space is written
_MARKS = "，、；：。！？"
_WORD = re.compile(rf"(?:[{_UNSPACED}]|[^\s{_UNSPACED}{_MARKS}]++)[{_MARKS}]*+|[{_MARKS}]++")
_CLAUSE_END = re.compile(
    # Possessive, and only from the first mark of a run, so that ten thousand marks take linear time.
    r"(?<![,;:.!?…])[,;:.!?…]++[\"'”’)\]]*+(?:\s++|$)|[，、；：。！？]++\s*+|\n\s*+"
)
#: what may follow on syntax that parts texts, and belongs to it
_AFTER_MARK = re.compile(r"[,;.:，、；。：]?+\s*+")
#: characters that are cut off the end of a text
SEPARATORS = " \t\r\n,;:，、；："
#: marks that end a sentence; a text without one at its end may be whole, too, which the text does not show
SENTENCE_END = ".!?…。！？"


@dataclass(frozen=True, slots=True)
class Clause:
    """Text up to a separator, which is part of it."""

    start: int
    end: int
    text: str

    @property
    def body(self) -> str:
        """The text without its separator."""
        return self.text.strip().rstrip(SEPARATORS + SENTENCE_END)


def split(text: str, regions: Iterable[Region] = ()) -> tuple[Clause, ...]:
    """Split at clause ends outside the regions; the clauses joined are the text.

    Syntax that parts texts, such as BREAK, is a clause of its own.
    """
    unbroken = Regions(regions)
    clauses: list[Clause] = []
    start = 0
    for body, end, parts in _ends(text):
        check_stop()
        if (parts or not unbroken.contain(body)) and text[start:body].strip():
            clauses.append(Clause(start, end, text[start:end]))
            start = end
    if text[start:]:
        clauses.append(Clause(start, len(text), text[start:]))
    return tuple(clauses)


def _ends(text: str) -> Iterator[tuple[int, int, bool]]:
    """In order: where the body of a clause may end, the end of its separator, and whether syntax parts texts there."""
    positional = [one for one in parse(text).elements if one.is_positional]
    behind = 0
    for one in positional:
        yield from ((*found.span(), False) for found in _CLAUSE_END.finditer(text, behind, one.start))
        marks = _AFTER_MARK.match(text, one.end)
        behind = one.end if marks is None else marks.end()
        yield one.start, one.start, True
        yield one.end, behind, True
    yield from ((*found.span(), False) for found in _CLAUSE_END.finditer(text, behind))


def join(clauses: Iterable[Clause]) -> str:
    """Clauses as one text, without the separator of the last."""
    return "".join(clause.text for clause in clauses).rstrip(SEPARATORS)


def separator(text: str) -> str:
    """The separator to write between a text and a clause that is added to it."""
    if text.rstrip().endswith(tuple(SENTENCE_END + SEPARATORS)):
        return "" if text[-1].isspace() or text[-1] in _MARKS else " "
    return ", "


def concatenate(texts: Iterable[str]) -> str:
    """One text whose clauses are the given texts; empty ones are left out."""
    parts: list[str] = []
    tail = ""  # from the last text on that holds more than white space
    for text in filter(None, texts):
        parts += (separator(tail), text) if parts else (text,)
        tail = text if text.strip() else tail + text
    return "".join(parts)


def one_line(text: str) -> str:
    """The lines of a text as clauses of one line."""
    return concatenate(" ".join(line.split()) for line in text.splitlines())


def words(
    text: str, regions: Iterable[Region] | Regions = (), start: int = 0, end: int | None = None
) -> tuple[Region, ...]:
    """Start and end of each word in a part of a text; words that a region touches are one with it."""
    whole = regions if isinstance(regions, Regions) else Regions(regions)
    merged: list[Region] = []
    for found in _WORD.finditer(text, start, len(text) if end is None else end):
        check_stop()
        first, last = found.span()
        if merged and whole.join(merged[-1][1], first):
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return tuple(merged)
