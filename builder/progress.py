"""Progress for a build's log: one line every ten seconds. Knows no source."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

#: seconds between two lines
INTERVAL = 10.0


def format_size(count: float) -> str:
    """Bytes in decimal units, as the hub shows them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def directory_size(directory: Path) -> int:
    """Bytes of all files under a directory. Files may appear and vanish meanwhile."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


class Progress:
    """While it is entered, reports how many of `total` bytes have arrived in a directory.

    It reads sizes from the disk because that works for every source and every transfer protocol alike.
    """

    def __init__(
        self,
        directory: Path,
        total: int,
        log: Callable[[str], None],
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory, self._total, self._log, self._interval, self._clock = directory, total, log, interval, clock
        self._start, self._initial = clock(), directory_size(directory)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def line(self, arrived: int) -> str:
        """The line for so many bytes in the directory now."""
        rate = max(0.0, (arrived - self._initial) / (self._clock() - self._start))
        return f"  {format_size(arrived)} of {format_size(self._total)}, {format_size(rate)}/s"

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._log(self.line(directory_size(self._directory)))
