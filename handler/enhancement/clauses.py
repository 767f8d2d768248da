"""Splits text into clauses and words, outside regions that stay whole. Pure; knows no word list."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: start and end of a part of a text
Region = tuple[int, int]

#: scripts written without spaces, in which every character ends a word: kana, CJK, full-width forms
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
#: punctuation after which no space is written
_MARKS = "，、；：。！？"
_WORD = re.compile(rf"(?:[{_UNSPACED}]|[^\s{_UNSPACED}{_MARKS}]+)[{_MARKS}]*|[{_MARKS}]+")
_CLAUSE_END = re.compile(
    # Possessive, and only from the first mark of a run, so that ten thousand marks take linear time.
    r"(?<![,;:.!?…])[,;:.!?…]++[\"'”’)\]]*+(?:\s+|$)|[，、；：。！？]++\s*|\n\s*"
)
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


def split(text: str, regions: Sequence[Region] = ()) -> tuple[Clause, ...]:
    """Split at clause ends outside the regions; the clauses joined are the text."""
    clauses: list[Clause] = []
    start = 0
    for found in _CLAUSE_END.finditer(text):
        if not _inside(found.start(), regions) and text[start : found.start()].strip():
            clauses.append(Clause(start, found.end(), text[start : found.end()]))
            start = found.end()
    if text[start:]:
        clauses.append(Clause(start, len(text), text[start:]))
    return tuple(clauses)


def join(clauses: Iterable[Clause]) -> str:
    """Clauses as one text, without the separator of the last."""
    return "".join(clause.text for clause in clauses).rstrip(SEPARATORS)


def separator(text: str) -> str:
    """The separator to write between a text and a clause that is added to it."""
    if text.rstrip().endswith(tuple(SENTENCE_END + SEPARATORS)):
        return "" if text[-1].isspace() else " "
    return ", "


def concatenate(texts: Iterable[str]) -> str:
    """One text whose clauses are the given texts; empty ones are left out."""
    whole = ""
    for text in texts:
        whole += (separator(whole) if whole and text else "") + text
    return whole


def one_line(text: str) -> str:
    """The lines of a text as clauses of one line."""
    return concatenate(" ".join(line.split()) for line in text.splitlines())


def words(text: str, regions: Sequence[Region] = ()) -> tuple[Region, ...]:
    """Start and end of each word; words that a region touches are one with it."""
    found = [match.span() for match in _WORD.finditer(text)]
    merged: list[Region] = []
    for start, end in found:
        if merged and any(low < merged[-1][1] and start < high for low, high in regions):
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return tuple(merged)


def overlaps(region: Region, others: Iterable[Region]) -> bool:
    """Whether a region has a character in common with another."""
    return any(start < region[1] and region[0] < end for start, end in others)


def _inside(position: int, regions: Sequence[Region]) -> bool:
    return any(start <= position < end for start, end in regions)
