"""Reads the tensors of a checkpoint into memory, with several threads. Knows names, offsets and files, no model.

On a GPU each thread reads through two pinned buffers: one is filled while the other is copied to the device. On a CPU a
tensor with the right dtype and order is not read but mapped from its file, whose pages processes share and the system
may drop and read again. So a file must not be cut short while it is served. No tensor is in memory twice.
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

#: bytes of one read: larger reads cost pinned memory, two buffers in each thread; smaller ones time in the interpreter
CHUNK_BYTES = 16 << 20
#: concurrent reads: enough to keep a network volume busy, but not more than cores, because a read from the page cache
#: is a copy
THREADS = min(8, len(os.sched_getaffinity(0)))
#: name of a constant in old checkpoints that is no weight: models compute it
CONSTANT = ".rotary_emb.inv_freq"
ENDED = "a file ended too early"
ADVICE = "fetch the checkpoint again"
#: MADV_POPULATE_READ of madvise(2), Linux 5.14 and later: read all pages of a mapping now
POPULATE_READ = 22


def wanted(tensors: Mapping[str, Stored], *, tied: bool) -> dict[str, Stored]:
    """The tensors that a model needs: all but constants, and the head where it is `tied`, a copy of the embedding."""
    return {
        name: stored
        for name, stored in tensors.items()
        if not name.endswith(CONSTANT) and not (tied and name == "lm_head.weight")
    }


class Checkpoint:
    """The weights of a checkpoint: `take` each tensor, then `fill` them all."""

    def __init__(self, tensors: Mapping[str, Stored], dtype: torch.dtype, device: torch.device, name: str) -> None:
        """`name` is the operator's name of the model, for messages."""
        self._left = dict(tensors)
        self._dtype, self._device, self._name = dtype, device, name
        self._maps: dict[Path, mmap.mmap] = {}
        self._chunks: list[_Chunk] = []

    def take(self, names: Mapping[str, tuple[int, ...]]) -> Tensor:
        """One tensor for the tensors of these names and shapes, concatenated in order; `fill` reads its contents.

        Raises:
            StartError: a tensor is missing or has another shape, or a file cannot be opened.
            RuntimeError: from torch, where memory is too small.
        """
        parts = [self._claim(name, shape) for name, shape in names.items()]
        heights = [height for height, *_ in names.values()]
        shape = sum(heights), *parts[0].shape[1:]
        if self._device.type == "cpu" and _mappable(parts, self._dtype):
            return self._mapped(parts, shape)
        whole = torch.empty(shape, dtype=self._dtype, device=self._device)
        for part, target in zip(parts, whole.split(heights), strict=True):
            self._chunks += _chunks(part, target)
        return whole

    def fill(self) -> None:
        """Read all tensors that were taken, converted where the dtype differs.

        Raises:
            StartError: a tensor of the checkpoint was not taken, or a file cannot be read.
        """
        if self._left:
            raise StartError(
                f"{self._name}: the weights hold {_names(self._left)}, which the model of config.json lacks; {ADVICE}"
            )
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # pending work may still use the memory that the reads overwrite
        reader = _Reader(self._device)
        try:
            with ExitStack() as stack:
                files = {file: _open(file, stack) for file in {chunk.file for chunk in self._chunks}}
                pool = stack.enter_context(ThreadPoolExecutor(THREADS, "weights"))
                stack.callback(pool.shutdown, cancel_futures=True)
                for _ in pool.map(lambda chunk: reader.read(chunk, files[chunk.file]), self._chunks):
                    pass
            for mapped in self._maps.values():
                for at in range(0, len(mapped), CHUNK_BYTES):
                    _populate(mapped, at)
        except OSError as error:
            raise StartError(f"{self._name}: the weights cannot be read: {error.strerror}; check the volume") from error
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            # What conversions to another dtype used: torch would keep it, and the KV cache would be planned without.
            torch.cuda.empty_cache()

    def _claim(self, name: str, shape: tuple[int, ...]) -> Stored:
        stored = self._left.pop(name, None)
        if stored is None:
            raise StartError(f"{self._name}: the weights lack {name}, which the model of config.json needs; {ADVICE}")
        if stored.shape != shape:
            raise StartError(
                f"{self._name}: {name} has the shape {[*stored.shape]}, but config.json needs {[*shape]}; {ADVICE}"
            )
        return stored

    def _mapped(self, parts: Sequence[Stored], shape: Sequence[int]) -> Tensor:
        first = parts[0]
        try:
            if first.file not in self._maps:
                with first.file.open("rb") as file:
                    # A private mapping, because torch requires writable memory; it is never written.
                    self._maps[first.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            size = sum(part.elements for part in parts)
            whole = torch.frombuffer(self._maps[first.file], dtype=first.dtype, offset=first.offset, count=size)
        except (OSError, ValueError) as error:  # ValueError: the file became shorter
            cause = error.strerror if isinstance(error, OSError) else ENDED
            raise StartError(f"{self._name}: the weights cannot be read: {cause}; check the volume") from error
        return whole.view(*shape)


def _mappable(parts: Sequence[Stored], dtype: torch.dtype) -> bool:
    """True where these tensors can be mapped as one: of this dtype, aligned, and one directly after the other."""
    return all(part.dtype == dtype and part.offset % dtype.itemsize == 0 for part in parts) and all(
        before.file == after.file and before.offset + before.bytes == after.offset for before, after in pairwise(parts)
    )


def _names(names: Collection[str]) -> str:
    return min(names) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One read: a part of a tensor."""

    file: Path
    offset: int
    #: dtype in the file
    dtype: torch.dtype
    #: where it goes, one-dimensional
    target: Tensor

    @property
    def bytes(self) -> int:
        return self.target.numel() * self.dtype.itemsize


def _chunks(stored: Stored, tensor: Tensor) -> Iterator[_Chunk]:
    for index, target in enumerate(tensor.view(-1).split(CHUNK_BYTES // stored.dtype.itemsize)):
        yield _Chunk(stored.file, stored.offset + index * CHUNK_BYTES, stored.dtype, target)


class _Reader(threading.local):
    """The buffers of each thread; `__init__` runs once in each thread."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        pinned = self._stream is not None
        buffers = [torch.empty(CHUNK_BYTES, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        #: the buffers in turn, each on a GPU with the event after which it may be written again
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
    """Read a part of a mapped file into memory now, so that the first step does not wait for page faults."""
    try:
        mapped.madvise(POPULATE_READ, at, CHUNK_BYTES)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: the kernel is older and does not support it
            raise OSError(errno.EIO, ENDED) from error


def _open(file: Path, stack: ExitStack) -> int:
    descriptor = os.open(file, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    return descriptor


def _read(file: int, into: Tensor, offset: int) -> None:
    """Fill `into` from a file; the interpreter lock is free during the read."""
    rest = memoryview(into.numpy())  # type: ignore[arg-type]  # numpy's stubs accept it from Python 3.12 on
    while rest:
        count = os.preadv(file, [rest], offset)
        if not count:
            raise OSError(errno.EIO, ENDED)
        rest, offset = rest[count:], offset + count
