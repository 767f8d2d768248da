"""The free memory, from which the size of the KV cache follows."""

import mmap
from pathlib import Path

import pytest
import torch

from handler.machine import memory


def test_weights_that_are_mapped_files_are_not_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        memory, "_host_available", lambda: 10**12
    )  # the kernel's figure, which counts them as available
    size = 64 << 20
    (tmp_path / "weights").write_bytes(bytes(size))
    before = memory.free(torch.device("cpu"))
    with (tmp_path / "weights").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert not any(mapped[at] for at in range(0, size, mmap.PAGESIZE))
        assert before - memory.free(torch.device("cpu")) == pytest.approx(size, rel=0.1)
