"""The words of a text: its content words, and the word lists that it has words of. Pure."""

import re
from collections.abc import Iterator, Mapping, Set

from handler.enhancement.pack import Kind, Lexicon
from handler.enhancement.regions import Regions
from handler.enhancement.syntax import encoded
from handler.pool import check_stop

_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]++")


def tokens(text: str) -> list[str]:
    """Words as they are written; of a script without spaces, each character."""
    return _TOKEN.findall(text)


def words_of(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and stem of each word of a text, those without content too."""
    for found in _TOKEN.finditer(text):
        yield found.start(), found.end(), found.group().casefold()[:5]


def stems(text: str, stopwords: Set[str] = frozenset()) -> dict[str, str]:
    """The content words of a text by their stem: the first five letters, or one character of an unspaced script.

    `stopwords`: words without content, as `casefold` makes them.
    """
    check_stop()
    pairs = ((word, word.casefold()) for word in tokens(text))
    content = ((word, folded) for word, folded in pairs if len(folded) > 2 or folded > "\u3000")
    return {folded[:5]: word for word, folded in content if folded not in stopwords}


def kinds_in(text: str, lexicon: Lexicon, kinds: tuple[Kind, ...]) -> Mapping[Kind, int]:
    """How many phrases of each list are in what a text encoder reads of a text."""
    return lexicon.hits(encoded(text), kinds)


def leading(hits: Mapping[Kind, int], order: tuple[Kind, ...]) -> Kind:
    """The kind of most phrases; at a tie the one that comes first in the order."""
    return max(hits, key=lambda kind: (hits[kind], -order.index(kind)), default="subject")


def kind_of(text: str, lexicon: Lexicon, order: tuple[Kind, ...]) -> Kind:
    """The kind of a clause: the list that has most of its words; at a tie the one that comes first in the order."""
    return leading(kinds_in(text, lexicon, order), order)


def has_own_words(text: str, lexicon: Lexicon, kinds: tuple[Kind, ...], stopwords: Set[str]) -> bool:
    """Whether a text has a content word that is no part of a phrase of these lists: it is more than a keyword."""
    read = encoded(text)
    listed = Regions(region for kind in kinds for region in lexicon.words(kind).find(read))
    rest = "".join(" " if listed.contain(place) else character for place, character in enumerate(read))
    return bool(stems(rest, stopwords))


def has_word_of(text: str, kind: Kind, lexicon: Lexicon) -> bool:
    """Whether a text has a word of a list."""
    return lexicon.words(kind).are_in(text)
