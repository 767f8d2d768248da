"""Facts about the GPU that `info` reports; each is None without one."""

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
    except Exception:  # NVML's errors are of a class of their own, and a figure less is no failure
        return None


def versions() -> tuple[str, str | None]:
    """torch's version, and the CUDA version that it was built for."""
    return torch.__version__, torch.version.cuda


def usable() -> bool:
    """Whether torch can use a GPU."""
    return torch.cuda.is_available()
