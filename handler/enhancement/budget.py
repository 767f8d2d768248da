"""Trims a text to a token budget: whole clauses first, whole words at the last. Pure; knows no tokenizer.

The whole string is measured anew after every cut, since a tokenizer's counts do not add up. A text that fits is left
as it is, which makes trimming idempotent.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, count

from handler.api.enhance import Trimmed
from handler.enhancement.clauses import Clause, Region, join, joint, overlaps, split, words
from handler.enhancement.pack import Kind

#: the places where a text must not be cut, found again in the text that is left after a cut
Regions = Callable[[str], tuple[Region, ...]]


@dataclass(frozen=True, slots=True)
class Limit:
    """A number of tokens, and how they are counted."""

    count: Callable[[str], int]
    tokens: int

    def fits(self, text: str) -> bool:
        """True where a text is within the limit."""
        return self.count(text) <= self.tokens


@dataclass(frozen=True, slots=True)
class Fitted:
    """A text within its budget, and what was trimmed for it."""

    text: str
    trimmed: tuple[Trimmed, ...] = ()


@dataclass(frozen=True, slots=True)
class Ranking:
    """The order in which clauses are kept."""

    #: text that is protected
    regions: Regions
    #: text inside which no clause ends
    unbroken: Regions
    kind: Callable[[str], Kind]
    #: the first is dropped last; kinds that are not named are dropped first
    order: tuple[Kind, ...]
    #: the user's own words, by stem
    own: frozenset[str]
    stems: Callable[[str], Iterable[str]]

    def survival(self, text: str, clauses: Sequence[Clause]) -> list[int]:
        """Indexes of clauses: protected ones, those that bring the user's words, then the others by kind."""
        regions = self.regions(text)
        open_words = set(self.own)
        ranks: list[tuple[int, int, int]] = []
        for index, clause in enumerate(clauses):
            brought = open_words.intersection(self.stems(clause.text))
            open_words -= brought
            if overlaps((clause.start, clause.end), regions):
                level, place = 0, 0
            elif brought:
                level, place = 1, 0
            else:
                kind = self.kind(clause.text)
                level, place = 2, self.order.index(kind) if kind in self.order else len(self.order)
            ranks.append((level, place, index))
        return [index for *_, index in sorted(ranks)]


def fit(text: str, limit: Limit, ranking: Ranking) -> Fitted:
    """Drop clauses from the lowest rank, then words, until the text fits. Empty where not one word does."""
    tokens = limit.count(text)
    if tokens <= limit.tokens:
        return Fitted(text)
    regions = ranking.regions(text)
    clauses = split(text, ranking.unbroken(text))
    order = ranking.survival(text, clauses)
    protected = sum(overlaps((clause.start, clause.end), regions) for clause in clauses)
    guess = _guess(order, clauses, len(text) * limit.tokens / tokens)
    kept = _longest(order, lambda indexes: limit.fits(join(clauses[index] for index in indexes)), guess)
    if kept and len(kept) >= protected:
        return Fitted(join(clauses[index] for index in kept), _trimmed(clauses, kept, ranking))
    # Not even the clauses that must stay fit: keep their protected words, and of the others the first ones.
    kept = sorted(order[: max(1, protected)])
    rest = join(clauses[index] for index in kept)
    cut = _fit_words(rest, limit, ranking.regions(rest))
    lost = Trimmed(kind="subject", text=f"{len(words(rest)) - len(words(cut))} words")
    return Fitted(cut, (*_trimmed(clauses, kept, ranking), lost))


def append(head: str, tail: str, limit: Limit, ranking: Ranking) -> Fitted:
    """Put a tail's clauses behind a head that is kept byte for byte and fits; drop clauses from the lowest rank."""
    clauses = split(tail, ranking.unbroken(tail))
    order = ranking.survival(tail, clauses)

    def build(indexes: Sequence[int]) -> str:
        return head + joint(head) + join(clauses[index] for index in indexes) if indexes else head

    whole = build(range(len(clauses)))
    tokens = limit.count(whole)
    if tokens <= limit.tokens:
        return Fitted(whole)
    guess = _guess(order, clauses, len(whole) * limit.tokens / tokens - len(head))
    kept = _longest(order, lambda indexes: limit.fits(build(indexes)), guess)
    return Fitted(build(kept), _trimmed(clauses, kept, ranking))


def _fit_words(text: str, limit: Limit, regions: Sequence[Region]) -> str:
    places = words(text, regions)
    order = sorted(range(len(places)), key=lambda index: (not overlaps(places[index], regions), index))

    def build(indexes: Sequence[int]) -> str:
        pieces: list[str] = []
        for before, index in zip([None, *indexes], indexes, strict=False):
            start, end = places[index]
            if before is not None:
                # white space as one space, which no tokenizer counts; none where a script has none
                pieces.append("" if before == index - 1 and places[before][1] == start else " ")
            pieces.append(text[start:end])
        return "".join(pieces)

    return build(_longest(order, lambda indexes: limit.fits(build(indexes)), len(order) // 2))


def _guess(order: Sequence[int], clauses: Sequence[Clause], characters: float) -> int:
    """How many clauses from the front of an order have so many characters together."""
    lengths = accumulate(len(clauses[index].text) for index in order)
    return sum(length <= characters for length in lengths)


def _longest(order: Sequence[int], fits: Callable[[Sequence[int]], bool], guess: int) -> list[int]:
    """As many from the front of an order as fit together, back in the order of the text.

    Looked for around a guess first and by halving then, for a measurement costs more than all else here. Whatever is
    returned has been measured and fits; where counts do not grow with the text, more might have fitted.
    """
    low, high, probe = 0, len(order), guess
    for tries in count(1):
        if low == high:
            break
        probe = min(max(probe, low + 1), high)
        fitted = fits(sorted(order[:probe]))
        low, high = (probe, high) if fitted else (low, probe - 1)
        probe = (low + high + 1) // 2 if tries > 2 else probe + 1 if fitted else probe - 1
    return sorted(order[:low])


def _trimmed(clauses: Sequence[Clause], kept: Sequence[int], ranking: Ranking) -> tuple[Trimmed, ...]:
    gone = set(range(len(clauses))).difference(kept)
    return tuple(Trimmed(kind=ranking.kind(clauses[index].text), text=clauses[index].body) for index in sorted(gone))
