"""The model's snapshot: which one the operator asks for, and which of its files the worker reads. Knows no network."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Self

from builder import shards
from builder.errors import BuildError
from builder.listing import Listing, is_commit

NAME = "Qwen/Qwen2.5-7B-Instruct"
#: the commit of its `main` in November 2026, by the cached copies (`refs/main`) and pins of many public repositories
REVISION = "a09a35458c702b33eeacc393d103063234e8bc28"

#: files at the snapshot's root; no pickles (*.bin), no other formats (*.gguf), no `original/`
PATTERNS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "LICENSE*", shards.INDEX,
    f"*{shards.SUFFIX}",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The snapshot that the operator asks for."""

    name: str
    #: a commit; a branch, a tag or None (`main`) where ALLOW_UNPINNED or a source allows it
    revision: str | None
    #: directory that is read in place of the hub
    source: Path | None
    #: of all files, see `manifest.fingerprint`; None pins nothing beyond what `pins` knows
    sha256: str | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Read MODEL_NAME, MODEL_REVISION, MODEL_SHA256, ALLOW_UNPINNED and MODEL_SOURCE; an empty one counts as unset.

        Raises:
            BuildError: the revision may name other files tomorrow, and ALLOW_UNPINNED is not set; or MODEL_SHA256 is
                no hash.
        """
        name = environ.get("MODEL_NAME") or NAME
        revision = environ.get("MODEL_REVISION") or (REVISION if name == NAME else None)
        source = environ.get("MODEL_SOURCE")
        sha256 = environ.get("MODEL_SHA256") or None
        if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
            raise BuildError(f"MODEL_SHA256={sha256!r}: must be 64 hex digits, as an earlier build printed them")
        choice = cls(name, revision, Path(source).expanduser() if source else None, sha256)
        # a directory is one snapshot, whatever its revision is called
        if not (choice.pinned or choice.source or _flag(environ, "ALLOW_UNPINNED")):
            raise BuildError(
                f"MODEL_REVISION={revision or ''}: {name} needs a commit of 40 hex digits, so that the same image is"
                " built tomorrow; ALLOW_UNPINNED=1 takes the newest commit of today"
            )
        return choice

    @property
    def pinned(self) -> bool:
        """True where the revision is a commit."""
        return self.revision is not None and is_commit(self.revision)


def select_files(listing: Listing) -> Listing:
    """Reduce a listing to the files that the worker reads.

    Raises:
        BuildError: a file is missing that the worker needs, or a name cannot be printed.
    """
    files = tuple(
        file
        for file in listing.files
        if "/" not in file.name and any(fnmatchcase(file.name, pattern) for pattern in PATTERNS)
    )
    if unprintable := next((file.name for file in files if not file.name.isprintable()), None):
        raise BuildError(f"{listing} has a file {unprintable!r}, whose name cannot be printed; check HF_ENDPOINT")
    names = {file.name for file in files}
    for needed, found in {
        "config.json": "config.json" in names,
        "weights as safetensors": any(name.endswith(shards.SUFFIX) for name in names),
        "tokenizer.json, nor vocab.json with merges.txt": names >= {"tokenizer.json"}
        or names >= {"vocab.json", "merges.txt"},
    }.items():
        if not found:
            raise BuildError(f"{listing} has no {needed}; it cannot be served")
    return replace(listing, files=files)


def _flag(environ: Mapping[str, str], name: str) -> bool:
    match environ.get(name, "").lower():
        case "1" | "true":
            return True
        case "" | "0" | "false":
            return False
        case value:
            raise BuildError(f"{name}={value}: must be 1 or 0")
