"""Finds phrases in a text: each whole, in any case. Pure.

No pattern is made of a phrase, since phrases come from callers, too. A search takes time in proportion to the text, and
its preparation in proportion to the phrases (Aho and Corasick, "Efficient string matching", 1975).
"""

import re
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import cached_property

from handler.enhancement.regions import Region
from handler.pool import check_stop

#: scripts written without spaces, in which a phrase may begin and end at every character: kana, CJK, full-width forms
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")
#: a word, or any other character
_UNIT = re.compile(rf"[^\W{UNSPACED}]++|\W|[{UNSPACED}]")
_REST_OF_WORD = re.compile(rf"[^\W{UNSPACED}]*+")


def folded(text: str) -> str:
    """The text without the difference of case, with every character in its place."""
    whole = text.casefold()
    if len(whole) == len(text):
        return whole
    return "".join(one if len(one) == 1 else character for character in text for one in (character.casefold(),))


class Phrases:
    """A list of phrases."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases = [_UNIT.findall(folded(phrase)) for phrase in phrases]
        self._longest = max((sum(map(len, units)) for units in self._phrases), default=0)

    def find(self, text: str) -> Iterator[Region]:
        """The places of phrases from left to right and without overlap, the longest phrase of each."""
        behind = 0
        for start, end in reversed(list(self._longest_of_each_place(text))):
            if start >= behind:
                behind = end
                yield start, end

    def are_in(self, text: str) -> bool:
        """Whether one of the phrases is in a text."""
        return next(self._longest_of_each_place(text), None) is not None

    def beginning(self, text: str) -> str | None:
        """The longest phrase that a text begins with, as it stands there."""
        # One character more than the longest phrase shows whether its last word goes on.
        for start, end in self._longest_of_each_place(text[: self._longest + 1]):
            if start == 0:
                return text[:end]
        return None

    def places(self, text: str, among: Container[int] | None = None) -> Iterator[tuple[int, list[int]]]:
        """Each place where phrases begin, with the ends of all of them, the shortest first; only places `among` these.

        Takes time in proportion to the text and to the longest phrase; the other methods do not.
        """
        units = _UNIT.findall(folded(text))
        start = 0
        for index, unit in enumerate(units):
            check_stop()
            begins = (among is None or start in among) and _may_begin(units, index)
            if begins and (ends := self._forwards.ends(units, index, start)):
                yield start, ends
            start += len(unit)

    def _longest_of_each_place(self, text: str) -> Iterator[Region]:
        """From right to left: each place where a phrase begins, and the end of the longest one."""
        if not self._phrases:
            return
        units = _UNIT.findall(folded(text))
        position, read = len(text), 0
        for index, state in self._backwards.states(reversed(units)):
            check_stop()
            first = len(units) - 1 - index
            while read <= index:
                position -= len(units[len(units) - 1 - read])
                read += 1
            if _may_begin(units, first):
                length = next(self._backwards.lengths(state))
                yield position, position + sum(map(len, units[first : first + length]))

    @cached_property
    def _forwards(self) -> "_Automaton":
        return _Automaton(self._phrases)

    @cached_property
    def _backwards(self) -> "_Automaton":
        return _Automaton([units[::-1] for units in self._phrases])


class _Automaton:
    """Finds sequences of units; a state is as much of a sequence as the units before a place are."""

    def __init__(self, sequences: Iterable[Sequence[str]]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._whole = [False]
        for units in sequences:
            state = 0
            for unit in units:
                following = self._next[state].get(unit)
                if following is None:
                    following = self._next[state][unit] = len(self._next)
                    self._next.append({})
                    self._depth.append(self._depth[state] + 1)
                    self._whole.append(False)
                state = following
            self._whole[state] = True
        #: by state: the longest other state that it ends with, and the longest such one that is a whole sequence
        self._shorter = [0] * len(self._next)
        self._ending = [0] * len(self._next)
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            shorter = self._shorter[state]
            self._ending[state] = shorter if self._whole[shorter] else self._ending[shorter]
            for unit, following in self._next[state].items():
                self._shorter[following] = self._after(shorter, unit)
                waiting.append(following)

    def states(self, units: Iterable[str]) -> Iterator[tuple[int, int]]:
        """The index of each unit with which a sequence ends, and the state there."""
        state = 0
        for index, unit in enumerate(units):
            state = self._after(state, unit)
            if self._whole[state] or self._ending[state]:
                yield index, state

    def lengths(self, state: int) -> Iterator[int]:
        """How many units the sequences have that end in a state, the longest first."""
        if not self._whole[state]:
            state = self._ending[state]
        while state:
            yield self._depth[state]
            state = self._ending[state]

    def ends(self, units: Sequence[str], index: int, position: int) -> list[int]:
        """Where the sequences end that begin at an index, which is at a position of the text; the shortest first."""
        ends: list[int] = []
        state = 0
        while index < len(units) and (following := self._next[state].get(units[index])) is not None:
            position += len(units[index])
            if self._whole[following]:
                ends.append(position)
            state, index = following, index + 1
        return ends

    def _after(self, state: int, unit: str) -> int:
        while (following := self._next[state].get(unit)) is None and state:
            state = self._shorter[state]
        return following or 0


def _may_begin(units: Sequence[str], index: int) -> bool:
    """Whether a phrase may begin with a unit: not with a mark right behind a word."""
    return index == 0 or not _is_word(units[index - 1][-1]) or _is_word(units[index][0])


def _is_word(character: str) -> bool:
    """As `\\w` says it, but for scripts without spaces."""
    return character == "_" or (
        character.isalnum() and (character < "\u3040" or not UNSPACED_CHARACTER.match(character))
    )
