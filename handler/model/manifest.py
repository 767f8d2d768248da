"""The manifest.json of a checkpoint directory, and the check of its files against it. Knows only files."""

import json
import re
import reprlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from handler.errors import StartError
from handler.model.one_line import is_printable, reason
from handler.model.readahead import chunks

FILE = "manifest.json"
VERSION = 1
ADVICE = "rebuild the image, or fetch the checkpoint again"
#: files hashed at the same time
THREADS = 4
#: what reading a damaged or hostile file of JSON can raise; OverflowError is an ArithmeticError
DAMAGES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file as it was when the manifest was written."""

    size: int
    #: 64 hexadecimal digits
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The expected files of a directory; other files in it are not checked."""

    directory: Path
    #: public name of the model
    name: str
    #: commit of the snapshot; None where the source had none
    revision: str | None
    #: path inside the directory -> the file
    files: Mapping[str, Entry]

    def check_sizes(self) -> None:
        """Check the size of every file: this takes no time, and finds files that are missing or cut short.

        Raises:
            StartError: a file is missing, or has another size.
        """
        for name, entry in self.files.items():
            try:
                size = (self.directory / name).stat().st_size
            except OSError:
                raise StartError(f"{self.directory / name} is missing, but {FILE} lists it; {ADVICE}") from None
            if size != entry.size:
                raise StartError(f"{self.directory / name} has {size} bytes, but {FILE} says {entry.size}; {ADVICE}")

    def check_hash(self, name: str) -> None:
        """Check the hash of one file.

        Raises:
            StartError: the file cannot be read, or its contents differ.
        """
        digest = sha256()
        try:
            for chunk in chunks(self.directory / name):
                digest.update(chunk)
        except OSError as error:
            raise StartError(f"{self.directory / name} cannot be read: {error.strerror}; {ADVICE}") from None
        if (found := digest.hexdigest()) != self.files[name].sha256:
            raise StartError(
                f"{self.directory / name} has the sha256 {found}, but {FILE} says {self.files[name].sha256}; {ADVICE}"
            )


class Hashing:
    """Checks all hashes in threads, while the start goes on."""

    def __init__(self, manifest: Manifest, failed: Callable[[StartError], None]) -> None:
        """`failed` is called on one of the threads as soon as a file does not match."""
        self._manifest = manifest
        self._failed = failed
        self._errors: list[StartError] = []
        # The largest first: they take the longest.
        self._work = deque(sorted(manifest.files, key=lambda name: -manifest.files[name].size))
        # Daemon threads: a start that fails for another reason does not wait for them.
        self._threads = [threading.Thread(target=self._run, name="hashing", daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Wait until every file is checked.

        Raises:
            StartError: a file does not match.
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
    """Read the manifest of a directory; None where it has none.

    Raises:
        StartError: the manifest is not in the format that `python -m builder` writes.
    """
    path = directory / FILE
    try:
        return _parse(directory, json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (*DAMAGES, OSError) as error:
        raise StartError(f"{path} is not a manifest that this worker reads ({reason(error)}); {ADVICE}") from None


def _parse(directory: Path, content: Any) -> Manifest:
    if content["manifest"] != VERSION:
        raise ValueError(f"its version is {reprlib.repr(content['manifest'])}, not {VERSION}")
    files = {name: Entry(int(entry["size"]), str(entry["sha256"])) for name, entry in content["files"].items()}
    for name, entry in files.items():
        path = PurePosixPath(name)
        if not is_printable(name) or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{reprlib.repr(name)} is not a path inside the directory")
        if not re.fullmatch("[0-9a-f]{64}", entry.sha256):
            raise ValueError(f"the entry of {name!r} has no sha256")
    name, revision = content["name"], content["revision"]
    if not all(isinstance(text, str) and is_printable(text) for text in (name, revision or "none")):
        raise ValueError("its name or revision is not a short line of printable characters")
    return Manifest(directory, name, revision or None, files)
