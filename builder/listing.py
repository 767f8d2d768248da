"""What a snapshot is made of, before any of it is here. Knows no network and no disk."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Digest:
    """What the bytes of a file hash to: their sha256, or the sha1 of the git blob that holds them."""

    kind: Literal["sha256", "git"]
    hex: str


@dataclass(frozen=True, slots=True)
class File:
    """One file that is wished for."""

    #: its name in the directory that is built
    name: str
    size: int
    #: None where the source publishes none
    digest: Digest | None
    #: where the source has it, relative to the snapshot's root
    origin: str


@dataclass(frozen=True, slots=True)
class Listing:
    """One snapshot."""

    #: `Qwen/Qwen2.5-7B-Instruct`
    name: str
    #: commit of 40 hex digits; None where the source cannot tell
    revision: str | None
    #: as the model card says it: `apache-2.0`
    licence: str | None
    files: tuple[File, ...] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def __str__(self) -> str:
        return f"{self.name} at {self.revision or 'a revision that is not known'}"


#: told how many bytes have come in; negative where they have to come in again
Tell = Callable[[int], None]


class Source(Protocol):
    """Where files come from."""

    def list(self, name: str, revision: str | None) -> Listing:
        """Every file of a snapshot.

        Raises:
            BuildError: there is no such snapshot, or it cannot be reached.
        """

    def fetch(self, listing: Listing, file: File, to: Path, tell: Tell) -> None:
        """Bring one file; what `to` already holds of it is kept where that is possible.

        Raises:
            BuildError: the source cannot give the file.
            OSError: `to` cannot be written.
        """
