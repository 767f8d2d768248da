"""manifest.json: the files of a built directory with sizes and hashes. The worker reads it, and no other code of ours.

Knows no source and no network.
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


def verify(path: Path, file: File) -> str:
    """Hold a file against its size and hash in the listing; returns its sha256 in hex digits.

    Raises:
        BuildError: it differs.
        FileNotFoundError: it does not exist.
    """
    size = path.stat().st_size
    if size != file.size:
        raise BuildError(f"{file.name} has {size} bytes, not the {file.size} that its source lists")
    sha256 = hashlib.sha256()
    # git's name of a blob is the sha1 of a short header and the bytes (git-hash-object)
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    wants_blob = file.digest is not None and file.digest.kind == "git"
    with path.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            sha256.update(chunk)
            if wants_blob:
                blob.update(chunk)
    found = blob.hexdigest() if wants_blob else sha256.hexdigest()
    if file.digest is not None and found != file.digest.hex:
        raise BuildError(f"{file.name} hashes to {found}, not to {file.digest.hex} as expected")
    return sha256.hexdigest()


def fingerprint(sha256: Mapping[str, str]) -> str:
    """One hash for all files, by their hashes and names: the sha256 of what `sha256sum` prints of them, by name."""
    lines = "".join(f"{sha256[name]}  {name}\n" for name in sorted(sha256))
    return hashlib.sha256(lines.encode()).hexdigest()


def check_fingerprint(sha256: Mapping[str, str], expected: str | None) -> None:
    """Hold all files against one hash; None expects nothing.

    Raises:
        BuildError: they are others.
    """
    if expected is not None and (found := fingerprint(sha256)) != expected:
        raise BuildError(
            f"the files have MODEL_SHA256={found}, not {expected}: the source serves other files than those that were"
            " pinned, or they were pinned for another MODEL_REVISION"
        )


def write(directory: Path, listing: Listing, sha256: Mapping[str, str]) -> None:
    """Write the manifest of a directory whose files hash to `sha256`, by name."""
    content = {
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
    (directory / NAME).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(directory: Path) -> Listing | None:
    """The snapshot that a directory's manifest describes; None without one.

    Raises:
        BuildError: the manifest cannot be read.
    """
    path = directory / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = tuple(
            File(name, entry["size"], Digest("sha256", entry["sha256"]), origin=name)
            for name, entry in content["files"].items()
        )
        return Listing(content["name"], content["revision"], content["licence"], files)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BuildError(f"{path} is not a manifest of this builder; remove {directory} and run again") from None


def is_complete(directory: Path, name: str, revision: str | None, sha256: str | None = None) -> bool:
    """True where a directory already holds this snapshot, by its manifest and the sizes of its files.

    `sha256` is what `check_fingerprint` expects of the hashes in the manifest.

    Raises:
        BuildError: it holds something else, which the builder does not remove.
    """
    if not directory.exists():
        return False
    found = read(directory)
    cure = f"remove {directory} and run again"
    if found is None:
        raise BuildError(f"{directory} exists and has no {NAME}; {cure}")
    if (found.name, found.revision) != (name, revision):
        asked = Listing(name, revision, None, ())
        raise BuildError(f"{directory} holds {found}, not {asked}; {cure}")
    for file in found.files:
        path = directory / file.name
        if not path.is_file() or path.stat().st_size != file.size:
            raise BuildError(f"{path} is missing or damaged; {cure}")
    check_fingerprint({file.name: file.digest.hex for file in found.files if file.digest}, sha256)
    return True
