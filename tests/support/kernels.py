"""Where the kernels are tested: compiled on a GPU, in Triton's interpreter elsewhere, nowhere without Triton.

Triton decides as it is first imported, be it by transformers: so `conftest` imports this before anything does. The
environment stays as it is, and the processes that tests start see none of this.
"""

from importlib.util import find_spec

import pytest
import torch

from handler.ops.parts import PLAIN, Parts

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
gpu = [pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="no CUDA device")]

if find_spec("triton") and not CUDA:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRITON_INTERPRET", "1")
        import triton

        triton.knobs.runtime.interpret = True  # for launches, when the variable is gone


def parts(kernels: bool, dtype: torch.dtype) -> Parts:
    """Every part by its kernels or none; FlashAttention takes no float32."""
    if not kernels:
        return PLAIN
    fused = Parts.every(True, "as the test sets")
    return fused if dtype.itemsize == 2 else fused.without({"prefill": "float32"})
