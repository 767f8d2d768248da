"""Bytes of a checkpoint into the memory of a model, by several threads. Knows names, places and files, no model.

On a CPU a tensor is read straight into its place; on a GPU through two pinned buffers a thread, of which one is filled
while the other is copied. Nothing is mapped and nothing is held twice.
"""

import errno
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
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


def wanted(tensors: Mapping[str, Stored], *, tied: bool) -> dict[str, Stored]:
    """The tensors that a model is made of, without constants, and without a head that is the embedding again."""
    return {
        name: stored
        for name, stored in tensors.items()
        if not name.endswith(COMPUTED) and not (tied and name == "lm_head.weight")
    }


def fill(places: Mapping[str, Tensor], tensors: Mapping[str, Stored], name: str) -> None:
    """Read every tensor into its place, converted where its dtype is another.

    Args:
        places: contiguous tensors on one device, by names in the checkpoint.
        name: what the operator calls the model.

    Raises:
        StartError: a tensor is missing, unknown or of another shape, or a file cannot be read.
    """
    _check(places, tensors, name)
    chunks = [chunk for key, place in places.items() for chunk in _chunks(tensors[key], place)]
    device = next(iter(places.values())).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # nothing that is still to run may write into the places
    lane = _Lane(device)
    try:
        with ExitStack() as stack:
            files = {file: _open(file, stack) for file in {chunk.file for chunk in chunks}}
            pool = stack.enter_context(ThreadPoolExecutor(THREADS, "weights"))
            stack.callback(pool.shutdown, cancel_futures=True)
            for _ in pool.map(lambda chunk: lane.read(chunk, files[chunk.file]), chunks):
                pass
    except OSError as error:
        raise StartError(f"{name}: the weights cannot be read: {error.strerror}") from error
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _check(places: Mapping[str, Tensor], tensors: Mapping[str, Stored], name: str) -> None:
    if missing := places.keys() - tensors.keys():
        raise StartError(f"{name}: the weights lack {_some(missing)}, which config.json asks for")
    if unknown := tensors.keys() - places.keys():
        raise StartError(f"{name}: the weights hold {_some(unknown)}, which config.json knows nothing of")
    for key, place in places.items():
        if tensors[key].shape != (*place.shape,):
            raise StartError(
                f"{name}: {key} has the shape {[*tensors[key].shape]}, and by config.json {[*place.shape]}"
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
        if self._stream is None and chunk.dtype == chunk.target.dtype:
            _read(file, chunk.target.view(torch.uint8), chunk.offset)
            return
        buffer, copied = next(self._buffers)
        if copied is not None:
            copied.synchronize()
        source = buffer[: chunk.bytes]
        _read(file, source, chunk.offset)
        with torch.cuda.stream(self._stream):  # does nothing for None
            chunk.target.copy_(source.view(chunk.dtype), non_blocking=True)
            if copied is not None:
                copied.record()


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
            raise OSError(errno.EIO, "a file ended too early")
        rest, offset = rest[count:], offset + count
