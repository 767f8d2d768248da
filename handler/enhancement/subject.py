"""Says whether a text adds anything to the user's prompt, and whether it is about the same subject. Pure."""

from collections.abc import Set

from handler.enhancement.content import Content, content
from handler.enhancement.pack import Words
from handler.enhancement.vocabulary import tokens

#: the first letters by which a word of the prompt is known again with another ending: rote and roter, fox and foxes
_BEGINNING = 3
#: of so many words of a prompt, or more, a text on the same subject has this share
_MANY, _FEW_KEPT = 5, 0.15


def adds_nothing(text: str, prompt: str, words: Words, *, full: bool = False) -> bool:
    """Whether a text has no word of content that the prompt has not; in numbers written otherwise it has none.

    `full`: the prompt is long enough by itself, so that a text with the same words in another order is a result.
    """
    if full:
        return _words(text) == _words(prompt)
    counts = {beginning for count in words.protect.counts for beginning in _beginnings(content(count))}
    own, there = content(prompt, words.small), content(text, words.small)
    if not own.words and not there.words:
        return set(_words(text)) <= set(_words(prompt))
    return not (there.words - own.places.keys() and _beginnings(there) - _beginnings(own) - counts)


def is_another(text: str, prompt: str, words: Words) -> bool:
    """Whether a text keeps none of the prompt's content, or next to none of much. Both are in one language."""
    asked = content(prompt, words.small)
    if not asked.words:
        return False
    kept = asked.kept_by(content(text, words.small))
    return not asked.is_inside(text) if kept == 0 else len(asked.words) >= _MANY and kept < _FEW_KEPT


def _beginnings(one: Content) -> Set[str]:
    return {word[:_BEGINNING] for word in one.words}


def _words(text: str) -> list[str]:
    return [word.casefold() for word in tokens(text)]
