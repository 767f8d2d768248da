"""Finds what a text negates: each noun that a negating word governs, through lists, too. Pure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from handler.enhancement.pack import Words
from handler.enhancement.phrases import UNSPACED, UNSPACED_CHARACTER, folded
from handler.enhancement.quotes import quotes
from handler.enhancement.regions import Region, Regions
from handler.enhancement.wording import Word, words_of
from handler.pool import check_stop

#: nouns of one list, words of one noun with its adjectives, and characters of one in a script without spaces, at most
_NOUNS, _WORDS, _CHARACTERS = 8, 4, 8
#: phrases that are skipped before a noun, at most
_SKIPPED = 4
_WORD = re.compile(rf"[^\W\d_{UNSPACED}][^\W_{UNSPACED}]*+(?:'[^\W_{UNSPACED}]++)*+")
_GAP = re.compile(r"'?+[^\S\n]*+")
_COMMA = re.compile(r"[^\S\n]*+,[^\S\n]*+")
_MARK = re.compile(r"[^\S\n]*+(?:[、/&]|,?[^\S\n]*+(?=[^\W\d_]))[^\S\n]*+")
_COMPOUND = re.compile(rf"([^\W\d_{UNSPACED}]++)[-‑]([^\W\d_{UNSPACED}]++)(?![-‑\w])")
#: before a word that negates what is in front of it, in Japanese: the verb or particle, and the noun
_JAPANESE = re.compile(r"([\u30a0-\u30ff\u3400-\u9fff]{1,10}+)[\u3040-\u309f]{0,6}+\Z")
_JAPANESE_LIST = re.compile(r"([\u30a0-\u30ff\u3400-\u9fff]{1,10}+)[もとやか]\Z")
_BEFORE = re.compile(rf"([^\W\d_{UNSPACED}]++) (?:(?:is|are|was|were) )?+\Z")
_LAST_WORD = re.compile(rf"(?<!\w)([^\W\d_{UNSPACED}]{{1,10}}+)[^\S\n]*+\Z")
_MARK_AND_GAP = re.compile(r"[的の]?\s*+([,;.。，、]?)[^\S\n]*+")
#: characters before such a word that are searched
_WINDOW = 24


@dataclass(frozen=True, slots=True)
class Noun:
    """A negated noun with its adjectives, or a negated verb or adjective."""

    start: int
    end: int
    has_article: bool = False
    #: it is followed by words that say when or where: without them it may be in the picture
    is_restricted: bool = False


@dataclass(frozen=True, slots=True)
class Negated:
    """A negating word with its nouns."""

    lead: Region
    nouns: tuple[Noun, ...]

    @property
    def region(self) -> Region:
        """From the first character to the last of all of them."""
        ends = [self.lead, *((noun.start, noun.end) for noun in self.nouns)]
        return min(start for start, _ in ends), max(end for _, end in ends)


def negated(
    text: str, words: Words, taken: Regions | None = None, split: Sequence[Word] | None = None
) -> tuple[Negated, ...]:
    """The negating words of a text with their nouns, from left to right; those in `taken` are none.

    `split`: the words of the text, where they are known.
    """
    if not words.protect.negations:
        return ()
    reader = _Reader(text, words, taken, words_of(text) if split is None else split)
    return tuple(sorted((*reader.before_nouns(), *reader.behind_nouns()), key=lambda one: one.region))


def without(text: str, found: Iterable[Negated], words: Words) -> str:
    """A text without its negations, and without the marks and words that joined them."""
    grammar = words.protect.negation
    made, behind = "", 0
    for start, end in sorted(one.region for one in found):
        check_stop()
        between = text[behind:start]
        if start < behind:
            behind = max(behind, end)
            continue
        if not behind or folded(between.strip(" ,")) not in grammar.ors | grammar.ands:
            made = _without_small_end(_joined(made, between) if behind else between, words)
        behind = end
    return (_joined(made, text[behind:]) if behind else text).rstrip(" ,;，、")


def _without_small_end(text: str, words: Words) -> str:
    """A text without the words at its end that led to a negation: with, and there are."""
    while (last := _LAST_WORD.search(text)) is not None and folded(last.group(1)) in words.small:
        check_stop()
        text = text[: last.start()]
    return text


def movable(text: str, words: Words) -> tuple[Negated, ...]:
    """The negations of a text whose nouns say all that is negated, so that these can stand in a negative prompt."""
    taken = Regions(quotes(text))
    found = negated(text, words, taken)
    return tuple(one for one in found if not any(noun.is_restricted for noun in one.nouns))


def _joined(text: str, rest: str) -> str:
    """What is before a negation and what is behind it, as one text."""
    mark = _MARK_AND_GAP.match(rest)
    assert mark is not None
    kept, rest = text.rstrip(), rest[mark.end() :]
    if not kept or kept[-1] in ",;.。，、":  # the whole clause is gone, and so is the mark behind it
        return f"{kept} {rest}".lstrip() if rest else kept
    if mark.group(1):
        return kept + mark.group(1) + (f" {rest}" if rest and mark.group(1) in ",;." else rest)
    return kept + (rest if UNSPACED_CHARACTER.match(rest) else f" {rest}" if rest else "")


class _Reader:
    """Reads the negations of one text."""

    def __init__(self, text: str, words: Words, taken: Regions | None, split: Sequence[Word]) -> None:
        # Every character keeps its place.
        self._text = folded(text.replace("’", "'"))
        self._words = words
        self._grammar = words.protect.negation
        self._taken = taken
        self._roles = dict(self._read(split))

    def before_nouns(self) -> Iterator[Negated]:
        """Negations whose nouns follow."""
        for start, (end, role) in self._roles.items():
            check_stop()
            if role == "alone":
                yield Negated((start, end), (Noun(start, end),))
            elif role in ("before", "verb") and (nouns := tuple(self._nouns((start, end), role == "verb"))):
                yield Negated((start, end), nouns)

    def _read(self, split: Sequence[Word]) -> Iterator[tuple[int, tuple[int, str]]]:
        """By start: the end of each phrase around negations, and its role."""
        tree, index = self._words.protect.around_negations, 0
        while index < len(split):
            check_stop()
            found = tree.at(split, index)
            start, index = split[index][0], index + 1
            if found is not None:
                index, role = found
                end = split[index - 1][1]
                if role == "between" or not self._is_none((start, end)):
                    yield start, (end, role)

    def _is_none(self, lead: Region) -> bool:
        """Whether a negating word is a part of a compound, or of text that is taken."""
        start, end = lead
        joined = end < len(self._text) and self._text[end] in "-‑"
        return joined or (self._taken is not None and self._taken.contain(start))

    def _nouns(self, lead: Region, is_verb: bool) -> list[Noun]:
        first = self._noun(lead[1], is_verb)
        if first is None:
            return []
        nouns, waiting = [first], list[Noun]()
        while len(nouns) + len(waiting) < _NOUNS:
            link = self._link(nouns[-1].end if not waiting else waiting[-1].end)
            noun = None if link is None else self._noun(link[1], is_verb)
            if link is None or noun is None or self._is_of_another_clause(first, noun):
                break
            waiting.append(noun)
            if link[0] == "or" or (link[0] == "and" and all(map(self._is_bare, (first, *waiting)))):
                nouns, waiting = nouns + waiting, []
            elif link[0] == "and":
                break
        return nouns

    def _is_bare(self, noun: Noun) -> bool:
        """Whether it is a word alone, without article."""
        return not noun.has_article and " " not in self._text[noun.start : noun.end]

    def _is_of_another_clause(self, first: Noun, noun: Noun) -> bool:
        """Whether a participle begins something new: without glasses, smiling."""
        return self._is_participle(noun.start) and not self._is_participle(first.start)

    def _is_participle(self, position: int) -> bool:
        word = _WORD.match(self._text, position)
        return word is not None and len(word.group()) > 5 and word.group().endswith("ing")

    def _link(self, position: int) -> tuple[str, int] | None:
        """How a list goes on behind a noun, by `or`, `and` or a comma, and where."""
        mark = _MARK.match(self._text, position)
        if mark is not None:
            if mark.group().strip() in ("、", "/"):
                return "or", mark.end()
            if mark.group().strip() == "&":
                return "and", mark.end()
            word = UNSPACED_CHARACTER.match(self._text, mark.end()) or _WORD.match(self._text, mark.end())
            if word is not None and word.group() in self._grammar.ors:
                return "or", word.end()
            if word is not None and word.group() in self._grammar.ands:
                return "and", word.end()
        comma = _COMMA.match(self._text, position)
        return None if comma is None else ("comma", comma.end())

    def _noun(self, position: int, is_verb: bool) -> Noun | None:
        """The noun, with its adjectives, that begins at a position or behind words that may stand there."""
        has_article = False
        for _ in range(_SKIPPED):
            position = self._behind_gap(position)
            word = _WORD.match(self._text, position)
            if self._roles.get(position, (0, ""))[1] == "between":
                position = self._roles[position][0]
            elif word is not None and word.group() in self._grammar.determiners:
                has_article, position = True, word.end()
            else:
                break
        if UNSPACED_CHARACTER.match(self._text, position):
            return self._unspaced_noun(position)
        end = self._end_of_noun(position)
        if end is None:
            return None
        following = _WORD.match(self._text, self._behind_gap(end))
        follows = following is not None and not self._is_conjunction(following.group())
        return Noun(position, end, has_article, is_verb and follows)

    def _is_conjunction(self, word: str) -> bool:
        return word in self._grammar.ors or word in self._grammar.ands

    def _behind_gap(self, position: int) -> int:
        gap = _GAP.match(self._text, position)
        return position if gap is None else gap.end()

    def _end_of_noun(self, start: int) -> int | None:
        end: int | None = None
        position = start
        for count in range(_WORDS):
            word = _WORD.match(self._text, position)
            if word is None or position in self._roles or self._ends_noun(word.group()):
                break
            if count and self._is_participle(position):
                break
            end = word.end()
            if self._text[end : end + 1] not in (" ", "-"):
                break
            position = end + 1
        return end

    def _ends_noun(self, word: str) -> bool:
        return word in self._words.small or self._is_conjunction(word)

    def _unspaced_noun(self, start: int) -> Noun | None:
        position = start
        while position < min(len(self._text), start + _CHARACTERS):
            character = self._text[position]
            if not UNSPACED_CHARACTER.match(character) or self._ends_noun(character) or position in self._roles:
                break
            position += 1
        return Noun(start, position) if position > start else None

    def behind_nouns(self) -> Iterator[Negated]:
        """Negations whose noun comes first: 帽子なし, crowd-free, people nowhere to be seen."""
        for start, (end, role) in self._roles.items():
            if role == "behind":
                check_stop()
                japanese = UNSPACED_CHARACTER.match(self._text, start)
                if nouns := self._japanese(start) if japanese else self._word_before(start):
                    yield Negated((start, end), nouns)
        if any(f"-{suffix}" in self._text for suffix in self._grammar.compounds):
            for found in _COMPOUND.finditer(self._text):
                check_stop()
                if found.group(2) in self._grammar.compounds and not self._is_none(found.span()):
                    yield Negated(found.span(2), (Noun(*found.span(1)),))

    def _japanese(self, end: int) -> tuple[Noun, ...]:
        found = _JAPANESE.search(self._text, max(0, end - _WINDOW), end)
        nouns: list[Noun] = []
        while found is not None and len(nouns) < _NOUNS:
            nouns.append(Noun(*found.span(1)))
            found = _JAPANESE_LIST.search(self._text, max(0, found.start(1) - _WINDOW), found.start(1))
        return tuple(nouns)

    def _word_before(self, end: int) -> tuple[Noun, ...]:
        found = _BEFORE.search(self._text, max(0, end - _WINDOW), end)
        return () if found is None or found.group(1) in self._words.small else (Noun(*found.span(1)),)
