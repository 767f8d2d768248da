"""The content of a text: the words that carry it, and which of them belong together. Pure; knows no fault."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from itertools import pairwise

from handler.enhancement.phrases import folded
from handler.pool import check_stop

#: letters of scripts that are written without spaces: Han, then katakana
_HAN, _KATAKANA = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff", "\u30a0-\u30ff"
#: a run of Han, a run of katakana, a word of any other script; hiragana is grammar for the most part, and is left out
_WORD = re.compile(
    rf"(?P<han>[{_HAN}]++)|(?P<katakana>[{_KATAKANA}]++)|(?P<word>[^\W_{_HAN}{_KATAKANA}\u3040-\u309f]++)"
    r"|(?P<end>[,;:.!?…，、；：。！？\n]++)"
)
_ACCENTS = re.compile("[\u0300-\u036f]++")
#: first letters of a word that tell it from others; endings differ with number and case
_STEM = 5
#: words that may stand between two that belong together, where a rewrite puts adjectives in
_BETWEEN = 2
#: words that are searched inside of other words, at most: snow in snowfield, Schnee in Pulverschnee
_SEARCHED = 50


@dataclass(frozen=True, slots=True)
class Content:
    """What a text is about."""

    #: words by their first letters, characters of Han in twos
    words: frozenset[str]
    #: two words that stand side by side, as a colour and its thing do; three characters of Han in a row
    pairs: frozenset[tuple[str, str]]
    #: two words of one clause with nothing but words without content between them, as a subject and an object have
    order: frozenset[tuple[str, str]]
    #: what `pairs` of another text are looked for in: words that are near each other
    near: frozenset[tuple[str, str]] = field(repr=False)
    #: what `words` and `order` of another text are looked for in: the first and the last place of each word, and of all
    #: characters and twos of Han, those without content too
    places: Mapping[str, tuple[int, int]] = field(repr=False)

    def kept_by(self, other: "Content") -> float:
        """The share of its words that another text has, 0 to 1; 1 where it has none itself."""
        return len(self.words & other.places.keys()) / len(self.words) if self.words else 1.0

    def bound_in(self, other: "Content") -> float:
        """The share of its pairs and of its order that another text has, 0 to 1; 1 where it has none itself."""
        total = len(self.pairs) + len(self.order)
        return (len(self.pairs & other.near) + sum(map(other._has_in_order, self.order))) / total if total else 1.0

    def is_inside(self, text: str) -> bool:
        """Whether a text has one of the words inside of another word."""
        whole = without_marks(text)
        return any(word in whole for word in sorted(self.words)[:_SEARCHED])

    def _has_in_order(self, two: tuple[str, str]) -> bool:
        first, second = (self.places.get(word) for word in two)
        return first is not None and second is not None and first[0] < second[1]


def content(text: str, small: Set[str] = frozenset()) -> Content:
    """The content of a text. `small`: words and characters without content, as `casefold` makes them."""
    reader = _Reader()
    for kind, word in _units(text):
        check_stop()
        if kind == "end":
            reader.end_clause()
        elif kind == "han":
            reader.add_han(word, small)
        elif word in small:
            reader.end_phrase()
        elif len(word) > 2 or word.isdigit() or kind == "katakana":
            reader.add(without_marks(word)[:_STEM])
    return reader.content()


class _Reader:
    """Collects the content of a text, word by word."""

    def __init__(self) -> None:
        self._words: set[str] = set()
        self._pairs: set[tuple[str, str]] = set()
        self._order: set[tuple[str, str]] = set()
        self._near: set[tuple[str, str]] = set()
        self._places: dict[str, tuple[int, int]] = {}
        self._place = 0
        #: the last words of the phrase, which a mark or a word without content ends, and the last one of the clause
        self._before: list[str] = []
        self._last: str | None = None
        #: the last word before the one word without content that stands behind it: tall, in very tall
        self._across: str | None = None

    def add(self, word: str) -> None:
        """The next word."""
        self._see(word)
        self._place += 1
        self._bind(word)

    def add_han(self, run: str, small: Set[str]) -> None:
        """The next characters of Han: in twos, but for one between two without content."""
        self.end_phrase()
        for character, two in zip(run, [*map("".join, pairwise(run)), ""], strict=True):
            self._see(character)
            self._see(two)
            self._place += 1
        for part in _parts(run, small):
            for two in map("".join, pairwise(part)) if len(part) > 1 else [part]:
                self._bind(two)
            self.end_phrase()

    def end_phrase(self) -> None:
        """A word without content stands here."""
        self._across = self._before[-1] if self._before else None
        self._before = []

    def end_clause(self) -> None:
        """A mark stands here."""
        self._before, self._last, self._across = [], None, None

    def content(self) -> Content:
        """What was collected."""
        pairs, order, near = (frozenset(found) for found in (self._pairs, self._order, self._near))
        return Content(frozenset(self._words), pairs, order, near, self._places)

    def _see(self, word: str) -> None:
        first, _ = self._places.get(word, (self._place, 0))
        self._places[word] = (first, self._place)

    def _bind(self, word: str) -> None:
        self._words.add(word)
        if self._before:
            self._pairs.add((self._before[-1], word))
            self._near.update((one, word) for one in self._before)
        else:
            if self._across is not None:
                self._near.add((self._across, word))
            if self._last is not None and self._last != word:
                self._order.add((self._last, word))
        self._across = None
        self._before = [*self._before[-_BETWEEN:], word]
        self._last = word


def without_marks(text: str) -> str:
    """The text without accents and the difference of case."""
    if text.isascii():
        return text.lower()
    return folded(unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text))))


def length(text: str) -> float:
    """How many words a text has; two characters of Han or four of kana count as one."""
    han = sum("\u3400" <= one <= "\u9fff" for one in text)
    kana = sum("\u3040" <= one <= "\u30ff" for one in text)
    return han / 2 + kana / 4 + sum(kind == "word" for kind, _ in _units(text))


def _units(text: str) -> Iterator[tuple[str, str]]:
    """Words and the ends of clauses, with their kind."""
    for found in _WORD.finditer(folded(text)):
        assert found.lastgroup is not None
        yield found.lastgroup, found.group()


def _parts(text: str, small: Set[str]) -> Iterator[str]:
    """The stretches of a run of Han between characters without content."""
    run: list[str] = []
    for character in text:
        if character not in small:
            run.append(character)
        elif run:
            yield "".join(run)
            run = []
    if run:
        yield "".join(run)
