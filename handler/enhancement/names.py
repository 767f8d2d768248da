"""Finds names in a prompt: words with a capital of any script inside a sentence, and words in capitals. Pure."""

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass

from handler.enhancement.phrases import UNSPACED
from handler.enhancement.regions import Region
from handler.pool import check_stop

_LETTER = rf"[^\W_{UNSPACED}]"
_WORD = re.compile(rf"{_LETTER}++(?:['’‑-]{_LETTER}++)*+")
_UNSPACED = re.compile(f"[{UNSPACED}]")
_POSSESSIVE = re.compile(r"['’]s\Z", re.IGNORECASE)
_SENTENCE_END = ".!?…。！？\n"
_CLAUSE_END = ",;:，；：、"
#: characters between two words of which the second may begin a sentence or clause
_GAP = 8
#: words of one name, at most: a span is searched word by word
_LONGEST = 6
#: letters of an abbreviation with a full stop, at most: Dr., St., J.
_ABBREVIATION = 3


@dataclass(frozen=True, slots=True)
class _Word:
    start: int
    end: int
    text: str
    #: "sentence" or "clause" where it begins one, else ""
    begins: str

    @property
    def is_capital(self) -> bool:
        return self.text[0].isupper() or self.text[0].istitle()

    @property
    def is_special(self) -> bool:
        """Whether it has a capital where a sentence has none: BMW, McQueen, iPhone."""
        return any(map(str.isupper, self.text[1:]))

    @property
    def is_shouted(self) -> bool:
        return len(self.text) > 1 and self.text.isupper()


def names(text: str, small: Set[str], *, capital_nouns: bool = False, translated: bool = False) -> Iterator[Region]:
    """The names of a text, from left to right; neighbours are one name.

    Args:
        small: words that are no names, without the difference of case.
        capital_nouns: the text's language has capitals for all nouns, so that one word alone is no name.
        translated: only those that are the same in every language: BMW, iPhone.
    """
    words = list(_words(text))
    cased = [word for word in words if word.text.upper() != word.text.lower() and len(word.text) > 1]
    content = [word for word in cased if word.text.casefold() not in small]
    others = len(words) - len(cased) if not text.isascii() else 0
    shouted = 2 * sum(word.is_shouted for word in cased) > len(cased) + others + len(_UNSPACED.findall(text))
    # In a title nearly every word has a capital, the first one too.
    title = not capital_nouns and len(content) > 2 and (words[0].is_capital or words[0].text[0].isdigit())
    title = title and 3 * sum(word.is_capital for word in content) > 2 * len(content)
    starts = [word for word in cased if word.begins]
    by_clause = len(starts) > 2 and 3 * sum(word.is_capital for word in starts) > 2 * len(starts)
    run: list[_Word] = []

    def ended() -> Iterator[Region]:
        alone = len(run) == 1 and capital_nouns and not run[0].is_special
        if run and not alone:
            yield run[0].start, run[-1].end
        run.clear()

    for word in words:
        check_stop()
        begins = word.begins == "sentence" or (by_clause and bool(word.begins))
        special = word.is_special and not (word.is_shouted and shouted)
        is_name = len(word.text) > 1 and word.text.casefold() not in small and not any(map(str.isdigit, word.text))
        is_name = is_name and (special or (not (translated or begins or title or shouted) and word.is_capital))
        if run and (not is_name or len(run) == _LONGEST or text[run[-1].end : word.start] != " "):
            yield from ended()
        if is_name:
            run.append(word)
    yield from ended()


def _words(text: str) -> Iterator[_Word]:
    before: re.Match[str] | None = None
    for found in _WORD.finditer(text):
        check_stop()
        word = _POSSESSIVE.sub("", found.group())
        yield _Word(found.start(), found.start() + len(word), word, _begins(text, before, found.start()))
        before = found


def _begins(text: str, before: "re.Match[str] | None", start: int) -> str:
    if before is None:
        return "sentence"
    gap = text[max(before.end(), start - _GAP) : start]
    abbreviated = gap == ". " and before.group()[0].isupper() and len(before.group()) <= _ABBREVIATION
    if any(mark in gap for mark in _SENTENCE_END):
        return "" if abbreviated else "sentence"
    return "clause" if any(mark in gap for mark in _CLAUSE_END) else ""
