"""Builds one directory: fetches the files, verifies them, writes the manifest, and then gives the directory its name.

Until then the files are in `NAME.partial`, where the next run finds those that are complete. Knows no network: a source
brings the files.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builder import manifest, shards
from builder.errors import BuildError
from builder.listing import File, Listing, Source
from builder.progress import Progress, format_size

#: files hashed at a time; hashing releases the interpreter's lock
PARALLEL = 8

Log = Callable[[str], None]


def assemble(listing: Listing, source: Source, directory: Path, log: Log, expected: str | None = None) -> None:
    """Build `directory`, which afterwards is complete or does not exist.

    `expected` is the hash of all files, see `manifest.check_fingerprint`.

    Raises:
        BuildError: the source cannot provide a file, or a file differs from the listing; what is complete is kept for
            the next run.
        OSError: the directory cannot be written.
    """
    work = directory.with_name(directory.name + ".partial")
    work.mkdir(parents=True, exist_ok=True)
    _remove_others(work, listing)
    sha256 = _verify_kept(work, listing.files)
    kept = sum(file.size for file in listing.files if file.name in sha256)
    _check_space(work, listing.size - kept, directory)
    log(f"{listing}: {len(listing.files)} files, {format_size(listing.size)}, to {directory}")
    if kept:
        log(f"  {format_size(kept)} of them are here from an earlier run")
    weights = [file for file in listing.files if file.name.endswith(shards.SUFFIX)]

    def fetch(files: Iterable[File]) -> None:
        if missing := [file for file in files if file.name not in sha256]:
            source.fetch(listing, missing, work)
            sha256.update(_verify(work, missing, log))

    with Progress(work, listing.size, log):
        fetch(file for file in listing.files if file not in weights)
        shards.check_index(work, {file.name for file in weights})  # before gigabytes of shards come for nothing
        fetch(weights)
    _remove_others(work, listing)
    manifest.check_fingerprint(sha256, expected)
    shards.check_tensors(work)
    manifest.write(work, listing, sha256)
    work.rename(directory)
    log(f"{directory}: verified, {manifest.NAME} written; MODEL_SHA256={manifest.fingerprint(sha256)} pins these files")


def _remove_others(work: Path, listing: Listing) -> None:
    """Remove files of another snapshot, and what a source keeps for itself: unfinished files, its notes."""
    for path in set(work.iterdir()) - {work / file.name for file in listing.files}:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _verify_kept(work: Path, files: Iterable[File]) -> dict[str, str]:
    """The sha256, by name, of the files that an earlier run brought; files that differ are removed."""

    def verify(file: File) -> tuple[str, str] | None:
        path = work / file.name
        try:
            # Without a published hash a complete file cannot be distinguished from another one of its size.
            if file.digest is not None:
                return file.name, manifest.verify(path, file)
        except (FileNotFoundError, BuildError):
            pass
        path.unlink(missing_ok=True)
        return None

    with ThreadPoolExecutor(PARALLEL) as pool:
        return dict(kept for kept in pool.map(verify, files) if kept)


def _verify(work: Path, files: Sequence[File], log: Log) -> dict[str, str]:
    """The sha256, by name, of the files that were fetched, each moved to its name.

    Raises:
        BuildError: a file differs from the listing; it is removed, and the others are kept.
    """

    def verify(file: File) -> tuple[str, str]:
        path = work / file.origin
        try:
            sha256 = manifest.verify(path, file)
        except BuildError as error:
            path.unlink()
            raise BuildError(f"{error}; it was removed: run again to fetch it again") from None
        path.rename(work / file.name)
        log(f"  {file.name}, {format_size(file.size)}, verified")
        return file.name, sha256

    with ThreadPoolExecutor(PARALLEL) as pool:
        return dict(pool.map(verify, files))


def _check_space(work: Path, needed: int, directory: Path) -> None:
    """Refuse to start a download that the disk cannot hold.

    Raises:
        BuildError: fewer bytes than `needed` are free.
    """
    free = shutil.disk_usage(work).free
    if free < needed:
        raise BuildError(
            f"{directory} needs {format_size(needed)} more, and its disk has {format_size(free)}; make room there"
        )
