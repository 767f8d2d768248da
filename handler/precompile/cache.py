"""Triton's work before anybody waits for it: at a build for GPUs that are not there, at a start beside the rest.

Triton keeps what it compiled in TRITON_CACHE_DIR, named by kernel, arguments, architecture and compiler. Imported only
where Triton is installed.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

#: of the GPUs that RunPod has: A100, A40 and A6000, L4 and 4090 and L40S, H100 and H200, B200, 5090 and RTX PRO 6000
ARCHITECTURES = (80, 86, 89, 90, 100, 120)


class _Absent:
    """The driver of a GPU that is not there. A compilation asks for no more than this."""

    def __init__(self, architecture: int) -> None:
        self._architecture = architecture

    def get_current_device(self) -> int:
        # Triton remembers kernels by device.
        return self._architecture

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._architecture, 32)


@contextmanager
def compiling_for(architecture: int) -> Iterator[None]:
    """In this block a kernel that is called is compiled for the architecture and kept, and not launched."""
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return run(self, *args, grid=grid, warmup=True, **options)

    driver.set_active(_Absent(architecture))
    JITFunction.run = compile_only
    try:
        yield
    finally:
        JITFunction.run = run
        driver._active = None  # `reset_active` would look for a GPU


def listen(told: Callable[[str, bool, float], None]) -> None:
    """Be told of each kernel from now on: its name, whether it was compiled (or found), and after how many seconds."""

    def listener(*, src: Any, times: Any, cache_hit: bool, **_: Any) -> None:
        told(src.name, not cache_hit, times.total / 1e6)

    triton.knobs.compilation.listener = listener


def hash_compiler() -> None:
    """Do now, in a thread, what the first kernel would wait for: Triton reads and hashes all of itself, 460 MB."""

    def run() -> None:
        with suppress(ImportError):  # elsewhere in other versions, where the first kernel waits
            from triton.runtime.cache import triton_key

            triton_key()

    threading.Thread(target=run, name="triton-key", daemon=True).start()
