"""Brings files into the page cache while the start is busy with something else. Knows bytes alone.

Importing torch takes seconds in which the disk would idle. Reading is a hint, and never fails a start.
"""

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

#: bytes of one read: with 8 MiB the threads' handling of the interpreter's lock slowed the imports 1.7 times
CHUNK = 64 * 2**20
#: reads under way at a time
THREADS = 4
#: places of a chunk that are looked at to tell whether all of it is cached
PROBES = 8


class Readahead:
    """Threads that read files in order, chunk by chunk, and skip what somebody else has read already.

    Into a buffer, though nobody looks at it: a virtual machine gets the memory of a page only when it is touched, and
    where the kernel alone touched it (sendfile to nowhere) the loader waited longer than for the disk.
    """

    def __init__(self, files: Sequence[Path], *, chunk: int = CHUNK, threads: int = THREADS) -> None:
        self._chunk = chunk
        self._work = deque(
            (file, at, min(chunk, size - at))
            for file in files
            for size in [_size(file)]
            for at in range(0, size, chunk)
        )
        self._stopped = threading.Event()
        self._counts: list[int] = []
        self._threads = [threading.Thread(target=self._run, name="readahead", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def read(self) -> int:
        """Bytes read so far that were not cached before."""
        return sum(self._counts)

    def stop(self) -> None:
        """Read no more: loading is done. Returns at once."""
        self._stopped.set()

    def wait(self) -> None:
        """Until all is read."""
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        buffer = memoryview(bytearray(self._chunk))
        while not self._stopped.is_set():
            try:
                file, at, length = self._work.popleft()
                with file.open("rb", buffering=0) as stream:
                    if not _cached(stream.fileno(), at, length):
                        self._counts.append(os.preadv(stream.fileno(), [buffer[:length]], at))
            except (IndexError, OSError, AttributeError):
                return  # no work, or the loader will meet the same error and say it better, or a system without preadv


def chunks(file: Path, size: int = CHUNK) -> Iterator[memoryview]:
    """A file's contents, piece by piece; each is gone when the next one is asked for."""
    buffer = memoryview(bytearray(size))
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            yield buffer[:count]


def _cached(descriptor: int, at: int, length: int) -> bool:
    """Whether these bytes are in the page cache, by a few of them: costs microseconds, and waits for no disk."""
    places = range(at, at + length, max(1, length // PROBES))
    try:
        return all(os.preadv(descriptor, [bytearray(1)], place, os.RWF_NOWAIT) for place in (*places, at + length - 1))
    except OSError:  # not cached, or a file system that cannot tell
        return False


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
