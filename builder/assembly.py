"""How a directory comes to be: fetched in parallel, verified, described, and only then given its name.

What is not finished lies beside it in `NAME.partial`, from where the next run goes on. Knows no network: a source
brings the files.
"""

import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from builder import manifest, shards
from builder.errors import BuildError
from builder.listing import File, Listing, Source
from builder.progress import Progress, size

#: files at a time: enough to fill a data centre's line and to hash on every core
PARALLEL = 8

Say = Callable[[str], None]


def assemble(listing: Listing, source: Source, directory: Path, say: Say) -> None:
    """Build `directory`, which is there whole or not at all.

    Raises:
        BuildError: the source cannot give a file, or a file is not what was listed; the rest is kept for a next run.
        OSError: the directory cannot be written.
    """
    work = directory.with_name(directory.name + ".partial")
    work.mkdir(parents=True, exist_ok=True)
    have = sum(min(kept(path), file.size) for file in listing.files for path in (work / file.name, part(work, file)))
    free = shutil.disk_usage(work).free
    if free < listing.size - have:
        raise BuildError(
            f"{directory} needs {size(listing.size - have)} more, and its disk has {size(free)}; make room there"
        )
    say(f"{listing}: {len(listing.files)} files, {size(listing.size)}, to {directory}")
    if have:
        say(f"  {size(have)} of them are here from a run before")
    workshop = _Workshop(listing, source, work, Progress(have, listing.size, say), say)
    weights = [file for file in listing.files if file.name.endswith(shards.SUFFIX)]
    workshop.bring(file for file in listing.files if file not in weights)
    shards.check_index(work, {file.name for file in weights})  # before gigabytes of shards come in for nothing
    workshop.bring(weights)
    for stray in set(work.iterdir()) - {work / file.name for file in listing.files}:
        stray.unlink()
    shards.check_tensors(work)
    manifest.write(work, listing, workshop.sha256)
    work.rename(directory)
    say(f"{directory}: verified, {manifest.NAME} written")


def part(work: Path, file: File) -> Path:
    """Where a file is while it comes in: another snapshot's file of this name is never taken for its beginning."""
    return work / f"{file.name}.{file.digest.hex[:12] if file.digest else 'copy'}.part"


def kept(path: Path) -> int:
    """Bytes of a file that may be there."""
    return path.stat().st_size if path.is_file() else 0


class _Stopped(Exception):
    """Another file failed: this one need not go on."""


class _Workshop:
    """Brings files on several threads; the first failure stops them all."""

    def __init__(self, listing: Listing, source: Source, work: Path, progress: Progress, say: Say) -> None:
        self._listing, self._source, self._work, self._progress, self._say = listing, source, work, progress, say
        self._stop = threading.Event()
        #: of every file that is here and verified, by name
        self.sha256: dict[str, str] = {}

    def bring(self, files: Iterable[File]) -> None:
        with ThreadPoolExecutor(PARALLEL) as pool:
            futures = [pool.submit(self._bring, file) for file in files]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                self._stop.clear()

    def _bring(self, file: File) -> None:
        path, coming = self._work / file.name, part(self._work, file)
        sha256 = _verified_before(path, file)
        if sha256 is None:
            self._source.fetch(self._listing, file, coming, self._tell)
            try:
                sha256 = manifest.verified(coming, file)
            except BuildError as error:
                coming.unlink()
                raise BuildError(f"{error}; it was removed: run again to fetch it anew") from None
            coming.rename(path)
        self.sha256[file.name] = sha256
        self._say(f"  {file.name}, {size(file.size)}, verified")

    def _tell(self, count: int) -> None:
        if self._stop.is_set():
            raise _Stopped
        self._progress.add(count)


def _verified_before(path: Path, file: File) -> str | None:
    """The sha256 of a file that an earlier run brought; None where it is not here, or is another snapshot's."""
    if file.digest is None:
        return None
    try:
        return manifest.verified(path, file)
    except (FileNotFoundError, BuildError):
        return None
