"""The types that describe a snapshot before it is downloaded, and what a source of files has to offer.

Knows no network and no disk.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Digest:
    """The expected hash of a file: the sha256 of its bytes, or the sha1 of the git blob that holds them."""

    kind: Literal["sha256", "git"]
    hex: str


@dataclass(frozen=True, slots=True)
class File:
    """One file of a snapshot."""

    #: its name in the directory that is built
    name: str
    #: bytes
    size: int
    #: None where the source publishes no hash
    digest: Digest | None
    #: its path in the source, relative to the snapshot's root
    origin: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one snapshot."""

    #: `Qwen/Qwen2.5-7B-Instruct`
    name: str
    #: commit of 40 hex digits; None where the source does not record it
    revision: str | None
    #: as the model card names it: `apache-2.0`
    licence: str | None
    files: tuple[File, ...] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def __str__(self) -> str:
        return f"{self.name} at {self.revision or 'an unknown revision'}"


def is_commit(revision: str) -> bool:
    """True for 40 hex digits; a branch or tag may name other files tomorrow."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


class Source(Protocol):
    """A place that files come from."""

    def list(self, name: str, revision: str | None) -> Listing:
        """List every file of a snapshot.

        Raises:
            BuildError: the snapshot does not exist, or the source cannot be reached.
        """

    def fetch(self, listing: Listing, files: Sequence[File], directory: Path) -> None:
        """Bring files of the listing to `directory / file.origin`. The caller verifies them.

        Raises:
            BuildError: the source cannot provide a file.
            OSError: `directory` cannot be written.
        """
