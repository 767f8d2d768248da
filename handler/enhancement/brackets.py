"""Says what one bracket of a prompt is to image and video UIs, and what their text encoder reads of it. Pure.

Knows one bracket at a time; `syntax` finds the brackets. Sources: A1111's modules/prompt_parser.py, SwarmUI's
docs/Features/Prompt Syntax.md, sd-dynamic-prompts' docs/SYNTAX.md, comfyui-prompt-control's doc/syntax.md,
FramePack-Studio's README and Wan2GP's docs/PROMPTS.md.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

#: weight `(fox:1.2)`; schedule `[fox:wolf:0.5]`; alternation `[fox|wolf]`, `<alternate:fox,wolf>`;
#: variants `{fox|wolf}`, `<random:fox,wolf>`; variable `{Subject}`, `${x}`, `<var:x>`; wildcard `__place__`,
#: `<wildcard:place>`; tag `<lora:ink:0.8>`, `<trigger>`, `embedding:ink`; token `<cat-toy>`, which the encoder has as a
#: word; section `<segment:face>`, keyword `BREAK` and time `[5s]`, which stand between the texts that they part;
#: macro, a line that sets variables; escaped `\(fate\)`
ElementKind = Literal[
    "weight", "schedule", "alternation", "variants", "variable", "wildcard", "tag", "token", "section", "keyword",
    "time", "macro", "escaped",
]  # fmt: skip

#: characters that a repetition reads, at most: repetitions in repetitions would have no bound
MAX_REPEATED = 1000
#: what people give a word; a larger number is a year, an age or a score
MAX_WEIGHT = 10.0

_NUMBER = re.compile(r"\s*+([-+]?+(?:\d++\.?+\d*+|\.\d++))\s*+")
_STEPS = re.compile(r"\s*+[-+]?+(?:\d++\.?+\d*+|\.\d++)%?+(?:\s*+,\s*+(?:\d++\.?+\d*+|\.\d++)%?+)?+\s*+")
_PASS = re.compile(r"[A-Z][A-Z_]*+")
_SECONDS = r"\d++(?:\.\d++)?+\s?+s"
_TIME = re.compile(rf"\s*+{_SECONDS}(?:\s*+[-\u2013]\s*+{_SECONDS})?+\s*+")
_AT_TIME = re.compile(r"\(\s*+at \d++(?:\.\d++)?+ ?s(?:ec(?:ond)?s?)?+\s*+:", re.IGNORECASE)
_LETTER = re.compile(r"[^\W\d_]")
_NAME = re.compile(r"\s*+[^\W_][\w -]{0,39}+\s*+")
_OTHER = re.compile(r"[\W_]++")
_CHOICE = re.compile(r"\s*+(\d{0,4}+)(?:(-)(\d{0,4}+))?+\s*+\$\$(.*+)", re.DOTALL)
_SHARE = re.compile(r"\s*+(?:\d++(?:\.\d*+)?+|\.\d++)::")
_TIMES = re.compile(r"(?:\d++-)?+(\d{1,4}+)")

#: SwarmUI's tags that hold text of the prompt; what any other tag holds is no text
_BRANCHES = {
    "random": "variants",
    "wcrandom": "variants",
    "alternate": "alternation",
    "alt": "alternation",
    "fromto": "schedule",
}
_NAMED = {"wildcard": "wildcard", "wc": "wildcard", "wcwildcard": "wildcard", "var": "variable", "macro": "variable"}
_SET = frozenset({"setvar", "setmacro", "wcaddvar", "wcaddmacro"})
_SECTIONS = frozenset(
    {"segment", "clear", "region", "object", "extend", "base", "refiner", "video", "videoswap", "break"}
)


@dataclass(slots=True)
class Bracket:
    """An opened bracket, and what was found in it."""

    #: as it is written: `(`, `<lora:`, `${`
    opening: str
    start: int
    #: what the encoder reads of the parts, each in pieces, and the separators between them
    parts: list[list[str]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)
    #: by separator: where it is in the text, so that a part's own characters can be found
    places: list[int] = field(default_factory=list)
    #: pieces of syntax in it; a weight among them
    holds_syntax: bool = False
    holds_weight: bool = False
    #: the reading and the region of the last bracket in it that had no meaning of its own
    plain: tuple[int, int, str] | None = None

    @property
    def content(self) -> int:
        """Where the text inside begins."""
        return self.start + len(self.opening)

    @property
    def reading(self) -> str:
        """What the encoder reads inside, as if the separators were text."""
        return self._joined(range(len(self.parts)))

    def split(self, separator: str) -> list[str]:
        """What the encoder reads between the separators of one kind; other ones are text."""
        ends = [index + 1 for index, found in enumerate(self.separators) if found == separator]
        return [self._joined(range(*pair)) for pair in pairwise([0, *ends, len(self.parts)])]

    def without_tail(self, index: int) -> "Bracket":
        """The bracket up to a separator."""
        return replace(
            self, parts=self.parts[: index + 1], separators=self.separators[:index], places=self.places[:index]
        )

    def _joined(self, indexes: range) -> str:
        pieces: list[str] = []
        for index in indexes:
            if index > indexes.start:
                pieces.append(self.separators[index - 1])
            pieces += self.parts[index]
        return "".join(pieces)

    def last(self, separator: str) -> int | None:
        """Which separator is the last of a kind."""
        return next(
            (index for index in reversed(range(len(self.separators))) if self.separators[index] == separator), None
        )


Meaning = tuple[ElementKind, str]


def meaning(text: str, bracket: Bracket, end: int) -> Meaning | None:
    """The kind of a closed bracket, and what the encoder reads of it; None where it is plain text."""
    match bracket.opening[-1]:
        case "(" if bracket.opening[0] == "\\":
            return "escaped", f"({bracket.reading})"
        case "[" if bracket.opening[0] == "\\":
            return "escaped", f"[{bracket.reading}]"
        case "(":
            return _round(text, bracket, end)
        case "[":
            return _square(text, bracket, end)
        case "{":
            return _curly(text, bracket, end)
        case _:
            return _angle(text, bracket, end)


def _round(text: str, bracket: Bracket, end: int) -> Meaning | None:
    if _AT_TIME.match(text, bracket.start):
        return "time", text[bracket.start : end]
    last = bracket.last(":")
    if last is not None:
        body = bracket.content, bracket.places[last]
        number = _NUMBER.fullmatch(text, bracket.places[last] + 1, end - 1)
        if number and abs(float(number[1])) <= MAX_WEIGHT and _is_scaled(text, bracket, body, number[1]):
            return "weight", bracket.without_tail(last).reading
    return _emphasis(text, bracket, end)


def _square(text: str, bracket: Bracket, end: int) -> Meaning | None:
    last = bracket.last(":")
    tail = None if last is None else text[bracket.places[last] + 1 : end - 1]
    if "|" in bracket.separators:
        if last is not None and tail is not None and last == len(bracket.separators) - 1 and _STEPS.fullmatch(tail):
            bracket = bracket.without_tail(last)
        options = bracket.split("|")
        worded = bracket.holds_syntax or any(map(_LETTER.search, options))
        return ("alternation", longest(options)) if worded else None
    if last is None or tail is None:
        return _emphasis(text, bracket, end)
    parts = bracket.split(":")
    if _TIME.fullmatch(parts[0]):
        return "time", bracket.reading.partition(":")[2].strip()
    body = bracket.content, bracket.places[last]
    by_pass = len(parts) == 3 and _PASS.fullmatch(tail)
    if by_pass or (_STEPS.fullmatch(tail) and _is_scaled(text, bracket, body, tail.strip())):
        return "schedule", longest(part for part in parts[:-1] if not _STEPS.fullmatch(part) and part != "SEQ")
    return _emphasis(text, bracket, end)


def _emphasis(text: str, bracket: Bracket, end: int) -> Meaning | None:
    """`((fox))`, `[[fox]]`, and brackets around a weight; single ones are how people write, too."""
    if bracket.plain is not None:
        start, stop, reading = bracket.plain
        doubled = start == bracket.content and stop == end - 1 and text[start] == text[bracket.start]
        if doubled and _LETTER.search(reading):
            return "weight", reading
    return ("weight", bracket.reading) if bracket.holds_weight else None


def _is_scaled(text: str, bracket: Bracket, body: tuple[int, int], number: str) -> bool:
    """Whether what is before a number is text; no ratio, no time of day."""
    if not bracket.holds_syntax and not _LETTER.search(text, *body):
        return False
    return not (text[body[1] - 1].isdigit() and number.isdigit())


def _curly(text: str, bracket: Bracket, end: int) -> Meaning | None:
    inside = text[bracket.content : end - 1]
    if bracket.opening[0] == "$":
        return _dynamic_variable(bracket, inside)
    options = bracket.split("|")
    choice = _CHOICE.fullmatch(options[0])
    if len(options) > 1 or choice:
        if ";" in inside or " || " in inside:
            return None  # a program
        chosen, joint = 1, ", "
        if choice:
            separator, found, first = choice[4].rpartition("$$")
            chosen, joint = int(choice[3 if choice[2] else 1] or len(options)), separator if found else ", "
            options[0] = first
        options = [option[share.end() :] if (share := _SHARE.match(option)) else option for option in options]
        worded = bracket.holds_syntax or any(option.strip().isalnum() or _LETTER.search(option) for option in options)
        return ("variants", joint.join(several(options, chosen))) if worded else None
    return ("variable", inside.strip()) if _NAME.fullmatch(inside) else None


def _dynamic_variable(bracket: Bracket, inside: str) -> Meaning | None:
    name, found, _ = inside.partition("=")
    if found and _NAME.fullmatch(name):
        return "variable", ""
    name, found, _ = inside.partition(":")
    if not _NAME.fullmatch(name):
        return None
    return "variable", bracket.reading.partition(":")[2] if found else name.strip()


def _angle(text: str, bracket: Bracket, end: int) -> Meaning | None:
    if "\n" in text[bracket.start : end]:
        return None
    name, _, parameters = bracket.opening[1:-1].partition("[")
    name, inside = name.lower(), text[bracket.content : end - 1]
    if name in _SECTIONS:
        return "section", ""
    if name in _NAMED:
        return _NAMED[name], _spelled(inside.partition(",")[0])  # type: ignore[return-value]
    if name in _BRANCHES:
        return _BRANCHES[name], " ".join(several(_entries(bracket), _times(parameters)))  # type: ignore[return-value]
    if name in _SET:
        return "variable", "" if "false" in parameters else bracket.reading
    if name == "repeat":
        once = bracket.reading.strip()
        fitting = max(1, MAX_REPEATED // max(1, len(once)))
        return "variable", " ".join([once] * min(_times(parameters), fitting))
    return "tag", ""


def bare(name: str, closed: frozenset[str]) -> ElementKind | None:
    """The kind of a tag that holds nothing, such as `<trigger>`; `closed`: the names of which a `</name>` is there."""
    lowered = name.lower()
    if lowered in closed:
        return None  # markup
    return "section" if lowered in _SECTIONS else "tag" if lowered == "trigger" else "token"


def _entries(bracket: Bracket) -> list[str]:
    """SwarmUI's entries, by the rarest of its separators that is there."""
    whole = bracket.split("|")
    if len(whole) > 1:
        # Of `||` every second entry lies between the two marks.
        return [entry for entry in whole if entry.strip()] or [""]
    return bracket.split(",")


def _times(parameters: str) -> int:
    found = _TIMES.match(parameters)
    return int(found[1]) if found else 1


def _spelled(name: str) -> str:
    """The words of a name: of what stands for it nothing else is known."""
    return _OTHER.sub(" ", name).strip()


def longest(options: Iterable[str]) -> str:
    """The option with most characters, without white space around it."""
    return max((option.strip() for option in options), key=len, default="")


def several(options: Sequence[str], count: int) -> list[str]:
    """So many of the longest options."""
    return sorted((option.strip() for option in options), key=len, reverse=True)[: max(1, count)]
