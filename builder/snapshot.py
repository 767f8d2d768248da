"""The model's snapshot: which one is wished for, and which of its files the worker reads. Knows no network."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Self

from builder import shards
from builder.errors import BuildError
from builder.listing import Listing

NAME = "Qwen/Qwen2.5-7B-Instruct"
#: what its `main` names, by the cached copies (`refs/main`) and pins of many public repositories, November 2026
REVISION = "a09a35458c702b33eeacc393d103063234e8bc28"

#: at the snapshot's root; never pickles (*.bin), other formats (*.gguf) or `original/`
WANTED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "LICENSE*", shards.INDEX,
    f"*{shards.SUFFIX}",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wish:
    """Which snapshot an operator wishes for."""

    name: str
    #: a commit; a branch or tag where that was allowed
    revision: str | None
    #: directory that serves in place of the hub
    source: Path | None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Read MODEL_NAME, MODEL_REVISION, ALLOW_UNPINNED and MODEL_SOURCE; an empty one counts as unset.

        Raises:
            BuildError: what is wished for could be another model tomorrow, and that was not allowed.
        """
        name = environ.get("MODEL_NAME") or NAME
        revision = environ.get("MODEL_REVISION") or (REVISION if name == NAME else None)
        source = environ.get("MODEL_SOURCE")
        wish = cls(name, revision, Path(source).expanduser() if source else None)
        # what lies in a directory does not move
        if not (wish.pinned or wish.source or _flag(environ, "ALLOW_UNPINNED")):
            raise BuildError(
                f"MODEL_REVISION={revision or ''}: {name} needs a commit of 40 hex digits, so that the same image is"
                " built tomorrow; ALLOW_UNPINNED=1 takes what the hub has today"
            )
        return wish

    @property
    def pinned(self) -> bool:
        """True where the revision is a commit."""
        return self.revision is not None and re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None


def choose(listing: Listing) -> Listing:
    """The listing with the files alone that the worker reads.

    Raises:
        BuildError: one is missing without which no model can be served.
    """
    files = tuple(
        file
        for file in listing.files
        if "/" not in file.name and any(fnmatchcase(file.name, pattern) for pattern in WANTED)
    )
    names = {file.name for file in files}
    for needed, there in {
        "config.json": "config.json" in names,
        "weights as safetensors": any(name.endswith(shards.SUFFIX) for name in names),
        "tokenizer.json, nor vocab.json with merges.txt": names >= {"tokenizer.json"}
        or names >= {"vocab.json", "merges.txt"},
    }.items():
        if not there:
            raise BuildError(f"{listing} has no {needed}; it cannot be served")
    return replace(listing, files=files)


def _flag(environ: Mapping[str, str], name: str) -> bool:
    match environ.get(name, "").lower():
        case "1" | "true":
            return True
        case "" | "0" | "false":
            return False
        case value:
            raise BuildError(f"{name}={value}: 1 or 0")
