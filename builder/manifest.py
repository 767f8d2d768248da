"""manifest.json: what a built directory holds, to the byte; the one thing that the worker reads of the builder's.

Knows files and their hashes: no source and no network.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from builder import __version__
from builder.errors import BuildError
from builder.listing import Digest, File, Listing

NAME = "manifest.json"
FORMAT = 1
_CHUNK = 1 << 20


def verified(path: Path, file: File) -> str:
    """The sha256 of a file that came in.

    Raises:
        BuildError: it is not the file that was listed.
    """
    size = path.stat().st_size
    if size != file.size:
        raise BuildError(f"{file.name} has {size} bytes, not the {file.size} that its source lists")
    whole = hashlib.sha256()
    # git's name of a blob is the sha1 of a short header and the bytes (git-hash-object)
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    wants_blob = file.digest is not None and file.digest.kind == "git"
    with path.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            whole.update(chunk)
            if wants_blob:
                blob.update(chunk)
    told = blob.hexdigest() if wants_blob else whole.hexdigest()
    if file.digest is not None and told != file.digest.hex:
        raise BuildError(f"{file.name} hashes to {told}, not to {file.digest.hex} as its source lists")
    return whole.hexdigest()


def write(directory: Path, listing: Listing, sha256: Mapping[str, str]) -> None:
    """Write the manifest of a directory whose files hash to `sha256`, by name."""
    told = {
        "manifest": FORMAT,
        "name": listing.name,
        "revision": listing.revision,
        "licence": listing.licence,
        "builder": __version__,
        "files": {
            file.name: {"size": file.size, "sha256": sha256[file.name]}
            for file in sorted(listing.files, key=lambda file: file.name)
        },
    }
    (directory / NAME).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read(directory: Path) -> Listing | None:
    """The snapshot that a directory's manifest describes; None without one.

    Raises:
        BuildError: the manifest cannot be read.
    """
    path = directory / NAME
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        files = tuple(
            File(name, entry["size"], Digest("sha256", entry["sha256"]), origin=name)
            for name, entry in told["files"].items()
        )
        return Listing(told["name"], told["revision"], told["licence"], files)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BuildError(f"{path} is not a manifest of this builder's; remove {directory} and run again") from None


def stands(directory: Path, name: str, revision: str | None) -> bool:
    """True where a directory already holds the wished snapshot, by its manifest and the sizes of its files.

    Raises:
        BuildError: it holds something else, which is not ours to remove.
    """
    if not directory.exists():
        return False
    found = read(directory)
    cure = f"remove {directory} and run again"
    if found is None:
        raise BuildError(f"{directory} is there, and has no {NAME}; {cure}")
    if (found.name, found.revision) != (name, revision):
        wished = Listing(name, revision, None, ())
        raise BuildError(f"{directory} holds {found}, not {wished}; {cure}")
    for file in found.files:
        path = directory / file.name
        if not path.is_file() or path.stat().st_size != file.size:
            raise BuildError(f"{path} is missing or damaged; {cure}")
    return True
