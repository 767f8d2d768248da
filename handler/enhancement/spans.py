"""Finds the user's own words that a result must keep: in the prompt, and again in an answer. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from handler.enhancement import scripts
from handler.enhancement.names import names
from handler.enhancement.negation import Negated, Noun, movable, negated, without
from handler.enhancement.numbers import numbers
from handler.enhancement.pack import Words
from handler.enhancement.phrases import UNSPACED_CHARACTER
from handler.enhancement.quotes import quotes
from handler.enhancement.regions import Region, Regions
from handler.enhancement.searched import Span, SpanKind, Spans, noun_forms
from handler.enhancement.syntax import parse

#: spans of one prompt, at most; each is searched in every text, and with thousands that would take minutes
MAX_SPANS = 128

# A character in front of a quantifier is possessive (`++`, `*+`) wherever what follows it cannot begin with it, so that
# a text of one character takes linear time.


def find(prompt: str, words: Words, asked: Iterable[str], *, translated: bool = False) -> Spans:
    """The first `MAX_SPANS` spans of a prompt, each once.

    `asked`: the texts that the request protects. `translated`: the result is to be in another language, in which only
    those, quotes, syntax, numbers and words in capitals can be found again.
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


def moved(spans: Spans, rest: Spans) -> Spans:
    """The spans of what is left of a prompt without its negations, with these, which a negative prompt names."""
    negations = (replace(span, region=None, is_moved=True) for span in spans if span.kind == "negation")
    return Spans([*rest, *negations][:MAX_SPANS])


def without_moved(text: str, spans: Spans) -> str:
    """A text without the negations of nouns that a negative prompt names."""
    wanted = [span for span in spans if span.is_moved]
    if not wanted:
        return text
    places = Regions(place for span in wanted for place in spans.searched(text).places(span))
    found = (one for one in movable(text, wanted[0].words) if places.overlap(one.region))
    return without(text, found, wanted[0].words)


def _spans(prompt: str, words: Words, asked: Iterable[str], translated: bool) -> Iterator[Span]:
    protect = words.protect
    syntax, quoted = parse(prompt).regions, quotes(prompt)
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
    capital_nouns = language in protect.capital_nouns
    if protect.names:
        found = names(prompt, words.small, capital_nouns=capital_nouns, translated=translated)
        yield from outside("name", found)
    if translated:
        return
    colours = ((token.start, token.end) for token in tokens if token.key in protect.colour_keys)
    yield from outside("colour", colours)
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
    return Span("negation", text, words, one.region, worded, strict, endings=endings)


def regions(text: str, spans: Spans) -> tuple[Region, ...]:
    """The regions of a text that are the first place of each span; of syntax every place."""
    searched = spans.searched(text)
    kept = {span.text for span in spans if span.kind == "syntax"}
    syntax = (one.region for one in parse(text).elements if text[one.start : one.end] in kept) if kept else ()
    others = (searched.place(span) for span in spans if span.kind != "syntax")
    return (*syntax, *(place for place in others if place is not None))


def unbroken(text: str, spans: Spans) -> tuple[Region, ...]:
    """The regions in which no clause ends: all quoted text, syntax, brackets, and texts that the request protects."""
    searched = spans.searched(text)
    asked = chain.from_iterable(searched.places(span) for span in spans if span.kind == "asked")
    return (*quotes(text), *parse(text).unbroken, *asked)


def missing(text: str, spans: Spans) -> tuple[Span, ...]:
    """The spans that a text lacks."""
    searched = spans.searched(text)
    return tuple(span for span in spans if not span.is_moved and searched.place(span) is None)


def reversed_in(text: str, spans: Spans) -> tuple[Region, ...]:
    """The regions of a text that name what the user negated, without a negation; none where the prompt does so, too."""
    searched = spans.searched(text)
    return tuple(place for span in spans for place in searched.affirmed(span))
