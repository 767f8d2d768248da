"""Reading ahead: everything ends up in the page cache, nothing is read twice, nothing ever fails."""

import os
from pathlib import Path

import pytest

from handler.model.readahead import Readahead, chunks

SIZE = 1_000_000


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files that are on the disk and not in the page cache."""
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(os.urandom(SIZE))
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                os.preadv(stream.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
            except BlockingIOError:
                continue
            except OSError:
                pass
            pytest.skip("this file system does not let go of cached pages, or does not tell")
    return paths


def cached(file: Path) -> bool:
    """Whether every page of a file is in the page cache."""
    with file.open("rb") as stream:
        try:
            return all(os.preadv(stream.fileno(), [bytearray(1)], at, os.RWF_NOWAIT) for at in range(0, SIZE, 4096))
        except BlockingIOError:
            return False


def test_all_files_end_up_in_the_page_cache_and_what_is_there_is_skipped(files: list[Path]) -> None:
    assert not any(cached(file) for file in files)
    first = Readahead(files, chunk=2**18)
    first.wait()
    assert all(cached(file) for file in files)
    assert first.read > 0
    again = Readahead(files, chunk=2**18)
    again.wait()
    assert again.read == 0


def test_what_the_loader_has_read_meanwhile_is_skipped(files: list[Path]) -> None:
    files[0].read_bytes()
    ahead = Readahead(files, chunk=SIZE)
    ahead.wait()
    assert ahead.read == SIZE


def test_once_stopped_it_reads_no_more(files: list[Path]) -> None:
    ahead = Readahead([], threads=0)
    ahead.stop()
    ahead._work.extend((file, 0) for file in files)
    ahead._run()
    assert ahead.read == 0


def test_files_that_cannot_be_read_are_left_to_the_loader(tmp_path: Path, files: list[Path]) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    ahead = Readahead([tmp_path / "missing", directory, *files], threads=1)
    ahead.wait()
    assert ahead.read in (0, 2 * SIZE)


def test_chunks_are_the_file(files: list[Path]) -> None:
    assert b"".join(bytes(chunk) for chunk in chunks(files[0], 4096)) == files[0].read_bytes()
