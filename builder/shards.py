"""Checks weights in shards: index and shards name each other, every shard is complete. Knows no source."""

import json
from collections import defaultdict
from collections.abc import Set
from pathlib import Path

from safetensors import SafetensorError, safe_open

from builder.errors import BuildError

SUFFIX = ".safetensors"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def check_index(directory: Path, shards: Set[str]) -> None:
    """Hold a directory's index against the shards that its source lists; a directory without weights passes.

    Raises:
        BuildError: the index names a shard that is not listed, or does not name one that is.
    """
    named = set(_index(directory)) if (directory / INDEX).is_file() else {SINGLE} & shards
    if missing := sorted(named - shards):
        raise BuildError(
            f"{INDEX} names {', '.join(missing)}, which the source does not have: its snapshot is incomplete"
        )
    if extra := sorted(shards - named):
        raise BuildError(
            f"{INDEX} does not name {', '.join(extra)}: the source mixes two checkpoints, or lost its index"
        )


def check_tensors(directory: Path) -> None:
    """Open every shard: its header must describe all of its bytes, and hold the tensors that the index says.

    Raises:
        BuildError: a shard is incomplete, or holds other tensors.
    """
    index = _index(directory) if (directory / INDEX).is_file() else {}
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            with safe_open(path, "numpy") as shard:
                tensors = set(shard.keys())
        except SafetensorError as error:
            raise BuildError(
                f"{path.name} is not a complete safetensors file: {error}; download the source again"
            ) from None
        if index and tensors != index[path.name]:
            raise BuildError(f"{path.name} holds other tensors than {INDEX} says: the source mixes two checkpoints")


def _index(directory: Path) -> dict[str, set[str]]:
    """The names of each shard's tensors, by the shard's file name."""
    shards = defaultdict(set)
    try:
        for tensor, shard in json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"].items():
            shards[shard].add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BuildError(f"{INDEX} cannot be read: the source's snapshot is damaged") from None
    return dict(shards)
