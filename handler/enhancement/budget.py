"""Trims a text to a token budget: whole clauses first, then whole words. Pure; knows no tokenizer.

The whole string is counted again after every cut, since the token counts of two strings do not add up to that of both
together. A text that fits is not changed, so trimming twice gives the same text.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, count

from handler.api.enhance import Trimmed
from handler.enhancement.clauses import Clause, join, separator, split, words
from handler.enhancement.pack import Kind
from handler.enhancement.regions import Region, Regions
from handler.pool import check_stop

#: finds the regions of a text; they are searched again in the text that is left after a cut
FindRegions = Callable[[str], tuple[Region, ...]]


@dataclass(frozen=True, slots=True)
class Limit:
    """The most tokens that a text may have, and how they are counted."""

    count: Callable[[str], int]
    tokens: int

    def fits(self, text: str) -> bool:
        """Whether a text is within the limit."""
        check_stop()
        return self.count(text) <= self.tokens


@dataclass(frozen=True, slots=True)
class Fitted:
    """A text within its budget, and the text that was trimmed."""

    text: str
    trimmed: tuple[Trimmed, ...] = ()


@dataclass(frozen=True, slots=True)
class Ranking:
    """The order in which clauses are kept."""

    #: finds protected text
    regions: FindRegions
    #: finds text inside which no clause ends
    unbroken: FindRegions
    kind: Callable[[str], Kind]
    #: the first kind is dropped last; kinds that are not named are dropped first
    order: tuple[Kind, ...]
    #: the user's own words, by stem
    own: frozenset[str]
    stems: Callable[[str], Iterable[str]]

    def rank(self, text: str, clauses: Sequence[Clause]) -> list[int]:
        """Indexes of clauses: first those with protected text, then those with the user's words, then by kind.

        A word of the user's counts for the first clause that has it.
        """
        protected = Regions(self.regions(text))
        remaining = set(self.own)
        ranks: list[tuple[int, int, int]] = []
        for index, clause in enumerate(clauses):
            own = remaining.intersection(self.stems(clause.text))
            remaining -= own
            if protected.overlap((clause.start, clause.end)):
                level, place = 0, 0
            elif own:
                level, place = 1, 0
            else:
                kind = self.kind(clause.text)
                level, place = 2, self.order.index(kind) if kind in self.order else len(self.order)
            ranks.append((level, place, index))
        return [index for *_, index in sorted(ranks)]


def fit(text: str, limit: Limit, ranking: Ranking) -> Fitted:
    """Drop clauses from the lowest rank, then words, until the text fits. Empty where not one word fits."""
    tokens = limit.count(text)
    if tokens <= limit.tokens:
        return Fitted(text)
    protected_regions = Regions(ranking.regions(text))
    clauses = split(text, ranking.unbroken(text))
    order = ranking.rank(text, clauses)
    protected = sum(protected_regions.overlap((clause.start, clause.end)) for clause in clauses)
    guess = _guess(order, clauses, len(text) * limit.tokens / tokens)
    kept = _longest(order, lambda indexes: limit.fits(join(clauses[index] for index in indexes)), guess)
    if kept and len(kept) >= protected:
        return Fitted(join(clauses[index] for index in kept), _trimmed(clauses, kept, ranking))
    # The protected clauses alone are over the limit: keep their protected words, and as many others as fit.
    kept = sorted(order[: max(1, protected)])
    rest = join(clauses[index] for index in kept)
    cut = _fit_words(rest, limit, ranking.regions(rest))
    lost = Trimmed(kind="subject", text=f"{len(words(rest)) - len(words(cut))} words")
    return Fitted(cut, (*_trimmed(clauses, kept, ranking), lost))


def append(head: str, tail: str, limit: Limit, ranking: Ranking) -> Fitted:
    """Add a tail's clauses to a head, which must fit and is kept byte for byte; drop clauses from the lowest rank."""
    clauses = split(tail, ranking.unbroken(tail))
    order = ranking.rank(tail, clauses)

    def build(indexes: Sequence[int]) -> str:
        return head + separator(head) + join(clauses[index] for index in indexes) if indexes else head

    whole = build(range(len(clauses)))
    tokens = limit.count(whole)
    if tokens <= limit.tokens:
        return Fitted(whole)
    guess = _guess(order, clauses, len(whole) * limit.tokens / tokens - len(head))
    kept = _longest(order, lambda indexes: limit.fits(build(indexes)), guess)
    return Fitted(build(kept), _trimmed(clauses, kept, ranking))


def _fit_words(text: str, limit: Limit, regions: Sequence[Region]) -> str:
    places, protected = words(text, regions), Regions(regions)
    order = sorted(range(len(places)), key=lambda index: (not protected.overlap(places[index]), index))

    def build(indexes: Sequence[int]) -> str:
        parts: list[str] = []
        for before, index in zip([None, *indexes], indexes, strict=False):
            start, end = places[index]
            if before is not None:
                # One space between words, for which no tokenizer counts a token; none in a script without spaces.
                parts.append("" if before == index - 1 and places[before][1] == start else " ")
            parts.append(text[start:end])
        return "".join(parts)

    return build(_longest(order, lambda indexes: limit.fits(build(indexes)), len(order) // 2))


def _guess(order: Sequence[int], clauses: Sequence[Clause], characters: float) -> int:
    """The number of clauses at the front of an order that have at most so many characters together."""
    lengths = accumulate(len(clauses[index].text) for index in order)
    return sum(length <= characters for length in lengths)


def _longest(order: Sequence[int], fits: Callable[[Sequence[int]], bool], guess: int) -> list[int]:
    """The longest front of an order that fits, sorted into the order of the text.

    The search begins near a guess and goes on by bisection, as each count of tokens is slow. The result was counted
    and fits; where a longer text has fewer tokens, a longer front may have fitted, too.
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
    dropped = set(range(len(clauses))).difference(kept)
    return tuple(Trimmed(kind=ranking.kind(clauses[index].text), text=clauses[index].body) for index in sorted(dropped))
