"""A GPU that is not there, for Triton: kernels are compiled, and a launcher gets them that only notes the call.

What is left of a launch is Python's part of it. Tests compare what arrives at the launcher.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class NoGPU:
    """The driver, its utilities and its launcher in one; `note` is called with a kernel's handle and arguments."""

    def __init__(self, architecture: int = 90) -> None:
        self._architecture = architecture
        self.device = 0
        self.launches: list[tuple[Any, tuple[Any, ...]]] | None = None
        self.utils = self
        self._handles = 0

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._architecture, 32)

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 1 << 20}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[object, str, int, int, int]:
        """Module, handle, registers, spills and threads at most."""
        self._handles += 1
        return object(), f"{name} {self._handles}", 0, 0, 1024

    def launcher_cls(self, source: object, metadata: object) -> Any:
        def call(x: int, y: int, z: int, stream: int, handle: str, *rest: Any) -> None:
            if self.launches is not None:
                self.launches.append((handle, (x, y, z, *rest[4:])))

        return call


@contextmanager
def no_gpu(architecture: int = 90) -> Iterator[NoGPU]:
    """In this block Triton launches on a `NoGPU`."""
    absent = NoGPU(architecture)
    driver.set_active(absent)
    try:
        yield absent
    finally:
        driver._active = None  # `reset_active` would look for a GPU
