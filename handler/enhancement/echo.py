"""Finds stretches of the messages that a model was asked with in its answer. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from handler.enhancement.content import length
from handler.enhancement.vocabulary import tokens
from handler.pool import check_stop

#: words of one stretch that is no chance, and characters of a script without spaces
_STRETCH = 6
#: words of shorter stretches, of which an answer of few words may be made; and the share of it that they make then
_SHORT, _SHARE = 4, 0.5


def echoes(text: str, messages: Iterable[str], prompt: str) -> bool:
    """Whether a text has a stretch of one of the messages that is not the prompt's.

    `messages`: without the prompt that was put into them.
    """
    wide = 2 if _is_unspaced(text) else 1  # two characters are about one word
    words, own, asked = _words(text), _words(prompt), [_words(message) for message in messages]
    if _shared(words, asked, own, wide * _STRETCH):
        return True
    short = _shared(words, asked, own, wide * _SHORT)
    return bool(short) and len(short) >= _SHARE * len(words)


def _shared(words: Sequence[str], asked: Iterable[Sequence[str]], own: Sequence[str], size: int) -> set[int]:
    """The places of words that are in a run of this size which the messages have and the prompt has not."""
    known = {run for message in asked for run in _runs(message, size)}
    known.difference_update(_runs(own, size))
    return {
        place for start, run in enumerate(_runs(words, size)) if run in known for place in range(start, start + size)
    }


def _runs(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    check_stop()
    return zip(*(islice(words, start, None) for start in range(size)), strict=False)


def _words(text: str) -> list[str]:
    return [word.casefold() for word in tokens(text)]


def _is_unspaced(text: str) -> bool:
    return length(text) < 0.7 * len(tokens(text))
