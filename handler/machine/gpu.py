"""The GPU as `info` tells of it; every figure is None without one."""

import torch


def name() -> str | None:
    """The product's name."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def utilization() -> int | None:
    """Percent of the last moments in which a kernel ran, as NVML says; None where the driver does not tell."""
    if not torch.cuda.is_available():
        return None
    try:
        return torch.cuda.utilization()
    except (RuntimeError, OSError):
        return None


def versions() -> tuple[str, str | None]:
    """torch's version, and the CUDA version that it was built for."""
    return torch.__version__, torch.version.cuda


def usable() -> bool:
    """Whether torch can use a GPU."""
    return torch.cuda.is_available()
