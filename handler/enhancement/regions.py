"""Parts of a text, and which of them a place is in. Pure; knows no text."""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

#: start and end of a part of a text
Region = tuple[int, int]


class Regions:
    """Regions that are asked for by place; any of them may overlap. A question takes logarithmic time."""

    def __init__(self, regions: Iterable[Region]) -> None:
        ordered = sorted(regions)
        self._starts = [start for start, _ in ordered]
        self._reaches = list(accumulate((end for _, end in ordered), max))

    def reach(self, position: int) -> int:
        """The furthest end of the regions that start before a position; 0 where none does."""
        before = bisect_left(self._starts, position)
        return self._reaches[before - 1] if before else 0

    def contain(self, position: int) -> bool:
        """Whether the character at a position is in a region."""
        return self.reach(position + 1) > position

    def overlap(self, region: Region) -> bool:
        """Whether a region has a character in common with one of these."""
        start, end = region
        return self.reach(end) > start

    def join(self, end: int, start: int) -> bool:
        """Whether one region begins before `end` and ends after `start`, so that it holds what is between the two."""
        return self.reach(end) > start
