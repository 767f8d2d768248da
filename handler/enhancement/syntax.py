"""Reads the syntax of prompts: which parts of a text image and video UIs take for themselves, and what is left. Pure.

One parser for A1111, ComfyUI, SwarmUI, dynamic prompts and Wan2GP, so that counting, protecting and splitting agree.
What no UI would understand is plain text: brackets without a partner, `:)`, `12:30`, `16:9`, `(a photo)`, URLs, code in
backticks, full-width brackets. `brackets` says what a bracket means. Takes time in proportion to the text.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from handler.enhancement.brackets import Bracket, ElementKind, bare, meaning
from handler.enhancement.regions import Region
from handler.pool import check_stop

#: brackets in brackets that are understood; deeper ones are text
MAX_DEPTH = 64

#: these stand between the texts that they part, and keep their place
POSITIONAL: frozenset[ElementKind] = frozenset({"section", "keyword", "time"})

# A text without any of these has no syntax and no brackets.
_MAY_HAVE = re.compile(r"[(\[{<\\]|__|embedding:|\b(?:BREAK|AND|ADD[A-Z]+)\b")
_NUMBER = r"(?:\d++\.?+\d*+|\.\d++)"
_CLOCK = r"\d{1,2}:\d{2}(?:[.:]\d++)?+"
_SECONDS = r"\d++(?:\.\d++)?+\s?+s"
#: functions of comfyui-prompt-control
_FUNCTIONS = "MASK|IMASK|AREA|FEATHER|MASKW|MASK_SIZE|SDXL|SHIFT|SHUFFLE|NOISE|ATTN|TE_WEIGHT|COUPLE|FILL|STYLE"
#: BREAK of A1111, AND of composable diffusion, the others of regional prompter
_WORDS = "BREAK|AND|ADDCOMM|ADDBASE|ADDCOL|ADDROW|ADDP"
_MARK = re.compile(
    "|".join(
        (
            # text, whatever is in it
            r"(?P<text>```[^`]*+```|`[^`\n]++`|https?://(?:[^\s<>\"'()\[\]]|\([^\s()]*+\)|\[[^\s\[\]]*+\])++"
            r"|(?<![^\s(])[:;]'?+-?+[()\[\]](?=[\s,.!?]|$))",
            r"(?P<escaped>\\[\\{}<>|:])",
            r"(?P<macro>^[ \t]*+![ \t]*+\{\w++\}[ \t]*+=[^\n]*+)",
            rf"(?P<time>(?:^|(?<=\n))\[{_CLOCK}(?:\s*+[-\u2013]\s*+{_CLOCK})?+\]|\[{_SECONDS}(?:\s*+[-\u2013:]\s*+{_SECONDS})?+\])",
            r"(?P<wildcard>(?<!\w)__(?=[^\W_])(?:[^\W_]|_(?!_)|[/*.~@+-])++(?:\([^()\n]*+\))?+__(?!\w))",
            rf"(?P<tag>\b(?:{_FUNCTIONS})\([^()\n]*+\)|\bembedding:[\w./-]++)",
            r"(?P<quoted>(?<!\w)[\"“«「][^\"“”«»「」\n()\[\]{}<>_]{0,100}[\"”»」](?!\w))",
            rf"(?P<keyword>(?<!\w)(?:{_WORDS})(?!\w)|\[(?:SEP|SKIP|PROMPT)\])",
            rf"(?P<share>(?<!\d):\s?+-?+{_NUMBER}(?=\s*+(?:AND\b|\Z)))",
            r"(?P<bare><[A-Za-z][\w-]*+>)",
            r"(?P<opening>\\?[(\[]|\$?\{|<[A-Za-z][\w-]*+(?:\[[^\]\[<>\n]*+\])?+:(?!//))",
            r"(?P<closing>\\?[)\]]|[}>])",
            r"(?P<separator>[|:,])",
        )
    ),
    re.MULTILINE,
)
_OPENED_BY = {")": "(", "]": "[", "}": "{", ">": "<", "\\)": "\\(", "\\]": "\\["}
_END_TAG = re.compile(r"</([A-Za-z][\w-]*+)>")
_NAME_PARTS = re.compile(r"[\W_]++")
_CAPITALS_BEFORE = re.compile(rf"(?<!\w)(?!(?:{_WORDS})\b)[A-Z]{{2,}}\s*+$")
_CAPITALS_BEHIND = re.compile(rf"\s*+(?!(?:{_WORDS})\b)[A-Z]{{2,}}(?!\w)")
#: characters in front of a keyword that may hold the word before it
_WORD_BEFORE = 24


@dataclass(frozen=True, slots=True)
class Element:
    """A piece of syntax; what is inside belongs to it."""

    kind: ElementKind
    start: int
    end: int
    #: what the text encoder reads of it
    words: str

    @property
    def region(self) -> Region:
        """Where it is."""
        return self.start, self.end

    @property
    def is_positional(self) -> bool:
        """Whether it stands between texts that it parts."""
        return self.kind in POSITIONAL


@dataclass(frozen=True, slots=True)
class Parsed:
    """A text with its syntax."""

    text: str
    #: from left to right, none inside of another
    elements: tuple[Element, ...]
    #: pairs of brackets on one line that are plain text; elements may lie in them
    plain: tuple[Region, ...]
    #: what the text encoder reads of the text
    encoded: str

    @property
    def regions(self) -> tuple[Region, ...]:
        """Where the syntax is."""
        return tuple(element.region for element in self.elements)

    @property
    def unbroken(self) -> tuple[Region, ...]:
        """Where no clause ends: in syntax and in brackets."""
        return (*self.regions, *self.plain)


def encoded(text: str) -> str:
    """What the text encoder reads, once a UI has taken its syntax out.

    Of a tag nothing is read, of a weight its words; an escaped bracket is a bracket. Of alternations, schedules and
    variants the longest option is read; of a wildcard and a variable, for which the UI puts an unknown text, the name.
    Of BREAK, sections and time marks nothing is read, and the texts that they part are read in one.
    """
    return parse(text).encoded


def parse(text: str) -> Parsed:
    """Find the syntax of a text."""
    if _MAY_HAVE.search(text) is None:
        return Parsed(text, (), (), text)
    return _Parser(text).parsed()


class _Parser:
    """One walk over a text, with the brackets that are open."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._open = [Bracket("", 0)]
        #: open brackets by kind, so that a bracket without a partner is known without a search
        self._waiting: Counter[str] = Counter()
        #: those of them that are too deep to be understood, and text
        self._deep: Counter[str] = Counter()
        self._elements: list[Element] = []
        self._plain: list[Region] = []
        self._read = 0
        self._shares = "AND" in text

    def parsed(self) -> Parsed:
        for mark in _MARK.finditer(self._text):
            check_stop()
            self._take(mark)
        self._say_until(len(self._text))
        whole = self._open[0]
        for bracket in self._open[1:]:  # from the outermost on, so that each part is moved once
            _merge(whole, bracket)
        return Parsed(self._text, tuple(self._elements), tuple(sorted(self._plain)), whole.reading)

    def _take(self, mark: re.Match[str]) -> None:
        text, start, end = self._text, *mark.span()
        match mark.lastgroup:
            case "opening" if len(self._open) > MAX_DEPTH:
                self._deep[_kind_of(mark[0])] += 1
            case "opening":
                self._say_until(start)
                self._open.append(Bracket(mark[0], start))
                self._waiting[_kind_of(mark[0])] += 1
                self._read = end
            case "closing":
                self._close(mark[0], start, end)
            case "separator":
                self._separate(mark[0], start)
            case "escaped":
                self._say_until(start)
                self._read = start + 1
            case "macro" | "time" | "tag" as found:
                self._add(Element(found, start, end, ""))
            case "wildcard":
                self._add(Element("wildcard", start, end, _NAME_PARTS.sub(" ", mark[0]).strip()))
            case "keyword" if mark[0] != "AND" or not self._is_title(start, end):
                self._add(Element("keyword", start, end, ""))
            case "share" if self._shares and len(self._open) == 1:
                self._add(Element("keyword", start, end, ""))
            case "share":
                self._separate(":", start)
            case "bare":
                if kind := bare(mark[0][1:-1], self._closed_tags):
                    self._add(Element(kind, start, end, text[start:end] if kind == "token" else ""))
            case _:
                pass

    def _add(self, element: Element) -> None:
        """An element that is no bracket, or one that was closed."""
        self._say_until(element.start)
        self._read = element.end
        inside = self._open[-1]
        _say(inside, element.words)
        inside.holds_syntax = True
        inside.holds_weight |= element.kind == "weight"
        while self._elements and self._elements[-1].start >= element.start:
            self._elements.pop()
        while self._plain and self._plain[-1][0] >= element.start:
            self._plain.pop()
        self._elements.append(element)

    def _separate(self, separator: str, start: int) -> None:
        inside = self._open[-1]
        if len(self._open) == 1 or (separator == "," and inside.opening[0] != "<"):
            return
        self._say_until(start)
        self._read = start + 1
        inside.separators.append(separator)
        inside.places.append(start)
        inside.parts.append([])

    def _close(self, closing: str, start: int, end: int) -> None:
        kind = _OPENED_BY[closing]
        self._say_until(start)
        if self._deep[kind] or not self._waiting[kind]:
            self._deep[kind] = max(0, self._deep[kind] - 1)
            self._read = end - 1  # text, without a backslash before it
            return
        self._read = end
        depth = next(depth for depth in reversed(range(len(self._open))) if _kind_of(self._open[depth].opening) == kind)
        bracket = self._open[depth]
        for unpaired in self._open[depth + 1 :]:
            self._waiting[_kind_of(unpaired.opening)] -= 1
            _merge(bracket, unpaired)
        del self._open[depth:]
        self._waiting[kind] -= 1
        if found := meaning(self._text, bracket, end):
            self._add(Element(found[0], bracket.start, end, found[1]))
            return
        inside = self._open[-1]
        reading = bracket.reading
        _say(inside, bracket.opening + reading + closing)
        inside.holds_syntax |= bracket.holds_syntax
        inside.plain = bracket.start, end, reading
        if closing != ">" and "\n" not in self._text[bracket.start : end]:
            self._plain.append((bracket.start, end))

    def _say_until(self, position: int) -> None:
        if self._read < position:
            _say(self._open[-1], self._text[self._read : position])
            self._read = position

    def _is_title(self, start: int, end: int) -> bool:
        """Whether AND is a word among words in capitals, as in `CATS AND DOGS`."""
        before = self._text[max(0, start - _WORD_BEFORE) : start]
        return bool(_CAPITALS_BEFORE.search(before) and _CAPITALS_BEHIND.match(self._text, end))

    @cached_property
    def _closed_tags(self) -> frozenset[str]:
        return frozenset(name.lower() for name in _END_TAG.findall(self._text))


def _kind_of(opening: str) -> str:
    return opening if opening[:1] == "\\" else "{" if opening == "${" else opening[:1]


def _say(bracket: Bracket, words: str) -> None:
    bracket.parts[-1].append(words)


def _merge(outer: Bracket, unpaired: Bracket) -> None:
    """A bracket without a partner is text of the one around it, which keeps the separators inside."""
    _say(outer, unpaired.opening.removeprefix("\\"))
    outer.parts[-1] += unpaired.parts[0]
    outer.separators += unpaired.separators
    outer.places += unpaired.places
    outer.parts += unpaired.parts[1:]
    outer.holds_syntax |= unpaired.holds_syntax
    outer.holds_weight |= unpaired.holds_weight
