"""Triton's cache of compiled kernels: filled for GPUs that are absent, and reported on by a start.

Triton keeps compiled kernels in TRITON_CACHE_DIR, named by kernel, arguments, architecture and compiler. A start calls
`hash_compiler` and `listen`; `python -m handler.precompile` calls `compiling_for` and `listen`. Imported only where
Triton is installed.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

#: compute capabilities of RunPod's GPUs: A100; A40, A6000; L4, 4090, L40S; H100, H200; B200; 5090, RTX PRO 6000
ARCHITECTURES = (80, 86, 89, 90, 100, 120)


class _AbsentGPU:
    """A driver for a GPU that is not there, with the three methods that a compilation calls."""

    def __init__(self, architecture: int) -> None:
        self._architecture = architecture

    def get_current_device(self) -> int:
        # Triton keeps the kernels of each device apart.
        return self._architecture

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._architecture, 32)


@contextmanager
def compiling_for(architecture: int) -> Iterator[list[Any]]:
    """In this block, a call of a kernel compiles it for the architecture and does not launch it.

    The list that the block is given gets Triton's `CompiledKernel` of each call.
    """
    run, kernels = JITFunction.run, list[Any]()

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernels.append(run(self, *args, grid=grid, warmup=True, **options))
        return kernels[-1]

    driver.set_active(_AbsentGPU(architecture))
    JITFunction.run = compile_only
    try:
        yield kernels
    finally:
        JITFunction.run = run
        driver._active = None  # `reset_active` would look for a GPU


def listen(report: Callable[[str, bool, float], None]) -> None:
    """From now on, call `report` for each kernel: its name, True where it was compiled (False: found), and seconds."""

    def listener(*, src: Any, times: Any, cache_hit: bool, **_: Any) -> None:
        report(src.name, not cache_hit, times.total / 1e6)

    triton.knobs.compilation.listener = listener


def hash_compiler() -> None:
    """Start, in a thread, what the first kernel would wait for: Triton reads and hashes its own 460 MB."""

    def run() -> None:
        with suppress(ImportError):  # another version has it elsewhere; then the first kernel waits
            from triton.runtime.cache import triton_key

            triton_key()

    threading.Thread(target=run, name="triton-key", daemon=True).start()
