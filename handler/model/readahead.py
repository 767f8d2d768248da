"""Reads files into the page cache while the start does other work. Knows only bytes.

Importing torch takes seconds, in which the disk would be idle. Errors are ignored: they never fail a start.
"""

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

#: bytes of one read: with 8 MiB the threads took the interpreter lock so often that imports took 1.7 times as long
CHUNK = 64 * 2**20
#: reads at the same time
THREADS = 4
#: offsets of a chunk that are probed to decide whether the whole chunk is cached
PROBES = 8


class Readahead:
    """Threads that read files in order, chunk by chunk, and skip chunks that are cached already.

    They read into a buffer that is not used: a virtual machine gets the memory of a page only when it is touched, and
    when only the kernel touched it (sendfile to /dev/null) the loader waited longer than for the disk.
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
        """Start no further read, once loading is done. Returns at once."""
        self._stopped.set()

    def wait(self) -> None:
        """Wait until all files are read."""
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
                return  # no work left, or a system without preadv, or an error that the loader meets and reports too


def chunks(file: Path, size: int = CHUNK) -> Iterator[memoryview]:
    """The contents of a file in chunks; each chunk is valid until the next one is requested."""
    buffer = memoryview(bytearray(size))
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            yield buffer[:count]


def _cached(descriptor: int, at: int, length: int) -> bool:
    """True where PROBES of these bytes are in the page cache; takes microseconds, and never waits for the disk."""
    places = range(at, at + length, max(1, length // PROBES))
    try:
        return all(os.preadv(descriptor, [bytearray(1)], place, os.RWF_NOWAIT) for place in (*places, at + length - 1))
    except OSError:  # not cached, or the file system does not support the flag
        return False


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
