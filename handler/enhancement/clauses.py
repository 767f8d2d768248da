"""Text as clauses and words, with the places where neither may be cut. Pure; knows no word by name."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: start and end of text that stays whole
Region = tuple[int, int]

#: scripts written without spaces, in which every character ends a word: kana, CJK, full-width forms
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
#: marks after which no space is written
_MARKS = "，、；：。！？"
_WORD = re.compile(rf"(?:[{_UNSPACED}]|[^\s{_UNSPACED}{_MARKS}]+)[{_MARKS}]*|[{_MARKS}]+")
_CLAUSE_END = re.compile(
    # possessive, and never from within a run: a run of ten thousand marks costs no more than its length
    r"(?<![,;:.!?…])[,;:.!?…]++[\"'”’)\]]*+(?:\s+|$)|[，、；：。！？]++\s*|\n\s*"
)
LOOSE_END = " \t\r\n,;:，、；："
#: what a text may end with and still be whole; a letter or digit too, but that only its writer knows
SENTENCE_END = ".!?…。！？"


@dataclass(frozen=True, slots=True)
class Clause:
    """A stretch of text up to and with its separator."""

    start: int
    end: int
    text: str

    @property
    def body(self) -> str:
        """Without the separator."""
        return self.text.strip().rstrip(LOOSE_END + SENTENCE_END)


def split(text: str, regions: Sequence[Region] = ()) -> tuple[Clause, ...]:
    """Cut at clause ends outside the regions; joined again, the clauses are the text."""
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
    return "".join(clause.text for clause in clauses).rstrip(LOOSE_END)


def joint(head: str) -> str:
    """What to put between a text and what is added to it."""
    closed = head.rstrip().endswith(tuple(SENTENCE_END + LOOSE_END))
    if closed:
        return "" if head[-1].isspace() else " "
    return ", "


def chain(pieces: Iterable[str]) -> str:
    """Texts one behind the other, as clauses of one text; empty ones leave no trace."""
    whole = ""
    for piece in pieces:
        whole += (joint(whole) if whole and piece else "") + piece
    return whole


def one_line(text: str) -> str:
    """Lines as clauses of one line."""
    return chain(" ".join(line.split()) for line in text.splitlines())


def words(text: str, regions: Sequence[Region] = ()) -> tuple[Region, ...]:
    """Where words begin and end; a region and the words it touches are one."""
    found = [match.span() for match in _WORD.finditer(text)]
    merged: list[Region] = []
    for start, end in found:
        if merged and any(low < merged[-1][1] and start < high for low, high in regions):
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return tuple(merged)


def overlaps(region: Region, others: Iterable[Region]) -> bool:
    """True where a region shares a character with another."""
    return any(start < region[1] and region[0] < end for start, end in others)


def _inside(position: int, regions: Sequence[Region]) -> bool:
    return any(start <= position < end for start, end in regions)
