"""How soon a full queue has room again. Knows counts and seconds, and no request."""

import math

from handler.engine.protocol import Status

#: what a caller is told, at least and at most: an estimate from the recent past is worth no more
LEAST_S, MOST_S = 1, 60
#: until a request has ended, seconds that one is guessed to run: an answer of a few hundred tokens
FIRST_S = 5.0
#: how many of the latest ends count
MEMORY = 8


class Pace:
    """How long requests ran of late, on an engine that runs up to `rows` at once."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._ran_s = FIRST_S

    def ended(self, ran_s: float) -> None:
        self._ran_s += (ran_s - self._ran_s) / MEMORY

    def clears_in_s(self, status: Status) -> int:
        """Seconds, 1 to 60, until all that wait now have begun.

        n requests of s seconds each make room for n / s a second (Little's law). An estimate: it holds while answers
        are as long as the latest were, and promises no place, for others may come first.
        """
        return min(MOST_S, max(LEAST_S, math.ceil(status.waiting * self._ran_s / (status.running or self._rows))))
