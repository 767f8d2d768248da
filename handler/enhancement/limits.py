"""A token budget, and what a text keeps before what to be within it. Pure; knows no tokenizer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from handler.enhancement.pack import Kind
from handler.enhancement.regions import Region
from handler.enhancement.syntax import encoded
from handler.pool import check_stop

#: finds the regions of a text; they are searched again in the text that is left after a cut
FindRegions = Callable[[str], tuple[Region, ...]]


@dataclass(frozen=True, slots=True)
class Limit:
    """The most tokens that a text may have, and how they are counted."""

    #: the tokens of what the encoder reads
    count: Callable[[str], int]
    tokens: int

    def fits(self, text: str) -> bool:
        """Whether what the encoder reads of a text is within the limit."""
        check_stop()
        return self.count(encoded(text)) <= self.tokens


@dataclass(frozen=True, slots=True)
class Ranking:
    """What is kept before what."""

    #: finds protected text
    regions: FindRegions
    #: finds text inside which no clause ends
    unbroken: FindRegions
    #: how many phrases of each kind a text has
    kinds: Callable[[str], Mapping[Kind, int]]
    #: whether a text says more than phrases of these kinds
    has_own_words: Callable[[str], bool]
    #: the first kind is dropped last; kinds that are not named are dropped first
    order: tuple[Kind, ...]
    #: kinds of which one clause comes before a second of any
    wanted: tuple[Kind, ...]
    #: the user's own words, by stem
    own: frozenset[str]
    #: those of the clause that names the subject
    subject: frozenset[str]
    stems: Callable[[str], Iterable[str]]
