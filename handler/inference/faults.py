"""Classifies the errors of a device: it is lost, or short of memory. Knows CUDA's messages, uses no device."""

import torch

#: Messages of `cudaGetErrorString`: for the errors after which, by CUDA's documentation, "the process must be
#: terminated and relaunched" (700 to 719), and for a device that is broken or gone (100, 214, 220, 999). Out of memory
#: is not among them.
LOST = (
    "an illegal memory access was encountered",
    "the launch timed out and was terminated",
    "device-side assert triggered",
    "hardware stack error",
    "an illegal instruction was encountered",
    "misaligned address",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "unspecified launch failure",
    "no CUDA-capable device is detected",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error",
    "unknown error",
)


def device_is_lost(error: Exception) -> bool:
    """True where every further call to the device would fail as this one did, or hang.

    torch raises an AcceleratorError for it, which is a RuntimeError; Triton and CUDA's libraries raise a RuntimeError.
    """
    message = str(error)
    return isinstance(error, RuntimeError) and "CUDA" in message and any(words in message for words in LOST)


def out_of_memory(error: Exception) -> bool:
    """True where a call to the device failed for lack of memory, and can succeed once there is more.

    Each source has an error of its own: torch's allocator an OutOfMemoryError; a launch, a graph or pinned memory an
    AcceleratorError "CUDA error: out of memory"; Triton a RuntimeError "Triton Error [CUDA]: out of memory"; cuBLAS a
    RuntimeError "CUBLAS_STATUS_ALLOC_FAILED". torch's two are subclasses of RuntimeError.
    """
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in message or "ALLOC_FAILED" in message)
    )
