"""Finds stretches of the messages that a model was asked with in its answer. Pure."""

from collections.abc import Collection, Iterable, Iterator, Sequence

from handler.enhancement.content import length
from handler.enhancement.vocabulary import tokens
from handler.pool import check_stop

#: words of a run that is compared, and characters of a script without spaces for each of them
_RUN, _WIDE = 4, 2
#: words of one stretch that is no chance
_STRETCH = 6
#: the share of an answer that shorter stretches make, where it is made of them
_SHARE = 0.5


def echoes(text: str, messages: Iterable[str], prompt: str) -> bool:
    """Whether a text has a stretch of one of the messages that is not the prompt's.

    `messages`: without the prompt that was put into them.
    """
    words = _words(text)
    wide = _WIDE if length(text) < 0.7 * len(words) else 1
    size = wide * _RUN
    known = {run for message in messages for run in _runs(_words(message), size)}
    shared = [start for start, run in enumerate(_runs(words, size)) if run in known]
    if not shared:
        return False
    own = set(_runs(_words(prompt), size))
    shared = [start for start in shared if tuple(words[start : start + size]) not in own]
    covered = {place for start in shared for place in range(start, start + size)}
    return len(covered) >= _SHARE * len(words) or _longest(covered) >= wide * _STRETCH


def _longest(places: Collection[int]) -> int:
    """The length of the longest run of numbers."""
    longest = 0
    for place in places:
        if place - 1 not in places:
            end = place
            while end in places:
                end += 1
            longest = max(longest, end - place)
    return longest


def _runs(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    check_stop()
    return zip(*(words[start:] for start in range(size)), strict=False)


def _words(text: str) -> list[str]:
    return [word.casefold() for word in tokens(text)]
