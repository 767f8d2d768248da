"""Finds phrases in a text: each whole, in any case. Pure.

No pattern is made of a phrase: phrases come from callers, too, and a text takes time in proportion to its length
whatever the phrases are. They are looked up word by word in a dictionary of dictionaries.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from handler.enhancement.regions import Region
from handler.pool import check_stop

#: a word, or any other character
_UNIT = re.compile(r"\w++|\W")
_REST_OF_WORD = re.compile(r"\w*+")
#: in a dictionary of units: a phrase ends here
_END: Final = ""


def folded(text: str) -> str:
    """The text without the difference of case, with every character in its place."""
    whole = text.casefold()
    if len(whole) == len(text):
        return whole
    return "".join(one if len(one) == 1 else character for character in text for one in (character.casefold(),))


def whole(text: str, phrase: str) -> Iterator[Region]:
    """Where a phrase stands in a text, from left to right and without overlap; both are `folded`."""
    begins, ends = _is_word(phrase[0]), _is_word(phrase[-1])
    start = text.find(phrase)
    while start >= 0:
        check_stop()
        end = start + len(phrase)
        if (start and _is_word(text[start - 1])) or (ends and end < len(text) and _is_word(text[end])):
            # No phrase can begin inside of a word: go on behind it.
            rest = _REST_OF_WORD.match(text, start) if begins else None
            end = start + 1 if rest is None else rest.end()
        else:
            yield start, end
        start = text.find(phrase, end)


class Phrases:
    """A list of phrases."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._first: dict[str, Any] = {}
        self._longest = 0
        for phrase in phrases:
            self._longest = max(self._longest, len(phrase))
            node = self._first
            for unit in _UNIT.findall(folded(phrase)):
                node = node.setdefault(unit, {})
            node[_END] = True

    def places(self, text: str) -> Iterator[tuple[int, list[int]]]:
        """Each place where phrases begin, with their ends, the shortest first."""
        first = self._first
        if not first:
            return
        units = _UNIT.findall(folded(text))
        start, after_word = 0, False
        for index, unit in enumerate(units):
            check_stop()
            node = None if after_word and not _is_word(unit[0]) else first.get(unit)
            if node is not None and (ends := _ends(node, units, index, start)):
                yield start, ends
            start += len(unit)
            after_word = _is_word(unit[-1])

    def find(self, text: str) -> Iterator[Region]:
        """The places of phrases from left to right and without overlap, the longest phrase of each."""
        behind = 0
        for start, ends in self.places(text):
            if start >= behind:
                behind = ends[-1]
                yield start, behind

    def are_in(self, text: str) -> bool:
        """Whether one of the phrases is in a text."""
        return next(self.places(text), None) is not None

    def beginning(self, text: str) -> str | None:
        """The longest phrase that a text begins with, as it stands there."""
        # One character more than the longest phrase shows whether its last word goes on.
        start, ends = next(self.places(text[: self._longest + 1]), (-1, []))
        return text[: ends[-1]] if start == 0 else None


def _ends(node: dict[str, Any], units: list[str], index: int, start: int) -> list[int]:
    ends: list[int] = []
    position = start
    while True:
        position += len(units[index])
        if _END in node:
            ends.append(position)
        index += 1
        if index == len(units) or (following := node.get(units[index])) is None:
            return ends
        node = following


def _is_word(character: str) -> bool:
    """As `\\w` says it."""
    return character.isalnum() or character == "_"
