"""Reading ahead: everything ends up in the page cache, and nothing ever fails."""

import ctypes
import mmap
import os
from pathlib import Path

import pytest

from handler.model.readahead import Readahead, chunks

SIZE = 2**24


def cached(file: Path) -> float:
    """The share of a file's pages in the page cache (mincore)."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        seen = (ctypes.c_ubyte * (SIZE // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(SIZE), seen)
        del first
    assert not failed
    return sum(page & 1 for page in seen) / len(seen)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files that are on the disk and not in the page cache."""
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(os.urandom(SIZE))
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if cached(path):
            pytest.skip("this file system does not let go of cached pages")
    return paths


def test_all_files_end_up_in_the_page_cache(files: list[Path]) -> None:
    first = Readahead(files, chunk=2**20)
    first.wait()
    assert [cached(file) for file in files] == [1, 1]
    assert first.read > 0


def test_what_is_cached_already_is_skipped(files: list[Path]) -> None:
    files[0].read_bytes()
    ahead = Readahead(files, chunk=SIZE)
    ahead.wait()
    assert ahead.read == SIZE


def test_once_stopped_it_reads_no_more(files: list[Path]) -> None:
    ahead = Readahead(files, threads=0)
    ahead.stop()
    ahead._run()
    assert [cached(file) for file in files] == [0, 0]


def test_files_that_cannot_be_read_are_left_to_the_loader(tmp_path: Path, files: list[Path]) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    Readahead([tmp_path / "missing", directory, *files]).wait()
    assert [cached(file) for file in files] == [1, 1]


def test_chunks_are_the_file(files: list[Path]) -> None:
    assert b"".join(bytes(chunk) for chunk in chunks(files[0], 4096)) == files[0].read_bytes()
