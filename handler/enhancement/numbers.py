"""Finds numbers in a prompt: in digits, glued to letters (`4x4`, `F-150`, `80s`), and in words. Pure."""

import re
from collections.abc import Iterator

from handler.enhancement.phrases import UNSPACED
from handler.enhancement.protect import Protect
from handler.enhancement.regions import Region, Regions
from handler.enhancement.wording import Token
from handler.pool import check_stop

_NUMBER = r"\d++(?:[.,:/]\d++)*+"
_GLUED = rf"(?:{_NUMBER}|[^\W\d_{UNSPACED}]++)++"
#: of a longer chain, a few parts at a time: a span is searched word by word
_HYPHENATED = re.compile(rf"{_GLUED}(?:[-‑–]{_GLUED}){{0,3}}+")
_DIGIT = re.compile(r"\d")
#: a number and the noun or unit that is glued to it: 3cats, 3-year-old, 100fps
_COUNTED = re.compile(rf"{_NUMBER}(?=[-‑–]?[^\W\d_{UNSPACED}]{{3,}}+(?:[-‑–][^\W\d_{UNSPACED}]++)*+\Z)")
#: 5'10", 6', 12"; not 1990's
_INCHES = re.compile(r"['’′](?!\s?[^\W\d_])(?:\s?\d++[\"”″]?+)?+|[\"”″]")
#: a number with a unit, which may be written apart: 35mm; but not 2nd, 3D, 80s
_MEASURE = re.compile(rf"({_NUMBER})(?!(?:st|nd|rd|th)\Z)([^\W\d_]{{2,}}+)")
#: characters of a word with digits that may be divided in another way, at most
_LONGEST = 24
_BORDER = re.compile(rf"{_NUMBER}|[^\W\d_]++")


def numbers(text: str, tokens: tuple[Token, ...], protect: Protect, quoted: Regions) -> Iterator[Region]:
    """The regions of numbers; `tokens` are the text's. Marks of inches belong to them, where they are not `quoted`."""
    behind = 0
    for found in _HYPHENATED.finditer(text):
        check_stop()
        start, end = found.span()
        if start < behind or not _DIGIT.search(found.group()):
            continue
        if counted := _COUNTED.match(found.group()):
            end = start + counted.end()
        elif (inches := _INCHES.match(text, end)) and not quoted.contain(end) and text[end - 1].isdigit():
            end = behind = inches.end()
        yield start, end
    for token in tokens:
        worded = token.is_worded and int(token.key) > 1
        if worded or (token.key in protect.count_keys and not text[token.start].isdigit()):
            yield token.start, token.end


def measured(key: str) -> str | None:
    """The number of a number with a unit that is glued to it; None for any other word."""
    found = _MEASURE.fullmatch(key)
    return None if found is None else found.group(1)


def spellings(keys: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """The other ways to divide a word with digits: F-150 and F150, 35mm and 35 mm."""
    if not any(map(_DIGIT.search, keys)) or sum(map(len, keys)) > _LONGEST:
        return (keys,)
    together = keys if all(key[0].isdigit() for key in keys) else ("".join(keys),)
    apart = tuple(part for key in keys for part in _BORDER.findall(key))
    return tuple(dict.fromkeys((keys, together, apart)))
