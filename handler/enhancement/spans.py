"""Finds the user's own words that a result must keep: in the prompt, and again in an answer. Pure."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from handler.enhancement.clauses import Region, overlaps
from handler.enhancement.pack import Protect

SpanKind = Literal["asked", "quoted", "syntax", "count", "colour", "name", "negation"]

#: spans of one prompt, at most; each is searched in every text, and with thousands that would take minutes
MAX_SPANS = 128

_QUOTED = re.compile(r"\"[^\"\n]+\"|“[^“”\n]+”|«[^«»\n]+»|「[^「」\n]+」|『[^『』\n]+』|(?<!\w)'[^'\n]+'(?!\w)")
#: `<lora:name:0.8>`, `(word:1.2)`, `[from:to:0.5]`, `((word))`, BREAK: the syntax that image UIs read in a prompt
_SYNTAX = re.compile(
    r"<[\w-]+:[^<>|\n]+>|\([^()\n]+:\s*\d+(?:\.\d+)?\)|\[[^\[\]\n]+:\s*\d+(?:\.\d+)?\]|(?<!\()\({2,}+[^()\n]+\){2,}|\bBREAK\b"
)
_NUMBER = re.compile(r"(?<![\w.])(?<!\d[.,:/])\d+(?:[.,:/]\d+)*+(?!\w)")
_NAME = re.compile(r"(?<=[\w,;] )[A-Z]\w*[a-z][\w'’-]*(?: [A-Z]\w*[a-z][\w'’-]*)*")
_CAPITAL = re.compile(r"(?<!\w)[A-Z]")
_ARTICLE = r"(?:(?:a|an|the|any|some|other|more)\s+)?"


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the user's prompt that the result must keep."""

    kind: SpanKind
    text: str
    #: finds it in a result
    pattern: re.Pattern[str]
    #: only of a negation: finds the word that it negates
    negated: re.Pattern[str] | None = None


@lru_cache(maxsize=256)
def any_of(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern of the phrases, each whole and in any case; without phrases it matches nothing."""
    longest_first = sorted(phrases, key=len, reverse=True)
    return re.compile(
        rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!(?<=\w)\w)" if phrases else r"(?!)", re.I
    )


def find(prompt: str, protect: Protect, asked: Iterable[str], *, translated: bool = False) -> tuple[Span, ...]:
    """The first `MAX_SPANS` spans of a prompt, each once.

    `asked`: the texts that the request protects. `translated`: the result is to be in another script, in which only
    those, quotes, syntax and numbers can be found again.
    """
    spans: dict[tuple[SpanKind, str], Span] = {}
    for span in _spans(prompt, protect, asked, translated):
        spans.setdefault((span.kind, span.text.casefold()), span)
        if len(spans) == MAX_SPANS:
            break
    return tuple(spans.values())


def _spans(prompt: str, protect: Protect, asked: Iterable[str], translated: bool) -> Iterator[Span]:
    def exactly(kind: SpanKind, texts: Iterable[str]) -> Iterator[Span]:
        return (Span(kind, text, re.compile(re.escape(text))) for text in texts)

    def outside(pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        return (match for match in pattern.finditer(prompt) if not overlaps((match.start(), match.start() + 1), taken))

    def whole(kind: SpanKind, pattern: re.Pattern[str]) -> Iterator[Span]:
        return (Span(kind, match.group(), any_of((match.group(),))) for match in outside(pattern))

    syntax, quoted = tuple(_SYNTAX.finditer(prompt)), tuple(_QUOTED.finditer(prompt))
    taken = [match.span() for match in (*syntax, *quoted)]
    yield from exactly("asked", asked)
    if protect.syntax:
        yield from exactly("syntax", (match.group() for match in syntax))
    if protect.quoted:
        yield from exactly("quoted", (match.group() for match in quoted))
    yield from whole("count", _NUMBER)
    if translated:
        return
    yield from whole("count", any_of(protect.counts))
    yield from whole("colour", any_of(protect.colours))
    if protect.names and len(_CAPITAL.findall(prompt)) * 2 <= len(prompt.split()):  # more capitals: a title
        yield from whole("name", _NAME)
    for match in outside(_negation(protect.negations)):
        noun = match.group("noun")
        yield Span("negation", match.group(), _negation(protect.negations, noun), any_of((noun,)))


def regions(text: str, spans: Iterable[Span]) -> tuple[Region, ...]:
    """The regions of a text that are the first match of each span."""
    return tuple(found.span() for span in spans if (found := span.pattern.search(text)))


def unbroken(text: str, spans: Iterable[Span]) -> tuple[Region, ...]:
    """The regions in which no clause ends: all quoted text, syntax, and texts that the request protects."""
    patterns = (_QUOTED, _SYNTAX, *(span.pattern for span in spans if span.kind == "asked"))
    return tuple(found.span() for pattern in patterns for found in pattern.finditer(text))


def missing(text: str, spans: Iterable[Span]) -> tuple[Span, ...]:
    """The spans that a text lacks."""
    return tuple(span for span in spans if not span.pattern.search(text))


def reversed_in(text: str, spans: Iterable[Span], prompt: str) -> tuple[Region, ...]:
    """The regions of a text that name what the user negated, without a negation; none where the prompt does so, too."""
    places: list[Region] = []
    for span in spans:
        if span.negated is not None and not _affirmed(prompt, span):
            places += _affirmed(text, span)
    return tuple(places)


def _affirmed(text: str, span: Span) -> list[Region]:
    assert span.negated is not None
    negated = [match.span() for match in span.pattern.finditer(text)]
    found = (match.span() for match in span.negated.finditer(text))
    return [place for place in found if not any(start <= place[0] < end for start, end in negated)]


@lru_cache(maxsize=1024)
def _negation(negations: tuple[str, ...], noun: str | None = None) -> re.Pattern[str]:
    """A pattern of a negating word and the word after it; with `noun`, of that word, after up to two others."""
    lead = any_of(negations).pattern
    if noun is None:
        return re.compile(rf"{lead}\s+{_ARTICLE}(?P<noun>[^\W\d_][\w'’-]*)", re.I)
    return re.compile(rf"{lead}\s+(?:[\w'’-]+\s+){{0,2}}{re.escape(noun)}(?!\w)", re.I)
