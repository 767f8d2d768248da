"""Bytes of a checkpoint become the weights of a model, by several threads. Knows names, places and files, no model.

On a GPU they are read through two pinned buffers a thread, of which one is filled while the other is copied. On a CPU
what is stored as it is wanted is not read at all: it is the file, mapped, whose pages the host shares among processes
and may drop and fetch again. So a file must not be cut short while it is served. Nothing is held twice.
"""

import errno
import mmap
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path

import torch
from torch import Tensor

from handler.errors import StartError
from handler.model.shards import Stored

#: bytes of one read: larger ones cost pinned memory, smaller ones interpreter time
CHUNK_BYTES = 32 << 20
#: reads at once: enough to keep a network volume busy, and no more than there are cores, for what is cached is copied
THREADS = min(8, len(os.sched_getaffinity(0)))
#: what old checkpoints hold beside weights: a constant that models compute for themselves
COMPUTED = ".rotary_emb.inv_freq"
ENDED = "a file ended too early"
#: of madvise(2), Linux 5.14 and later: give a mapping all its pages at once
POPULATE_READ = 22


def wanted(tensors: Mapping[str, Stored], *, tied: bool) -> dict[str, Stored]:
    """The tensors that a model is made of, without constants, and without a head that is the embedding again."""
    return {
        name: stored
        for name, stored in tensors.items()
        if not name.endswith(COMPUTED) and not (tied and name == "lm_head.weight")
    }


class Checkpoint:
    """Hands out the tensors of a checkpoint, then fills them."""

    def __init__(self, tensors: Mapping[str, Stored], dtype: torch.dtype, device: torch.device, name: str) -> None:
        """`name` is what the operator calls the model."""
        self._left = dict(tensors)
        self._dtype, self._device, self._name = dtype, device, name
        self._maps: dict[Path, mmap.mmap] = {}
        self._chunks: list[_Chunk] = []

    def take(self, names: Mapping[str, tuple[int, ...]]) -> Tensor:
        """The tensors of these names and shapes as one, the first on top; what it holds is told once all are filled.

        Raises:
            StartError: one is missing or of another shape, or a file cannot be opened.
            RuntimeError: of torch, where memory is too small.
        """
        parts = [self._claim(name, shape) for name, shape in names.items()]
        heights = [height for height, *_ in names.values()]
        shape = sum(heights), *parts[0].shape[1:]
        if self._device.type == "cpu" and _as_it_is(parts, self._dtype):
            return self._mapped(parts, shape)
        place = torch.empty(shape, dtype=self._dtype, device=self._device)
        for part, target in zip(parts, place.split(heights), strict=True):
            self._chunks += _chunks(part, target)
        return place

    def fill(self) -> None:
        """Read what was taken, converted where its dtype is another.

        Raises:
            StartError: a tensor was not taken, or a file cannot be read.
        """
        if self._left:
            raise StartError(f"{self._name}: the weights hold {_some(self._left)}, which config.json knows nothing of")
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # nothing that is still to run may write into the places
        lane = _Lane(self._device)
        try:
            with ExitStack() as stack:
                files = {file: _open(file, stack) for file in {chunk.file for chunk in self._chunks}}
                pool = stack.enter_context(ThreadPoolExecutor(THREADS, "weights"))
                stack.callback(pool.shutdown, cancel_futures=True)
                for _ in pool.map(lambda chunk: lane.read(chunk, files[chunk.file]), self._chunks):
                    pass
            for mapped in self._maps.values():
                for at in range(0, len(mapped), CHUNK_BYTES):
                    _populate(mapped, at)
        except OSError as error:
            raise StartError(f"{self._name}: the weights cannot be read: {error.strerror}") from error
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _claim(self, name: str, shape: tuple[int, ...]) -> Stored:
        stored = self._left.pop(name, None)
        if stored is None:
            raise StartError(f"{self._name}: the weights lack {name}, which config.json asks for")
        if stored.shape != shape:
            raise StartError(f"{self._name}: {name} has the shape {[*stored.shape]}, and by config.json {[*shape]}")
        return stored

    def _mapped(self, parts: Sequence[Stored], shape: Sequence[int]) -> Tensor:
        first = parts[0]
        try:
            if first.file not in self._maps:
                with first.file.open("rb") as file:
                    # Private, as torch wants memory that it may write to; nobody does.
                    self._maps[first.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            size = sum(part.elements for part in parts)
            whole = torch.frombuffer(self._maps[first.file], dtype=first.dtype, offset=first.offset, count=size)
        except (OSError, ValueError) as error:  # ValueError: of a file that is shorter than it was a moment ago
            cause = error.strerror if isinstance(error, OSError) else ENDED
            raise StartError(f"{self._name}: the weights cannot be read: {cause}") from error
        return whole.view(*shape)


def _as_it_is(parts: Sequence[Stored], dtype: torch.dtype) -> bool:
    """Whether these lie in a file as they are wanted: one behind the other, and where a processor may look at them."""
    return all(part.dtype == dtype and part.offset % dtype.itemsize == 0 for part in parts) and all(
        before.file == after.file and before.offset + before.bytes == after.offset for before, after in pairwise(parts)
    )


def _some(names: Collection[str]) -> str:
    return min(names) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A piece of a tensor."""

    file: Path
    offset: int
    #: in the file
    dtype: torch.dtype
    #: one-dimensional
    target: Tensor

    @property
    def bytes(self) -> int:
        return self.target.numel() * self.dtype.itemsize


def _chunks(stored: Stored, place: Tensor) -> Iterator[_Chunk]:
    for index, target in enumerate(place.view(-1).split(CHUNK_BYTES // stored.dtype.itemsize)):
        yield _Chunk(stored.file, stored.offset + index * CHUNK_BYTES, stored.dtype, target)


class _Lane(threading.local):
    """A thread's way into the places; `__init__` runs once in each thread."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        pinned = self._stream is not None
        buffers = [torch.empty(CHUNK_BYTES, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        #: buffers in turn, and on a GPU the event after which each may be written again
        self._buffers = cycle([(buffer, torch.cuda.Event() if pinned else None) for buffer in buffers])

    def read(self, chunk: _Chunk, file: int) -> None:
        buffer, copied = next(self._buffers)
        if copied is not None:
            copied.synchronize()
        source = buffer[: chunk.bytes]
        _read(file, source, chunk.offset)
        with torch.cuda.stream(self._stream):  # does nothing for None
            chunk.target.copy_(source.view(chunk.dtype), non_blocking=True)
            if copied is not None:
                copied.record()


def _populate(mapped: mmap.mmap, at: int) -> None:
    """Give a chunk of a file its memory now, not at a first step's look at each page."""
    try:
        mapped.madvise(POPULATE_READ, at, CHUNK_BYTES)
    except OSError as error:
        if error.errno != errno.EINVAL:  # which is a kernel's that does not know how
            raise OSError(errno.EIO, ENDED) from error


def _open(file: Path, stack: ExitStack) -> int:
    descriptor = os.open(file, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    return descriptor


def _read(file: int, into: Tensor, offset: int) -> None:
    """Fill bytes from a file; the interpreter's lock is free meanwhile."""
    rest = memoryview(into.numpy())  # type: ignore[arg-type]  # numpy's stubs do not know it before Python 3.12
    while rest:
        count = os.preadv(file, [rest], offset)
        if not count:
            raise OSError(errno.EIO, ENDED)
        rest, offset = rest[count:], offset + count
