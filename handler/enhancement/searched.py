"""Searches the spans of a prompt in a text: where the user's words are, also written in another way. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from handler.enhancement.forms import forms
from handler.enhancement.negation import Negated, Noun, negated
from handler.enhancement.numbers import measured, spellings
from handler.enhancement.pack import Words
from handler.enhancement.quotes import inner, quotes
from handler.enhancement.regions import Region, Regions
from handler.enhancement.wording import Token, Word, words_of
from handler.pool import check_stop

SpanKind = Literal["asked", "quoted", "syntax", "count", "colour", "name", "negation"]

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
    #: only of a negation: a negative prompt names the noun, so that the result need not negate it
    is_moved: bool = False
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
            last = self._last(index, keys, kind)
            if last is not None and (kind != "count" or len(keys) > 1 or not self._is_part_of_a_word(index)):
                yield tokens[index].start, tokens[last].end

    def _last(self, index: int, keys: tuple[str, ...], kind: SpanKind) -> int | None:
        """The last token of a sequence of keys that begins with a token; None where it goes on in another way."""
        tokens = self._tokens
        for key in keys[1:]:
            index += 1
            if kind == "name" and key != "s" and index < len(tokens) and tokens[index].key == "s":
                index += 1  # NYC's Times Square
            if index >= len(tokens) or not _is(tokens[index].key, key, kind):
                return None
        return index

    def _is_part_of_a_word(self, index: int) -> bool:
        """Whether a hyphen joins a number to letters before it, as in F-150."""
        text, start = self._text, self._tokens[index].start
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
