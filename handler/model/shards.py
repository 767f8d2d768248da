"""Finds the tensors in the safetensors files of a checkpoint, and their offsets. Reads only headers, no tensor.

The format: eight bytes with the length of a JSON header (little-endian), the header, then the tensors without a gap
(https://github.com/huggingface/safetensors, "Format").
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from handler.errors import StartError
from handler.model.one_line import LONGEST, is_printable

#: the dtypes of the format in which unquantised models store their weights
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
#: longest header that the reference implementation reads
LONGEST_HEADER = 100_000_000


@dataclass(frozen=True, slots=True)
class Stored:
    """The place of a tensor in a file."""

    file: Path
    #: of its first byte, in bytes from the beginning of the file
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize


def find_tensors(files: Iterable[Path], name: str) -> dict[str, Stored]:
    """All tensors of a checkpoint, by name; `name` is the operator's name of the model.

    Raises:
        StartError: a file is missing, cut short or damaged, or two files contain the same tensor.
    """
    found: dict[str, Stored] = {}
    for file in files:
        try:
            tensors = dict(_read_header(file))
        except OSError as error:
            raise StartError(
                f"{name}: {file.name} cannot be read: {error.strerror}; check the volume, or fetch it again"
            ) from error
        except _Damaged as damage:
            raise StartError(f"{name}: {file.name} is damaged: {damage}; fetch it again") from damage
        if twice := found.keys() & tensors.keys():
            raise StartError(
                f"{name}: {min(twice)} is in {file.name} and in another file of the checkpoint; fetch it again"
            )
        found |= tensors
    if not found:
        raise StartError(f"{name}: there is no tensor in the weights; fetch the checkpoint again")
    return found


class _Damaged(Exception):
    """A file is damaged; the message says how."""


def _read_header(file: Path) -> Iterator[tuple[str, Stored]]:
    size = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise _Damaged("it ends within its header")
        try:
            header = json.loads(content.read(length))
        except (ValueError, RecursionError, MemoryError) as error:
            raise _Damaged("its header is not JSON") from error
    if not isinstance(header, dict):
        raise _Damaged("its header is not a JSON object")
    header.pop("__metadata__", None)
    begin = 8 + length
    found = [(name, *_read_entry(file, name, entry, begin)) for name, entry in header.items()]
    last, reached = "", begin
    for name, stored, end in sorted(found, key=lambda one: (one[1].offset, one[2])):
        if stored.offset != reached:
            raise _Damaged(_misplaced(name, stored.offset - begin, last, reached - begin))
        if end > size:
            raise _Damaged(f"it has {size} bytes, but {name} ends at byte {end}")
        last, reached = name, end
        yield name, stored
    if reached != size:
        raise _Damaged(f"it has {size} bytes, but its last tensor ends at byte {reached}")


def _misplaced(name: str, first: int, before: str, end: int) -> str:
    """Says where the tensor `name` begins, in place of `end`, at which the tensor `before` ends."""
    begins = f"{name} begins at byte {first} of the tensors"
    if not before:
        return f"{begins}, not at 0"
    return f"{begins}, inside {before}" if first < end else f"{begins}, but {before} ends at byte {end}"


def _read_entry(file: Path, name: str, entry: Any, begin: int) -> tuple[Stored, int]:
    if not is_printable(name):
        raise _Damaged(f"a tensor's name is not printable, or longer than {LONGEST} characters")
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(first), int(last)]}:
            if not all(isinstance(side, int) and side >= 0 for side in shape) or first < 0:
                raise _Damaged(f"the header's entry of {name} is not valid")
        case _:
            raise _Damaged(f"the header's entry of {name} is not valid")
    if dtype not in DTYPES:
        raise StartError(
            f"{file.name}: {name} has the dtype {dtype}, but this worker runs only {', '.join(DTYPES)}; use an "
            "unquantised model"
        )
    stored = Stored(file, begin + first, DTYPES[dtype], tuple(shape))
    if last - first != stored.bytes:
        raise _Damaged(f"{name} has {last - first} bytes, which is not the size of {shape} {dtype}")
    return stored, begin + last
