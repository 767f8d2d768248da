"""Estimates when a full queue has room again, for `retry_after_s`. Knows counts and seconds, no request."""

import math

from handler.engine.protocol import Status

#: bounds of the estimate, in seconds: it is made from recent requests alone, and is not precise beyond them
LEAST_S, MOST_S = 1, 60
#: assumed seconds of a request until the first one has ended: an answer of a few hundred tokens
FIRST_S = 5.0
#: weight of the past in the running average, in requests
MEMORY = 8


class Pace:
    """The running average of how long requests ran, on an engine that runs up to `rows` at the same time."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._ran_s = FIRST_S

    def ended(self, ran_s: float) -> None:
        self._ran_s += (ran_s - self._ran_s) / MEMORY

    def retry_after_s(self, status: Status) -> int:
        """Seconds, 1 to 60, until all requests that wait now have started.

        n running requests of s seconds each let n / s requests start in a second (Little's law). This is an estimate:
        it assumes answers as long as the latest ones, and other requests may arrive before the caller tries again.
        """
        return min(MOST_S, max(LEAST_S, math.ceil(status.waiting * self._ran_s / (status.running or self._rows))))
