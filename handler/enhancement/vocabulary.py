"""The words of a text: its content words, and the word lists that it has words of. Pure."""

import re
from collections.abc import Set

from handler.enhancement.pack import Kind, Lexicon
from handler.pool import check_stop

_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]++")


def tokens(text: str) -> list[str]:
    """Words as they are written; of a script without spaces, each character."""
    return _TOKEN.findall(text)


def stems(text: str, stopwords: Set[str] = frozenset()) -> dict[str, str]:
    """The content words of a text by their stem: the first five letters, or one character of an unspaced script.

    `stopwords`: words without content, as `casefold` makes them.
    """
    check_stop()
    pairs = ((word, word.casefold()) for word in tokens(text))
    content = ((word, folded) for word, folded in pairs if len(folded) > 2 or folded > "\u3000")
    return {folded[:5]: word for word, folded in content if folded not in stopwords}


def kind_of(text: str, lexicon: Lexicon, order: tuple[Kind, ...]) -> Kind:
    """The kind of a clause: the list that has most of its words; at a tie the one that comes first in the order."""
    hits = lexicon.hits(text, order)
    return max(hits, key=lambda kind: (hits[kind], -order.index(kind))) if hits else "subject"


def has_word_of(text: str, kind: Kind, lexicon: Lexicon) -> bool:
    """Whether a text has a word of a list."""
    return lexicon.words(kind).are_in(text)
