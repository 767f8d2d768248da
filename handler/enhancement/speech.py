"""The part of a text that its writer says: outside of quotation marks, in sentences. Pure; knows no word list."""

import re
from collections.abc import Iterator

from handler.enhancement.regions import Region

_QUOTED = re.compile(
    r"“[^“”\n]++”|„[^„“”\n]++[“”]|«[^«»\n]++»|「[^「」\n]++」|『[^『』\n]++』|《[^《》\n]++》|\u2018[^\u2018\u2019\n]++\u2019(?!\w)"
    r"|(?<!\d)\"[^\"\n]++\"|(?<!\w)'[^'\n]++'(?!\w)"
)
_SENTENCE = re.compile(r"[^.!?…。！？\n]++(?:[.!?…。！？]++|\n|\Z)")
_AROUND = " \t\n*_#>(\"'“[-\u2013\u2014•¡¿"


def said(text: str) -> str:
    """The text with its quoted parts blanked out, every other character in its place, and plain apostrophes."""
    spoken = _QUOTED.sub(lambda quoted: " " * len(quoted.group()), text)
    return spoken.replace("’", "'")


def sentences(text: str) -> Iterator[Region]:
    """Start and end of each sentence, without the marks and spaces in front of it."""
    for found in _SENTENCE.finditer(text):
        sentence = found.group()
        yield found.start() + len(sentence) - len(sentence.lstrip(_AROUND)), found.end()
