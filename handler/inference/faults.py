"""Which error means that the device is lost to this process. Knows CUDA's words, and touches no device."""

#: What `cudaGetErrorString` says of errors after which, by CUDA's documentation, "the process must be terminated and
#: relaunched" (700 to 719), and of a device that is broken or gone (100, 214, 220, 999). Want of memory is not.
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
    """True where whatever is asked of the device from here on fails as this did, or hangs.

    torch raises an AcceleratorError for it; Triton and CUDA's libraries a RuntimeError, which that is too.
    """
    told = str(error)
    return isinstance(error, RuntimeError) and "CUDA" in told and any(words in told for words in LOST)
