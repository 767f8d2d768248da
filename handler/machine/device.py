"""What the machine computes on, and whether that can hold the model. Asked before loading, which takes long."""

import ctypes
import warnings
from dataclasses import dataclass

import torch

from handler.errors import StartError

GB = 1e9
GIB = 2**30
#: what the engine needs beside the weights at least: context, workspaces, one step, a small cache
BESIDE = 3 * GIB // 2
#: memory of the GPUs that RunPod has, in GiB, and the share of it that a process can have
POOLS, USABLE = (16, 24, 32, 48, 80, 96, 141, 180), 0.95
#: weights that a CPU can still answer with
CPU_BYTES = 2 * GIB


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the driver tells it; bytes."""

    name: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Device:
    """What there is to compute on; versions as `12.8`."""

    #: None where torch can use none
    gpu: Gpu | None
    #: the CUDA version that torch was built for, None in a build for CPUs
    torch_cuda: str | None
    #: the newest CUDA version that the driver runs, None where there is no driver
    driver_cuda: str | None

    def check(self, name: str, weights: int, *, on_runpod: bool) -> None:
        """Hold so many bytes of a model's weights against what there is.

        Raises:
            StartError: they do not fit, or no GPU can be used for a model that needs one.
        """
        if self.gpu is not None:
            self._check_memory(self.gpu, name, weights)
        elif on_runpod and weights > CPU_BYTES:
            raise StartError(f"{name} ({weights / GB:.1f} GB) needs a GPU, but {self._why_no_gpu()}")

    def _check_memory(self, gpu: Gpu, name: str, weights: int) -> None:
        needed = weights + BESIDE
        if needed <= gpu.free:
            return
        if needed <= gpu.total * USABLE:
            cure = "another process holds the rest; end it, or start another worker"
        else:
            pool = next((size for size in POOLS if size * USABLE * GIB >= needed), POOLS[-1])
            cure = f"choose a pool of {pool} GB GPUs or more"
        raise StartError(
            f"{name} needs {needed / GB:.1f} GB of GPU memory ({weights / GB:.1f} GB are weights), but {gpu.name} has "
            f"{gpu.free / GB:.1f} GB free of {gpu.total / GB:.1f} GB: {cure}"
        )

    def _why_no_gpu(self) -> str:
        if self.torch_cuda is None:
            return "this torch is built for CPUs: install a build for CUDA"
        if self.driver_cuda is None:
            return "this worker has none, or no NVIDIA driver: choose a GPU pool for the endpoint"
        if _version(self.driver_cuda) < _version(self.torch_cuda):
            return (
                f"the driver is too old: it runs CUDA {self.driver_cuda}, torch is built for {self.torch_cuda}; set "
                f"the endpoint's allowedCudaVersions to {self.torch_cuda} and later"
            )
        return "the driver answers and the GPU does not: the machine is at fault, start another worker"


def read() -> Device:
    """Ask torch and the driver; creates the CUDA context, which takes a moment.

    Raises:
        StartError: there is a GPU, and it does not work.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an old driver; `check` says it better
        usable = torch.cuda.is_available()
    gpu = None
    if usable:
        try:
            free, total = torch.cuda.mem_get_info()
            gpu = Gpu(torch.cuda.get_device_name(), total, free)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise StartError(f"the GPU does not work ({reason}): the machine is at fault, start another") from None
    return Device(gpu, torch.version.cuda, _driver_cuda())


def _driver_cuda() -> str | None:
    """cuDriverGetVersion: 12080 means 12.8. It works where nothing else of CUDA does."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed else f"{version.value // 1000}.{version.value % 1000 // 10}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
