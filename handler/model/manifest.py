"""What a checkpoint directory should hold, as its manifest.json says, and whether it does. Knows files alone."""

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from handler.errors import StartError
from handler.model.readahead import chunks

FILE = "manifest.json"
VERSION = 1
CURE = "rebuild the image, or fetch the checkpoint again"
#: files hashed at a time
THREADS = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """One file as it was when the manifest was written."""

    size: int
    #: 64 hexadecimal digits
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A directory, and what it should hold. Other files beside are nobody's concern."""

    directory: Path
    #: public name of the model
    name: str
    #: commit, where the source had one
    revision: str | None
    #: by the path inside the directory
    files: Mapping[str, Entry]

    def check_sizes(self) -> None:
        """Look at every file's size: no time at all, and it finds what is missing or was cut off.

        Raises:
            StartError: a file is not there, or not as long as it should be.
        """
        for name, entry in self.files.items():
            try:
                size = (self.directory / name).stat().st_size
            except OSError:
                raise StartError(f"{self.directory / name} is missing, but in {FILE}; {CURE}") from None
            if size != entry.size:
                raise StartError(f"{self.directory / name} has {size} bytes, {FILE} says {entry.size}; {CURE}")

    def check_hash(self, name: str) -> None:
        """Read one file whole.

        Raises:
            StartError: it cannot be read, or does not hold what it should.
        """
        digest = sha256()
        try:
            for chunk in chunks(self.directory / name):
                digest.update(chunk)
        except OSError as error:
            raise StartError(f"{self.directory / name} cannot be read: {error.strerror}; {CURE}") from None
        if (found := digest.hexdigest()) != self.files[name].sha256:
            raise StartError(
                f"{self.directory / name} has the sha256 {found}, {FILE} says {self.files[name].sha256}; {CURE}"
            )


class Hashing:
    """Checks all hashes in threads, beside whatever else the start does."""

    def __init__(self, manifest: Manifest, failed: Callable[[StartError], None]) -> None:
        """`failed` is called on a thread of this, as soon as a file is found that is not what it should be."""
        self._manifest = manifest
        self._failed = failed
        self._errors: list[StartError] = []
        # The largest first: they take the longest.
        self._work = deque(sorted(manifest.files, key=lambda name: -manifest.files[name].size))
        # Daemons, so that a start that fails for another reason does not wait for them.
        self._threads = [threading.Thread(target=self._run, name="hashing", daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Until every file was read.

        Raises:
            StartError: one is not what it should be.
        """
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _run(self) -> None:
        while not self._errors:
            try:
                self._manifest.check_hash(self._work.popleft())
            except IndexError:
                return
            except StartError as error:
                self._errors.append(error)
                self._failed(error)


def read(directory: Path) -> Manifest | None:
    """The manifest of a directory, None where it has none.

    Raises:
        StartError: there is one, and it is not what `python -m builder` writes.
    """
    path = directory / FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return _parse(directory, told)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StartError(f"{path} is not a manifest that this worker reads ({error}); {CURE}") from None


def _parse(directory: Path, told: Any) -> Manifest:
    if told["manifest"] != VERSION:
        raise ValueError(f"version {told['manifest']!r}, not {VERSION}")
    files = {name: Entry(int(entry["size"]), str(entry["sha256"])) for name, entry in told["files"].items()}
    for name, entry in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not re.fullmatch("[0-9a-f]{64}", entry.sha256):
            raise ValueError(f"the entry of {name!r}")
    revision = told["revision"]
    return Manifest(directory, str(told["name"]), None if revision is None else str(revision), files)
