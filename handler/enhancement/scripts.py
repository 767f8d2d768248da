"""Tells languages apart by their scripts. Pure; languages of one script look the same here."""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import get_args

from handler.api.enhance import Language

#: the scripts of a language, as the names of their characters in Unicode begin; languages that are not named are Latin
_SCRIPTS: Mapping[str, frozenset[str]] = {
    "zh": frozenset({"CJK"}),
    "ja": frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}),
    "ko": frozenset({"HANGUL"}),
    "ru": frozenset({"CYRILLIC"}),
    "uk": frozenset({"CYRILLIC"}),
    "el": frozenset({"GREEK"}),
    "ar": frozenset({"ARABIC"}),
    "he": frozenset({"HEBREW"}),
    "hi": frozenset({"DEVANAGARI"}),
    "th": frozenset({"THAI"}),
}
_LATIN = frozenset({"LATIN"})
assert set(_SCRIPTS) <= set(get_args(Language))


def translated(prompt: str, language: Language) -> bool:
    """Whether the result is to be in another script than the prompt."""
    letters = _letters(prompt)
    return language != "same" and bool(letters) and _most(letters) not in _scripts_of(language)


def is_latin(language: Language) -> bool:
    """Whether a language is written in Latin letters."""
    return _scripts_of(language) == _LATIN


def foreign(text: str, prompt: str, language: Language) -> tuple[str, ...]:
    """Scripts of a text that it should not have.

    With `same`: those that the prompt has not. Else those that neither the language nor the prompt has, and the one
    with the most letters where the language has it not.
    """
    found, own = _letters(text), _letters(prompt)
    if not found:
        return ()
    if language == "same":
        return tuple(sorted(set(found) - set(own))) if own else ()
    expected, most = _scripts_of(language), _most(found)
    others = set(found) - expected - set(own)
    return tuple(sorted(others if most in expected else others | {most}))


def _scripts_of(language: Language) -> frozenset[str]:
    return _SCRIPTS.get(language, _LATIN)


def _letters(text: str) -> Mapping[str, int]:
    """The number of letters of each script."""
    if text.isascii():
        return {"LATIN": letters} if (letters := sum(map(str.isalpha, text))) else {}
    return Counter(_script(character) for character in text if character.isalpha())


def _most(letters: Mapping[str, int]) -> str:
    return max(letters, key=letters.__getitem__)


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0]
