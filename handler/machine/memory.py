"""Reads the memory of the host and the device; reserves none."""

import resource
from pathlib import Path
from typing import Literal

import torch


def read() -> dict[str, int | None]:
    """Memory in bytes. Figures of the device are None without a GPU, `host_available` where /proc does not have it."""
    cuda = torch.cuda.is_available()
    free, total = torch.cuda.mem_get_info() if cuda else (None, None)
    return {
        "rss": _pages("resident"),
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "host_available": _host_available(),
        "device_total": total,
        "device_free": free,
        "device_allocated": torch.cuda.memory_allocated() if cuda else None,
        "device_reserved": torch.cuda.memory_reserved() if cuda else None,
    }


def free(device: torch.device) -> int:
    """Free bytes that a KV cache on this device could use."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    # The kernel counts mapped files as available memory. The weights are mapped files, and every step reads them.
    return max(0, (_host_available() or 0) - (_pages("shared") or 0))


def _pages(kind: Literal["resident", "shared"]) -> int | None:
    """Resident bytes of this process: all, or those of mapped files and shared memory; see proc_pid_statm(5)."""
    try:
        _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    except OSError:
        return None
    return int({"resident": resident, "shared": shared}[kind]) * resource.getpagesize()


def _host_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
