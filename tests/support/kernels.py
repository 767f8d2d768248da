"""Where the kernels are tested: compiled on a GPU, in Triton's interpreter elsewhere, nowhere without Triton.

Triton decides as it is first imported, be it by transformers: so `conftest` imports this before anything does. The
environment stays as it is, and the processes that tests start see none of this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

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


@contextmanager
def quick_interpreter() -> Iterator[None]:
    """Triton's interpreter in half the time: it patches the language once, not at each call, and lets sums overflow."""
    if CUDA:
        yield
        return
    from triton.runtime import interpreter

    patch, patched = interpreter._patch_lang, dict[int, Any]()

    def once(function: Any) -> Any:
        if id(function.__globals__) not in patched:
            patched[id(function.__globals__)] = patch(function)
        return interpreter._LangPatchScope()

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(interpreter, "_patch_lang", once)
        quick = interpreter.InterpreterOptions(sanitize_overflow=False)
        monkeypatch.setattr(interpreter.interpreter_builder, "options", quick)
        yield
        for scope in reversed(patched.values()):
            scope.restore()
