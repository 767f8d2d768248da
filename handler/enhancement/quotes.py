"""Finds quoted text, in all kinds of quotation marks; inches, feet and apostrophes are none. Pure."""

import re

from handler.enhancement.phrases import UNSPACED
from handler.enhancement.regions import Region

#: a character of a word, but for scripts in which any place may be between two words
_IN_WORD = rf"[^\W{UNSPACED}]"
# Every search ends at the next opening mark of its kind, so that a text of marks alone takes linear time.
_QUOTED = re.compile(
    r"“[^“”\n]++”|„[^„“”\n]++[“”]|«[^«»\n]++»|»[^«»\n]++«|‹[^‹›\n]++›|「[^「」\n]++」|『[^『』\n]++』|《[^《》\n]++》|〈[^〈〉\n]++〉"
    r"|(?<!\w)”[^“”„\n]++”"
    # Behind a digit the mark is one of inches.
    r"|(?<![\d'’′])\"(?=\S)[^\"\n]++\"|(?<!\d)＂[^＂\n]++＂"
    # Inside of a word the mark is an apostrophe.
    rf"|(?<!{_IN_WORD})'(?=[^\s'])(?:[^'\n]|(?<={_IN_WORD})'(?={_IN_WORD}))++(?<=\S)'(?!{_IN_WORD})"
    rf"|‘(?:[^‘’\n]|(?<={_IN_WORD})’(?={_IN_WORD}))++’(?!{_IN_WORD})"
    rf"|‚(?:[^‚‘’\n]|(?<={_IN_WORD})’(?={_IN_WORD}))++[‘’](?!{_IN_WORD})"
)
_AND = re.compile(r"['‘]n['’]", re.IGNORECASE)  # rock 'n' roll
_SPACE = re.compile(r"\s++")
#: marks that stand inside of quotation marks in one country and behind them in another
_CLOSING = ",.;:，。"


def quotes(text: str) -> tuple[Region, ...]:
    """The regions of quoted text, with their marks."""
    return tuple(found.span() for found in _QUOTED.finditer(text) if not _AND.fullmatch(found.group()))


def inner(quoted: str) -> str:
    """A quoted text without its marks, so that it is the same in marks of another kind."""
    return _SPACE.sub(" ", quoted[1:-1].replace("’", "'")).strip().rstrip(_CLOSING)
