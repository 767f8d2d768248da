"""The words of a text: its content words, and the word lists that it has words of. Pure."""

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from handler.enhancement.pack import Kind, Lexicon
from handler.enhancement.spans import any_of

_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


def tokens(text: str) -> list[str]:
    """Words as they are written; of a script without spaces, each character."""
    return _TOKEN.findall(text)


def stems(text: str, stopwords: tuple[str, ...] = ()) -> dict[str, str]:
    """The content words of a text by their stem: the first five letters, or one character of an unspaced script."""
    stops = _folded(stopwords)
    pairs = ((word, word.casefold()) for word in tokens(text))
    content = ((word, folded) for word, folded in pairs if len(folded) > 2 or folded > "\u3000")
    return {folded[:5]: word for word, folded in content if folded not in stops}


def kind_of(text: str, lexicon: Lexicon, order: tuple[Kind, ...]) -> Kind:
    """The kind of a clause: the list that has most of its words; at a tie the one that comes first in the order."""
    pattern, kinds = _phrases(lexicon, order)
    hits = Counter(kind for found in pattern.findall(text) for kind in kinds[found.casefold()])
    return max(hits, key=lambda kind: (hits[kind], -order.index(kind))) if hits else "subject"


def has_word_of(text: str, kind: Kind, lexicon: Lexicon) -> bool:
    """Whether a text has a word of a list."""
    return any_of(lexicon.phrases(kind)).search(text) is not None


@lru_cache(maxsize=64)
def _folded(words: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word.casefold() for word in words)


@lru_cache(maxsize=64)
def _phrases(lexicon: Lexicon, order: tuple[Kind, ...]) -> tuple[re.Pattern[str], Mapping[str, list[Kind]]]:
    """Every phrase of a lexicon in one pattern, and the lists that each is in."""
    kinds: dict[str, list[Kind]] = {}
    for kind in order:
        for phrase in lexicon.phrases(kind):
            kinds.setdefault(phrase.casefold(), []).append(kind)
    return any_of(tuple(kinds)), kinds
