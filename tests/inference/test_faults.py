"""The errors of a device, as torch, Triton and CUDA's libraries raise them."""

from collections.abc import Callable

import pytest
import torch

from handler.inference.faults import device_is_lost, out_of_memory

#: the error of each source, in its own words
SHORT: dict[str, Callable[[], Exception]] = {
    "torch's allocator": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "launch, graph, pinned memory": lambda: torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors"),
    "Triton": lambda: RuntimeError("Triton Error [CUDA]: out of memory"),
    "cuBLAS": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


@pytest.mark.parametrize("source", SHORT)
def test_out_of_memory_is_recognised_in_the_words_of_each_source(source: str) -> None:
    error = SHORT[source]()
    assert out_of_memory(error)
    assert not device_is_lost(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to find C compiler"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        ValueError("out of memory"),
        MemoryError(),
    ],
    ids=str,
)
def test_nothing_else_is_out_of_memory(error: Exception) -> None:
    assert not out_of_memory(error)
