"""Reads a text as words, of which equal ones have equal keys: `three` and `3`, `gray` and `grey`. Pure."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from handler.enhancement.phrases import UNSPACED
from handler.pool import check_stop

_NUMBER = r"\d++(?:[.,:/]\d++)*+"
_LETTERS = rf"[^\W\d_{UNSPACED}]++"
#: one character of a script without spaces, or letters and numbers without a gap
WORD = re.compile(rf"[{UNSPACED}]|(?:{_NUMBER}|{_LETTERS})++")
_THOUSANDS = re.compile(r"\d{1,3}(?:[.,]\d{3})++")
_ACCENTS = re.compile("[\u0300-\u036f]++")
#: letters that Unicode does not divide into a letter and an accent
_WITHOUT_STROKE = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "ß": "ss"})
_JOINING = re.compile(r"[ \-‑]")


@dataclass(frozen=True, slots=True)
class Token:
    """A word of a text, or a phrase that a list of equal ones has."""

    start: int
    end: int
    key: str
    #: a number that is written in words
    is_worded: bool = False


#: a word of a text: its start, its end, and what `plain` makes of it
Word = tuple[int, int, str]


def words_of(text: str) -> list[Word]:
    """The words of a text."""
    return [(found.start(), found.end(), plain(found.group())) for found in WORD.finditer(text)]


@dataclass(slots=True)
class _Node:
    """A place in a tree of phrases."""

    value: str | None = None
    next: dict[str, "_Node"] = field(default_factory=dict)


class Tree:
    """Phrases, each with a value; they are found as whole words, whatever marks are between these."""

    def __init__(self) -> None:
        self._root = _Node()

    def node(self, phrase: str) -> _Node:
        """The place of a phrase."""
        node = self._root
        for word in WORD.findall(phrase):
            node = node.next.setdefault(plain(word), _Node())
        return node

    def at(self, words: Sequence[Word], index: int) -> tuple[int, str] | None:
        """The longest phrase that begins with a word: the index of the word behind it, and its value."""
        found, node = None, self._root.next.get(words[index][2])
        while node is not None:
            index += 1
            if node.value is not None:
                found = index, node.value
            node = node.next.get(words[index][2]) if index < len(words) else None
        return found


class Wording:
    """Groups of phrases that mean the same; a phrase of two groups makes them one."""

    def __init__(self, groups: Iterable[tuple[str, ...]] = ()) -> None:
        self._tree = Tree()
        for group in groups:
            nodes = [self._tree.node(phrase) for phrase in group]
            key = next((node.value for node in nodes if node.value is not None), plain(group[0]))
            for node in nodes:
                node.value = node.value or key

    def read(self, text: str) -> tuple[Token, ...]:
        """The words of a text from left to right, the longest phrase at each place."""
        return self.tokens(text, words_of(text))

    def tokens(self, text: str, words: Sequence[Word]) -> tuple[Token, ...]:
        """As `read`, where the words of the text are known."""
        tokens: list[Token] = []
        index = 0
        while index < len(words):
            check_stop()
            start, end, key = words[index]
            behind, worded = index + 1, False
            if (found := self._tree.at(words, index)) is not None:
                behind, key = found
                end = words[behind - 1][1]
                worded = key.isdecimal() and not text[start].isdecimal()
            token = Token(start, end, key, worded)
            if worded and tokens and (together := _together(tokens[-1], token, text)):
                tokens[-1] = together
            else:
                tokens.append(token)
            index = behind
        return tuple(tokens)


def plain(word: str) -> str:
    """A word without the difference of case, accents, the kind of digits and marks between thousands."""
    if word.isascii() and word.isalpha():
        return word.lower()
    if not word.isascii():
        word = _ACCENTS.sub("", unicodedata.normalize("NFKD", word)).casefold().translate(_WITHOUT_STROKE)
        word = "".join(str(unicodedata.decimal(one)) if one.isdecimal() else one for one in word)
        word = unicodedata.normalize("NFC", word)
    if word[0].isdecimal():
        return re.sub(r"[.,]", "", word) if _THOUSANDS.fullmatch(word) else word.replace(",", ".").casefold()
    return word.casefold()


def _together(before: Token, token: Token, text: str) -> Token | None:
    """One number of two: twenty-one, two hundred; None where they are none."""
    if not before.key.isdecimal() or len(before.key) > 5:
        return None
    if not _JOINING.fullmatch(text[before.end : token.start]):
        return None
    high, low = int(before.key), int(token.key)
    if low in (100, 1000) and 0 < high < low:
        value = high * low
    elif before.is_worded and token.end - token.start > 2 and _may_be_added(high, low):  # not `a`, which is one, too
        value = high + low
    else:
        return None
    return Token(before.start, token.end, str(value), before.is_worded)


def _may_be_added(high: int, low: int) -> bool:
    return (high % 10 == 0 and high % 100 >= 20 and 0 < low < 10) or (high % 100 == 0 < high and low < 100)
