"""Counts of times by size, as Prometheus reads them. Knows no clock and no request."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence


class Histogram:
    """Observed seconds. One thread observes; any thread may read, at worst one observation behind."""

    __slots__ = ("_counts", "bounds", "total_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        #: upper ends of the buckets, ascending, in seconds
        self.bounds = tuple(bounds)
        #: sum of what was observed
        self.total_s = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self.bounds, seconds)] += 1
        self.total_s += seconds

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self._counts)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """For each bound, the observations that do not exceed it."""
        seen = 0
        for bound, count in zip(self.bounds, self._counts, strict=False):
            seen += count
            yield bound, seen


class Latency:
    """The times for which callers wait: for the first token, and from each token to the next."""

    __slots__ = ("between", "first")

    def __init__(self) -> None:
        #: TTFT, from the arrival in the engine
        self.first = Histogram((0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120))
        #: ITL
        self.between = Histogram((0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5))

    def token(self, now: float, *, arrived: float, last: float | None) -> None:
        """Count a token of a request that arrived then and had its last token then; None where this is its first."""
        if last is None:
            self.first.observe(now - arrived)
        else:
            self.between.observe(now - last)
