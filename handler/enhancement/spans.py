"""Finds the user's own words that a result must keep: in the prompt, and again in an answer. Pure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal

from handler.enhancement.pack import Protect
from handler.enhancement.phrases import Phrases, folded, whole
from handler.enhancement.regions import Region, Regions
from handler.enhancement.syntax import parse
from handler.pool import check_stop

SpanKind = Literal["asked", "quoted", "syntax", "count", "colour", "name", "negation"]

#: spans of one prompt, at most; each is searched in every text, and with thousands that would take minutes
MAX_SPANS = 128

# A character in front of a quantifier is possessive (`++`, `*+`) wherever what follows it cannot begin with it, so that
# a text of one character takes linear time.
_QUOTED = re.compile(r"\"[^\"\n]++\"|“[^“”\n]++”|«[^«»\n]++»|「[^「」\n]++」|『[^『』\n]++』|(?<!\w)'[^'\n]++'(?!\w)")
_NUMBER = re.compile(r"(?<![\w.])(?<!\d[.,:/])\d++(?:[.,:/]\d++)*+(?!\w)")
_NAME = re.compile(r"(?<=[\w,;] )[A-Z]\w*[a-z][\w'’-]*+(?: [A-Z]\w*[a-z][\w'’-]*+)*+")
_CAPITAL = re.compile(r"(?<!\w)[A-Z]")
#: after a negating word: the word that it negates
_NEGATED = re.compile(r"\s++(?:(?:a|an|the|any|some|other|more)\s++)?(?P<noun>[^\W\d_][\w'’-]*+)", re.IGNORECASE)
_SPACE = re.compile(r"\s++")
_OTHER_WORD = re.compile(r"[\w'’-]++\s++")
#: other words that may stand between a negating word and the word that it negates, at most
_OTHER_WORDS = 2


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the user's prompt that the result must keep."""

    kind: SpanKind
    text: str
    #: only of a negation: the word that it negates
    noun: str | None = None
    #: only of a negation: the pack's negating words
    negations: Phrases | None = None


class Searched:
    """A text in which the spans of a prompt are searched."""

    def __init__(self, text: str, spans: Iterable[Span]) -> None:
        self._text = text
        self._spans = tuple(spans)

    @cached_property
    def _folded(self) -> str:
        return folded(self._text)

    def places(self, span: Span) -> Iterator[Region]:
        """Where a span is; from left to right and without overlap, but for a negation."""
        if span.kind in ("asked", "quoted", "syntax"):
            return self._exactly(span.text)
        if span.noun is None:
            return whole(self._folded, folded(span.text))
        return iter(self._negated.get(folded(span.noun), ()))

    def place(self, span: Span) -> Region | None:
        """The first place of a span; None where the text lacks it."""
        if span.noun is None:
            return next(self.places(span), None)
        return min(self.places(span), key=lambda place: (place[0], -place[1]), default=None)

    def affirmed(self, span: Span) -> list[Region]:
        """Where the word of a negation is without one."""
        if span.noun is None:
            return []
        negated = Regions(self.places(span))
        return [place for place in whole(self._folded, folded(span.noun)) if not negated.contain(place[0])]

    def _exactly(self, wanted: str) -> Iterator[Region]:
        start = self._text.find(wanted)
        while start >= 0:
            check_stop()
            yield start, start + len(wanted)
            start = self._text.find(wanted, start + len(wanted))

    @cached_property
    def _negated(self) -> dict[str, list[Region]]:
        """By noun: from each negating word to the noun, which follows it after up to `_OTHER_WORDS` others."""
        negations = next((span.negations for span in self._spans if span.negations is not None), None)
        found: dict[str, list[Region]] = {}
        if negations is None:
            return found
        nouns = Phrases(span.noun for span in self._spans if span.noun is not None)
        begins = _after(negations, self._text)
        for start, ends in nouns.places(self._text, begins):
            for end in ends:
                found.setdefault(self._folded[start:end], []).append((begins[start], end))
        return found


def _after(negations: Phrases, text: str) -> dict[int, int]:
    """The places where a negated word may begin, with the start of the first negating word before each."""
    places: dict[int, int] = {}
    for end, start in negations.ends(text):
        space = _SPACE.match(text, end)
        for _ in range(_OTHER_WORDS + 1):
            if space is None:
                break
            places[space.end()] = min(start, places.get(space.end(), start))
            space = _OTHER_WORD.match(text, space.end())
    return places


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
    syntax = parse(prompt).regions
    quoted = [match.span() for match in _QUOTED.finditer(prompt)]
    taken = Regions([*syntax, *quoted])

    def of(kind: SpanKind, regions: Iterable[Region]) -> Iterator[Span]:
        return (Span(kind, prompt[start:end]) for start, end in regions)

    def outside(kind: SpanKind, regions: Iterable[Region]) -> Iterator[Span]:
        return of(kind, (region for region in regions if not taken.contain(region[0])))

    def matches(pattern: re.Pattern[str]) -> Iterator[Region]:
        return (match.span() for match in pattern.finditer(prompt))

    yield from (Span("asked", text) for text in asked)
    if protect.syntax:
        yield from of("syntax", syntax)
    if protect.quoted:
        yield from of("quoted", quoted)
    yield from outside("count", matches(_NUMBER))
    if translated:
        return
    yield from outside("count", protect.count_words.find(prompt))
    yield from outside("colour", protect.colour_words.find(prompt))
    if protect.names and len(_CAPITAL.findall(prompt)) * 2 <= len(prompt.split()):  # more capitals: a title
        yield from outside("name", matches(_NAME))
    for start, end, noun in _negations(prompt, protect.negating):
        if not taken.contain(start):
            yield Span("negation", prompt[start:end], noun, protect.negating)


def _negations(prompt: str, negations: Phrases) -> Iterator[tuple[int, int, str]]:
    """Start and end of each negating word with the word that it negates, and that word; without overlap."""
    behind = 0
    tried: dict[int, re.Match[str] | None] = {}
    for start, ends in negations.places(prompt):
        if start < behind:
            continue
        for end in reversed(ends):
            if end not in tried:
                tried[end] = _NEGATED.match(prompt, end)
            if found := tried[end]:
                behind = found.end()
                yield start, behind, found.group("noun")
                break


def regions(text: str, spans: Sequence[Span]) -> tuple[Region, ...]:
    """The regions of a text that are the first place of each span; of syntax every place."""
    searched = Searched(text, spans)
    kept = {span.text for span in spans if span.kind == "syntax"}
    syntax = (one.region for one in parse(text).elements if text[one.start : one.end] in kept) if kept else ()
    others = (searched.place(span) for span in spans if span.kind != "syntax")
    return (*syntax, *(place for place in others if place is not None))


def unbroken(text: str, spans: Sequence[Span]) -> tuple[Region, ...]:
    """The regions in which no clause ends: all quoted text, syntax, brackets, and texts that the request protects."""
    searched = Searched(text, spans)
    quoted = (match.span() for match in _QUOTED.finditer(text))
    return (
        *quoted,
        *parse(text).unbroken,
        *chain.from_iterable(searched.places(span) for span in spans if span.kind == "asked"),
    )


def missing(text: str, spans: Sequence[Span]) -> tuple[Span, ...]:
    """The spans that a text lacks."""
    searched = Searched(text, spans)
    return tuple(span for span in spans if searched.place(span) is None)


def reversed_in(text: str, spans: Sequence[Span], prompt: str) -> tuple[Region, ...]:
    """The regions of a text that name what the user negated, without a negation; none where the prompt does so, too."""
    asked, answered = Searched(prompt, spans), Searched(text, spans)
    return tuple(place for span in spans if not asked.affirmed(span) for place in answered.affirmed(span))
