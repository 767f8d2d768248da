"""Tells languages apart: by their writing, and languages in Latin letters by their function words. Pure."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import get_args

from handler.api.enhance import Language
from handler.enhancement.pack import Words
from handler.enhancement.phrases import UNSPACED
from handler.enhancement.quotes import quotes
from handler.enhancement.regions import Regions
from handler.pool import check_stop

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
_JAPANESE = _SCRIPTS["ja"]
_KANA = _JAPANESE - _SCRIPTS["zh"]

#: letters of one kind: those of a script without spaces, or a word with its digits
_RUN = re.compile(rf"[{UNSPACED}]++|[^\W_{UNSPACED}]++")
#: a Latin word that belongs to one language: small letters alone, and not the unit of a number before it
_PLAIN_WORD = re.compile(r"[^\W\d_]{2,}+")
_NUMBER_BEFORE = re.compile(r"\d[ \u00a0]?\Z")
#: characters of a script without spaces that are as much as one word
_CHARACTERS_OF_A_WORD = 1.5
#: The share of a text that may be in another writing. Loan words in Latin letters are common in all of the others;
#: English has none in other letters.
_MAY_BE_LATIN, _MAY_BE_OTHER = 0.2, 0.04
#: the share of a translation that may be left in the user's writing: names, quotes without marks
_MAY_BE_LEFT = 0.34
#: function words of a language that a text needs, at least, to count as in that language against what was asked
_SURE = 3


def speaks(prompt: str, language: Language, words: Words) -> bool:
    """Whether a prompt is in a language; with `same`, or without a letter, it is.

    In Latin letters it counts as English unless most of its function words are another language's.
    """
    shares = _shares(prompt)
    if language == "same" or not shares:
        return True
    if _most(shares) not in _scripts_of(language):
        return False
    if language == "zh":
        return not _KANA & shares.keys()
    return language in _SCRIPTS or latin_language(prompt, words) == language


def foreign(text: str, prompt: str, language: Language, words: Words) -> tuple[str, ...]:
    """Scripts and languages of a text that it should not have; with `same`, it should have the prompt's.

    Quoted text, abbreviations, units and brand names are in no language.
    """
    shares, own = _shares(text), _shares(prompt)
    if not shares or (language == "same" and not own):
        return ()
    expected = _writing(own) if language == "same" else _scripts_of(language)
    others = {script: share for script, share in shares.items() if script not in expected}
    allowed = _MAY_BE_OTHER if "LATIN" in expected else _MAY_BE_LATIN
    if own and _most(own) not in expected:
        allowed = max(allowed, _MAY_BE_LEFT)
    elif _most(shares) in expected:
        others = {script: share for script, share in others.items() if script not in own}  # the user's own
    if sum(others.values()) > allowed:
        return tuple(sorted(others))
    if "LATIN" not in expected or _most(shares) != "LATIN":
        return ()
    found, users = _hits(text, words), _hits(prompt, words)
    wanted = _first(users) if language == "same" else language
    told = max(found, key=found.__getitem__, default=wanted)
    if language == "same" and users[told] >= users[wanted]:  # the prompt may be in that language, too
        return ()
    return (told,) if told != wanted and found[told] >= max(_SURE, 2 * found[wanted] + 1) else ()


def latin_language(text: str, words: Words) -> Language:
    """The language of a text in Latin letters: English, unless it has most function words of another one."""
    return _first(_hits(text, words))


def _first(hits: "Counter[Language]") -> Language:
    first, second = (*hits.most_common(2), ("en", 0), ("en", 0))[:2]
    return first[0] if first[1] > second[1] else "en"


def _hits(text: str, words: Words) -> "Counter[Language]":
    """How many words of a text are function words of each language."""
    languages_of, quoted = words.languages_of, Regions(quotes(text))
    hits: Counter[Language] = Counter()
    for found in _RUN.finditer(text):
        check_stop()
        word = found.group()
        languages = languages_of.get(word.casefold())
        # A capital inside a text is a name's: Van Gogh.
        if languages is not None and (word.islower() or not found.start()) and not quoted.contain(found.start()):
            hits.update(languages)
    return hits


def _scripts_of(language: Language) -> frozenset[str]:
    return _SCRIPTS.get(language, _LATIN)


def _writing(shares: Mapping[str, float]) -> frozenset[str]:
    """The script that a text has most of, with those that are written together with it."""
    most = _most(shares)
    return _JAPANESE if most in _JAPANESE else frozenset({most})


def _shares(text: str) -> Mapping[str, float]:
    """The share of each script in a text, in words; that of all words, where all of them are in no language."""
    if text.isascii():
        return {"LATIN": 1.0} if any(map(str.isalpha, text)) else {}
    loose: defaultdict[str, float] = defaultdict(float)
    weights: defaultdict[str, float] = defaultdict(float)
    quoted = Regions(quotes(text))
    for found in _RUN.finditer(text):
        check_stop()
        run = found.group()
        for script, letters in Counter(_script(one) for one in run if one.isalpha()).items():
            weight = letters / _CHARACTERS_OF_A_WORD if script in _JAPANESE else letters / len(run)
            loose[script] += weight
            if not quoted.contain(found.start()) and (script != "LATIN" or _is_of_a_language(text, found)):
                weights[script] += weight
    weights = weights or loose
    total = sum(weights.values())
    return {script: weight / total for script, weight in weights.items()}


def _is_of_a_language(text: str, found: "re.Match[str]") -> bool:
    """Whether a Latin word is of a language: not 4K, HDR, Canon, 50 mm, f/1.8."""
    run = found.group()
    return bool(run.islower() and _PLAIN_WORD.fullmatch(run)) and not _NUMBER_BEFORE.search(
        text, max(0, found.start() - 2), found.start()
    )


def _most(shares: Mapping[str, float]) -> str:
    """The script with the largest share; the parts of Japanese writing count together."""
    japanese = sum(share for script, share in shares.items() if script in _JAPANESE)
    most = max(shares, key=shares.__getitem__)
    if japanese > shares[most]:
        return max(_JAPANESE & shares.keys(), key=shares.__getitem__)
    return most


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0]
