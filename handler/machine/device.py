"""The device of this machine, and a check that it can hold the model, made before the weights are loaded."""

import ctypes
import warnings
from dataclasses import dataclass

import torch

from handler.errors import StartError

GB = 1e9
GIB = 2**30
#: memory that the engine needs beside the weights, at least: CUDA context, workspaces, one step, a small cache
ENGINE_BYTES = 3 * GIB // 2
#: memory of the GPUs that RunPod offers, in GiB, and the share of it that a process can use
POOLS, USABLE = (16, 24, 32, 48, 80, 96, 141, 180), 0.95
#: largest weights that a CPU serves on RunPod
CPU_BYTES = 2 * GIB


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, as the driver reports it; memory in bytes."""

    name: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Device:
    """The device that torch can use, and the CUDA versions, written as `12.8`."""

    #: None where torch can use no GPU
    gpu: Gpu | None
    #: the CUDA version that torch was built for, None in a build for CPUs
    torch_cuda: str | None
    #: the newest CUDA version that the driver runs, None where there is no driver
    driver_cuda: str | None

    def check(self, name: str, weights: int, *, on_runpod: bool) -> None:
        """Check that the device can hold a model with so many bytes of weights; `name` is the operator's name of it.

        Raises:
            StartError: the weights do not fit, or the model needs a GPU and none can be used.
        """
        if self.gpu is not None:
            self._check_memory(self.gpu, name, weights)
        elif on_runpod and weights > CPU_BYTES:
            raise StartError(f"{name} ({weights / GB:.1f} GB) needs a GPU, but {self._why_no_gpu()}")

    def _check_memory(self, gpu: Gpu, name: str, weights: int) -> None:
        needed = weights + ENGINE_BYTES
        if needed <= gpu.free:
            return
        if needed <= gpu.total * USABLE:
            advice = "another process uses the rest; end it, or start another worker"
        else:
            pool = next((size for size in POOLS if size * USABLE * GIB >= needed), POOLS[-1])
            advice = f"choose a pool of {pool} GB GPUs or more"
        raise StartError(
            f"{name} needs {needed / GB:.1f} GB of GPU memory ({weights / GB:.1f} GB are weights), but {gpu.name} has "
            f"{gpu.free / GB:.1f} GB free of {gpu.total / GB:.1f} GB: {advice}"
        )

    def _why_no_gpu(self) -> str:
        if self.torch_cuda is None:
            return "the installed torch is built for CPUs: install a build for CUDA"
        if self.driver_cuda is None:
            return "this worker has no GPU, or no NVIDIA driver: choose a GPU pool for the endpoint"
        if _version(self.driver_cuda) < _version(self.torch_cuda):
            return (
                f"the driver is too old: it runs CUDA {self.driver_cuda}, torch is built for {self.torch_cuda}; set "
                f"the endpoint's allowedCudaVersions to {self.torch_cuda} and later"
            )
        return "the GPU does not respond, although the driver does: this machine is broken, start another worker"


def read() -> Device:
    """Read the device from torch and the driver; this creates the CUDA context.

    Raises:
        StartError: the GPU does not work.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an old driver; the message of `check` also says what to do
        usable = torch.cuda.is_available()
    gpu = None
    if usable:
        try:
            free, total = torch.cuda.mem_get_info()
            gpu = Gpu(torch.cuda.get_device_name(), total, free)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise StartError(
                f"the GPU does not work ({reason}): this machine is broken, start another worker"
            ) from None
    return Device(gpu, torch.version.cuda, _driver_cuda())


def _driver_cuda() -> str | None:
    """cuDriverGetVersion, where 12080 means 12.8; it works even where no other call of CUDA does."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed else f"{version.value // 1000}.{version.value % 1000 // 10}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
