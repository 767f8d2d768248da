"""Other forms of a word: its plural, and of an English verb those with -ing and -ed. Pure; knows no irregular word."""

import re
from collections.abc import Iterable

#: an English stem that drops its e or doubles its last letter before -ing: mak-ing, run-ning
_SHORT = re.compile(r"[^aeiouy]*+[aeiouy][^aeiouywx]")
_DOUBLED = re.compile(r".*([^aeioulsz])\1")
#: letters of a stem, at least
_STEM = 3


def forms(word: str, endings: Iterable[str]) -> frozenset[str]:
    """The word with what it may be a form of; two words are forms of one where they have one of these in common.

    `endings`: of the plural, in the text's language.
    """
    found = {word}
    if not word.endswith("ss"):
        found |= {word.removesuffix(end) for end in endings if word.endswith(end) and len(word) - len(end) >= _STEM}
    if word.endswith("ies") and len(word) > _STEM + 1:
        found.add(word[:-3] + "y")
    for end in ("ing", "ed"):
        if word.endswith(end) and len(word) - len(end) >= _STEM - 1:
            found |= _bases(word.removesuffix(end))
    return frozenset(found)


def _bases(stem: str) -> set[str]:
    """What a stem before -ing or -ed is the stem of: smil, runn, walk."""
    if _DOUBLED.fullmatch(stem):
        return {stem[:-1]}
    if _SHORT.fullmatch(stem):
        return {stem + "e"}
    return {stem, stem + "e"}
