"""Brings files into the page cache while the start is busy with something else. Knows bytes alone.

Importing torch takes seconds in which the disk would idle. Reading is a hint, and never fails a start.
"""

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

#: bytes of one call, in which the interpreter's lock is not held
CHUNK = 64 * 2**20
#: calls under way at a time
THREADS = 4


class Readahead:
    """Threads that have the kernel read files, in order. What is cached already costs 0.02 s a GB."""

    def __init__(self, files: Sequence[Path], *, chunk: int = CHUNK, threads: int = THREADS) -> None:
        self._chunk = chunk
        self._work = deque((file, at) for file in files for at in range(0, _size(file), chunk))
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, name="readahead", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Read no more: loading is done. Returns at once."""
        self._stopped.set()

    def wait(self) -> None:
        """Until all is read."""
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        # Sent to nowhere, pages come into the cache and are copied to nobody: 0.03 s of processor time a GB, where
        # reading into a buffer takes 0.4 s, which the imports lack on a machine of two cores.
        with open(os.devnull, "wb", buffering=0) as nowhere:
            while self._work and not self._stopped.is_set():
                try:
                    file, at = self._work.popleft()
                    with file.open("rb", buffering=0) as stream:
                        os.sendfile(nowhere.fileno(), stream.fileno(), at, self._chunk)
                except (IndexError, OSError):
                    return  # the loader will meet the same error, and say it better


def chunks(file: Path, size: int = CHUNK) -> Iterator[memoryview]:
    """A file's contents, piece by piece; each is gone when the next one is asked for."""
    buffer = memoryview(bytearray(size))
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            yield buffer[:count]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
