"""Progress that reads well in a build's log: whole lines, a few a minute. Knows no file."""

import threading
import time
from collections.abc import Callable

#: seconds between two lines
EVERY = 10.0


def size(count: float) -> str:
    """Bytes as people read them, in decimal units as the hub shows them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


class Progress:
    """Adds up bytes that come in on several threads. `have` of `total` bytes were there before."""

    def __init__(
        self, have: int, total: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._have, self._total, self._say, self._clock = have, total, say, clock
        self._last = self._start = clock()
        self._came = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """So many bytes more; negative where some have to come in again."""
        with self._lock:
            self._came += count
            now = self._clock()
            if now - self._last < EVERY:
                return
            self._last = now
            rate = max(0.0, self._came / (now - self._start))
            line = f"  {size(self._have + self._came)} of {size(self._total)}, {size(rate)}/s"
        self._say(line)
