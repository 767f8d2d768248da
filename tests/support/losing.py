"""`python -m handler` on a device that is lost in the warm-up: with kernels alone, or always (LOSE=always)."""

import os
import sys

import torch

from handler.__main__ import main
from handler.errors import StartError
from handler.inference.loop import BatchingEngine

sound = BatchingEngine.warm_up


def warm_up(engine: BatchingEngine, timeout_s: float) -> bool:
    if os.environ["LOSE"] == "always" or os.environ.get("ATTENTION") != "reference":
        lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nadvice for developers")
        raise StartError("the engine failed in its warm-up") from lost
    return sound(engine, timeout_s)


if __name__ == "__main__":
    sys.stderr.write(f'{{"requestId": null, "message": "pid {os.getpid()}", "level": "INFO"}}\n')
    BatchingEngine.warm_up = warm_up  # type: ignore[assignment, method-assign]
    sys.exit(main())
