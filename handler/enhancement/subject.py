"""Says whether a text adds anything to the user's prompt, and whether it is about the same subject. Pure."""

from collections.abc import Iterable, Set

from handler.enhancement.content import Content, without_marks
from handler.enhancement.vocabulary import tokens

#: the first letters by which a word of the prompt is known again with another ending: rote and roter, fox and foxes
_BEGINNING = 3
#: of so many words of a prompt, or more, a text on the same subject has this share
_MANY, _FEW_KEPT = 5, 0.15


def adds_nothing(text: str, prompt: str, asked: Content, there: Content, counts: Iterable[str]) -> bool:
    """Whether a text has no word of content that the prompt has not; `counts`, words for numbers, are none.

    `asked`, `there`: the content of the prompt and of the text.
    """
    if not asked.words and not there.words:
        return set(_words(text)) <= set(_words(prompt))
    added = _beginnings(there) - _beginnings(asked)
    return not added or added <= {without_marks(count)[:_BEGINNING] for count in counts}


def says_the_same(text: str, prompt: str) -> bool:
    """Whether a text has the words of the prompt in the same order."""
    return _words(text) == _words(prompt)


def is_another(text: str, asked: Content, there: Content) -> bool:
    """Whether a text keeps none of the prompt's content, or next to none of much. Both are in one language."""
    if not asked.words:
        return False
    kept = asked.kept_by(there)
    return not asked.is_inside(text) if kept == 0 else len(asked.words) >= _MANY and kept < _FEW_KEPT


def _beginnings(one: Content) -> Set[str]:
    return {word[:_BEGINNING] for word in one.words}


def _words(text: str) -> list[str]:
    return [word.casefold() for word in tokens(text)]
