"""Finds the user's own words that a result must keep: in the prompt, and again in an answer. Pure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Literal

from handler.enhancement import scripts
from handler.enhancement.forms import forms
from handler.enhancement.names import names
from handler.enhancement.negation import Negated, Noun, negated
from handler.enhancement.numbers import measured, numbers, spellings
from handler.enhancement.pack import Words
from handler.enhancement.phrases import UNSPACED_CHARACTER
from handler.enhancement.quotes import inner, quotes
from handler.enhancement.regions import Region, Regions
from handler.enhancement.wording import Token, Word, words_of
from handler.pool import check_stop

SpanKind = Literal["asked", "quoted", "syntax", "count", "colour", "name", "negation"]

#: spans of one prompt, at most; each is searched in every text, and with thousands that would take minutes
MAX_SPANS = 128

# A character in front of a quantifier is possessive (`++`, `*+`) wherever what follows it cannot begin with it, so that
# a text of one character takes linear time.
#: `<lora:name:0.8>`, `(word:1.2)`, `[from:to:0.5]`, `((word))`, BREAK: the syntax that image UIs read in a prompt
_SYNTAX = re.compile(
    r"<[\w-]++:[^<>|\n]++>|\([^()\n]+:\s*+\d++(?:\.\d++)?+\)|\[[^\[\]\n]+:\s*+\d++(?:\.\d++)?+\]"
    r"|(?<!\()\({2,}+[^()\n]++\){2,}+|\bBREAK\b"
)
#: searched texts of one prompt that are kept
_KEPT = 4
#: letters by which a form of a name may be longer, at most, and those of a name that may have one: Paris, Parisian
_LONGER, _LONG = 4, 4


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the user's prompt that the result must keep."""

    kind: SpanKind
    text: str
    #: the pack's word lists, by which the span is found again
    words: Words = field(compare=False, repr=False)
    #: where it is in the prompt; of a negation, from its first noun or negating word to its last
    region: Region | None = field(default=None, compare=False)
    #: only of a negation: the forms of each word that it negates
    noun: tuple[frozenset[str], ...] | None = field(default=None, compare=False)
    #: only of a negation: without a negation the noun is against the user's words
    is_strict: bool = field(default=True, compare=False)
    #: the endings of a noun's plural in the prompt's language
    endings: tuple[str, ...] = field(default=(), compare=False)


class Spans(tuple[Span, ...]):
    """The spans of one prompt; they keep the last texts in which they were searched."""

    def searched(self, text: str) -> "Searched":
        """A text in which they are searched."""
        kept: dict[str, Searched] = self.__dict__.setdefault("kept", {})
        if (found := kept.get(text)) is None:
            if len(kept) >= _KEPT:
                kept.clear()
            found = kept[text] = Searched(text, self)
        return found


class Searched:
    """A text in which the spans of a prompt are searched."""

    def __init__(self, text: str, spans: Sequence[Span]) -> None:
        self._text = text
        self._words = spans[0].words if spans else Words()
        self._endings = spans[0].endings if spans else ()

    def places(self, span: Span) -> Iterator[Region]:
        """Where a span is; from left to right, and but for a negation without overlap."""
        if span.kind in ("asked", "syntax"):
            return self._exactly(span.text)
        if span.kind == "quoted":
            return iter(self._quoted.get(inner(span.text), ()))
        if span.noun is not None:
            return iter(sorted(self._negated_by_form(span.noun[-1])))
        return self._worded(span)

    def place(self, span: Span) -> Region | None:
        """The first place of a span; None where the text lacks it."""
        return next(self.places(span), None)

    def affirmed(self, span: Span) -> list[Region]:
        """Where the noun of a negation is without one."""
        if span.noun is None or not span.is_strict:
            return []
        *before, last = span.noun
        found: list[Region] = []
        for index in sorted({index for form in last for index in self._forms.get(form, ())}):
            check_stop()
            first = index - len(before)
            if first >= 0 and all(map(frozenset.intersection, before, self._forms_of_tokens[first:index])):
                start, end = self._tokens[first].start, self._tokens[index].end
                if not self._not_affirmed.contain(start):
                    found.append((start, end))
        return found

    def _exactly(self, wanted: str) -> Iterator[Region]:
        start = self._text.find(wanted)
        while start >= 0:
            check_stop()
            yield start, start + len(wanted)
            start = self._text.find(wanted, start + len(wanted))

    def _worded(self, span: Span) -> Iterator[Region]:
        """Where the words of a span are, or words that mean the same."""
        read = self._words.protect.wording.read
        keys = tuple(token.key for token in read(span.text))
        found = {place for one in spellings(keys) if one for place in self._sequence(one, span.kind)}
        behind = 0
        for start, end in sorted(found):
            if start >= behind:
                behind = end
                yield start, end

    def _sequence(self, keys: tuple[str, ...], kind: SpanKind) -> Iterator[Region]:
        tokens = self._tokens
        starts = self._at.get(keys[0], ())
        if kind == "name" and len(keys) == 1:
            starts = [*starts, *self._longer.get(keys[0], ())]
            starts += [index for cut in _shorter(keys[0]) for index in self._at.get(cut, ())]
        for index in starts:
            check_stop()
            following = tokens[index + 1 : index + len(keys)]
            if len(following) == len(keys) - 1 and all(
                _is(token.key, key, kind) for token, key in zip(following, keys[1:], strict=True)
            ):
                start, end = tokens[index].start, tokens[index + len(keys) - 1].end
                if kind != "count" or len(keys) > 1 or not self._is_part_of_a_word(start):
                    yield start, end

    def _is_part_of_a_word(self, start: int) -> bool:
        """Whether a hyphen joins a number to letters before it, as in F-150."""
        text = self._text
        return start > 1 and text[start].isdigit() and text[start - 1] in "-‑" and text[start - 2].isalpha()

    @cached_property
    def _split(self) -> list[Word]:
        return words_of(self._text)

    @cached_property
    def _tokens(self) -> tuple[Token, ...]:
        return self._words.protect.wording.tokens(self._text, self._split)

    @cached_property
    def _at(self) -> dict[str, list[int]]:
        """The tokens of each key; of a number with a unit, under the number, too."""
        found: dict[str, list[int]] = {}
        for index, token in enumerate(self._tokens):
            found.setdefault(token.key, []).append(index)
            if token.key[0].isdigit() and (number := measured(token.key)):
                found.setdefault(number, []).append(index)
        return found

    @cached_property
    def _longer(self) -> dict[str, list[int]]:
        """The tokens that a name may be the beginning of."""
        found: dict[str, list[int]] = {}
        for index, token in enumerate(self._tokens):
            for cut in _shorter(token.key):
                found.setdefault(cut, []).append(index)
        return found

    @cached_property
    def _forms_of_tokens(self) -> list[frozenset[str]]:
        return [forms(token.key, self._endings) for token in self._tokens]

    @cached_property
    def _forms(self) -> dict[str, list[int]]:
        """The tokens of each form."""
        found: dict[str, list[int]] = {}
        for index, forms_of_token in enumerate(self._forms_of_tokens):
            for form in forms_of_token:
                found.setdefault(form, []).append(index)
        return found

    @cached_property
    def _quotes(self) -> tuple[Region, ...]:
        return quotes(self._text)

    @cached_property
    def _quoted(self) -> dict[str, list[Region]]:
        found: dict[str, list[Region]] = {}
        for start, end in self._quotes:
            found.setdefault(inner(self._text[start:end]), []).append((start, end))
        return found

    @cached_property
    def _negated(self) -> tuple[Negated, ...]:
        return negated(self._text, self._words, Regions(self._quotes), self._split)

    @cached_property
    def _negated_at(self) -> dict[str, set[Region]]:
        """By form of each word of a negated noun: from the negating word to the noun."""
        found: dict[str, set[Region]] = {}
        for one in self._negated:
            for noun in one.nouns:
                region = min(one.lead[0], noun.start), max(one.lead[1], noun.end)
                for word in noun_forms(self._text, noun, self._words, self._endings):
                    for form in word:
                        found.setdefault(form, set()).add(region)
        return found

    def _negated_by_form(self, word: frozenset[str]) -> set[Region]:
        return {region for form in word for region in self._negated_at.get(form, ())}

    @cached_property
    def _not_affirmed(self) -> Regions:
        """Where a noun says nothing about the picture: in a negation, and in quoted text."""
        return Regions([*(one.region for one in self._negated), *self._quotes])


def _is(key: str, wanted: str, kind: SpanKind) -> bool:
    return key == wanted or (kind == "name" and (wanted in _shorter(key) or key in _shorter(wanted)))


def _shorter(key: str) -> list[str]:
    """The beginnings of a word that may be the same name: of Parisian, Paris."""
    return [key[:length] for length in range(max(_LONG, len(key) - _LONGER), len(key))]


def noun_forms(text: str, noun: Noun, words: Words, endings: Iterable[str]) -> tuple[frozenset[str], ...]:
    """The forms of each word of a negated noun; one character after the other, in a script without spaces, is one."""
    tokens = words.protect.wording.read(text[noun.start : noun.end])
    return tuple(forms(token.key, endings) for token in tokens)


def find(prompt: str, words: Words, asked: Iterable[str], *, translated: bool = False) -> Spans:
    """The first `MAX_SPANS` spans of a prompt, each once.

    `asked`: the texts that the request protects. `translated`: the result is to be in another language, in which only
    those, quotes, syntax and numbers can be found again.
    """
    spans: dict[tuple[SpanKind, str], Span] = {}
    for span in _spans(prompt, words, asked, translated):
        spans.setdefault((span.kind, span.text.casefold()), span)
        if len(spans) == MAX_SPANS:
            break
    found = Spans(spans.values())
    asked_for = found.searched(prompt)
    # What the prompt names without a negation, too, may be in the picture.
    return Spans(replace(span, is_strict=False) if asked_for.affirmed(span) else span for span in found)


def _spans(prompt: str, words: Words, asked: Iterable[str], translated: bool) -> Iterator[Span]:
    protect = words.protect
    syntax, quoted = [match.span() for match in _SYNTAX.finditer(prompt)], quotes(prompt)
    taken, tokens = Regions([*syntax, *quoted]), protect.wording.read(prompt)
    denied = negated(prompt, words, taken)
    language = scripts.latin_language(prompt, words)
    endings = protect.negation.endings.get(language, ())

    def of(kind: SpanKind, regions: Iterable[Region]) -> Iterator[Span]:
        return (Span(kind, prompt[start:end], words, (start, end), endings=endings) for start, end in regions)

    inside = Regions([*syntax, *quoted, *(one.region for one in denied)])

    def outside(kind: SpanKind, regions: Iterable[Region]) -> Iterator[Span]:
        return of(kind, (region for region in regions if not inside.contain(region[0])))

    yield from (Span("asked", text, words, endings=endings) for text in asked)
    if protect.syntax:
        yield from of("syntax", syntax)
    if protect.quoted:
        yield from of("quoted", quoted)
    yield from outside("count", numbers(prompt, tokens, protect, Regions(quoted)))
    if translated:
        return
    colours = ((token.start, token.end) for token in tokens if token.key in protect.colour_keys)
    yield from outside("colour", colours)
    if protect.names:
        yield from outside("name", names(prompt, words.small, capital_nouns=language in protect.capital_nouns))
    for one in denied:
        for noun in one.nouns:
            yield _negation(prompt, one, noun, words, endings)


def _negation(prompt: str, one: Negated, noun: Noun, words: Words, endings: tuple[str, ...]) -> Span:
    first, last = sorted((one.lead, (noun.start, noun.end)))
    if noun is one.nouns[0]:
        text = prompt[first[0] : last[1]]
    else:  # the negating word and this noun of a list
        spaced = "" if UNSPACED_CHARACTER.match(prompt, noun.start) else " "
        text = f"{prompt[slice(*first)]}{spaced}{prompt[slice(*last)]}"
    worded = noun_forms(prompt, noun, words, endings)
    # One character of Chinese is a part of other words, too.
    strict = not noun.is_restricted and noun.end - noun.start > 1
    return Span("negation", text, words, one.region, worded, strict, endings)


def regions(text: str, spans: Spans) -> tuple[Region, ...]:
    """The regions of a text that are the first place of each span."""
    searched = spans.searched(text)
    return tuple(place for span in spans if (place := searched.place(span)) is not None)


def unbroken(text: str, spans: Spans) -> tuple[Region, ...]:
    """The regions in which no clause ends: all quoted text, syntax, and texts that the request protects."""
    searched = spans.searched(text)
    matches = (match.span() for match in _SYNTAX.finditer(text))
    asked = chain.from_iterable(searched.places(span) for span in spans if span.kind == "asked")
    return (*quotes(text), *matches, *asked)


def missing(text: str, spans: Spans) -> tuple[Span, ...]:
    """The spans that a text lacks."""
    searched = spans.searched(text)
    return tuple(span for span in spans if searched.place(span) is None)


def reversed_in(text: str, spans: Spans) -> tuple[Region, ...]:
    """The regions of a text that name what the user negated, without a negation; none where the prompt does so, too."""
    searched = spans.searched(text)
    return tuple(place for span in spans for place in searched.affirmed(span))
