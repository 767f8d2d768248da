"""Takes words out of a clause and leaves its syntax whole. Pure; knows no tokenizer.

A word in brackets takes them along, with the weight: `(a red fox:1.2)` becomes `(a fox:1.2)`, never `(a fox`. Syntax of
which an encoder reads one of several texts is kept whole or dropped.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from handler.enhancement.clauses import words
from handler.enhancement.regions import Region, Regions
from handler.enhancement.syntax import parse
from handler.pool import check_stop

_SCALE = re.compile(r":\s*+[-+.\d]++\s*+\)\Z")
#: what is no unit of its own
_MARKS = re.compile(r"[\s,;:.!?…，、；：。！？\"'”’()\[\]]++")


@dataclass(frozen=True, slots=True, eq=False)
class Brackets:
    """Brackets around text; they stay as long as a word of it does."""

    opening: str
    closing: str


@dataclass(frozen=True, slots=True)
class Unit:
    """What is kept or dropped as one: a word, a protected text, a piece of syntax."""

    start: int
    end: int
    #: the brackets around it, the outermost first
    brackets: tuple[Brackets, ...] = ()

    @property
    def region(self) -> Region:
        """Where it is."""
        return self.start, self.end


def units(text: str, whole: Sequence[Region]) -> tuple[Unit, ...]:
    """The units of a text, in order; text in a region of `whole` is one unit."""
    found: list[Unit] = []
    within = Regions(whole)
    for unit in _units(text, 0, len(text), whole, within, ()):
        if not _MARKS.fullmatch(text, *unit.region) or within.overlap(unit.region):
            found.append(unit)
        elif found and found[-1].end == unit.start and found[-1].brackets == unit.brackets:
            found[-1] = Unit(found[-1].start, unit.end, unit.brackets)  # marks behind a word
    return tuple(found)


def joined(text: str, units: Sequence[Unit], kept: Sequence[int]) -> str:
    """The units with these indexes as a text, with one space between words."""
    parts: list[str] = []
    around: tuple[Brackets, ...] = ()
    before: int | None = None
    for index in kept:
        check_stop()
        unit = units[index]
        same = 0
        while same < min(len(around), len(unit.brackets)) and around[same] is unit.brackets[same]:
            same += 1
        parts += (one.closing for one in reversed(around[same:]))
        if before is not None:
            # No space in a script without spaces, nor where syntax stands right beside a word.
            touches = before == index - 1 and not re.search(r"\s", text[units[before].end : unit.start])
            parts.append("" if touches else " ")
        parts += (one.opening for one in unit.brackets[same:])
        parts.append(text[unit.start : unit.end])
        around, before = unit.brackets, index
    parts += (one.closing for one in reversed(around))
    return "".join(parts)


def _units(
    text: str, start: int, end: int, whole: Sequence[Region], within: Regions, around: tuple[Brackets, ...]
) -> Iterator[Unit]:
    parsed = parse(text[start:end])
    weights = {one.start + start for one in parsed.elements if one.kind == "weight"}
    plain = {first + start for first, _ in parsed.plain}
    syntax = [(first + start, last + start) for first, last in (*parsed.regions, *parsed.plain)]
    holding = Regions(syntax)
    larger = (region for region in whole if start <= region[0] and region[1] <= end and holding.overlap(region))
    behind = start
    for first, last in sorted((*syntax, *larger), key=lambda region: (region[0], -region[1])):
        check_stop()
        if first < behind:
            continue  # inside of what was read
        yield from (Unit(*region, around) for region in words(text, within, behind, first))
        behind = last
        if first not in weights | plain or within.join(first + 1, last - 1):
            yield Unit(first, last, around)
            continue
        scale = _SCALE.search(text, first, last) if first in weights else None
        inner = last - 1 if scale is None else scale.start()
        yield from _units(text, first + 1, inner, whole, within, (*around, Brackets(text[first], text[inner:last])))
    yield from (Unit(*region, around) for region in words(text, within, behind, end))
