"""`python -m handler` with a model that breaks: BREAK holds `how:step,step…`, how being raise, memory, lost or hang.

Steps count from the first job: the start's own request, which a broken model would fail, is left out.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handler.__main__ import main
from handler.engine import probe
from handler.engine.protocol import Engine, Prompt
from handler.model.qwen import Qwen

HOW, _, STEPS = os.environ["BREAK"].partition(":")
BROKEN = {int(step) for step in STEPS.split(",")}
sound = Qwen.forward


def breaking() -> Callable[..., Tensor]:
    step = 0

    def broken(*arguments: Any, **options: Any) -> Tensor:
        nonlocal step
        step += 1
        if HOW == "lost" and step > max(BROKEN):
            sys.stderr.write("a lost device was asked again\n")
        if step in BROKEN:
            match HOW:
                case "raise":
                    raise RuntimeError("a kernel that broke")
                case "memory":
                    raise torch.OutOfMemoryError("as told")
                case "lost":
                    raise torch.AcceleratorError("CUDA error: device-side assert triggered")
                case "hang":
                    time.sleep(3600)
        return sound(*arguments, **options)

    return broken


async def finite(engine: Engine, prompt: Prompt) -> bool:
    return True


if __name__ == "__main__":
    probe.computes_finite_logits = finite
    Qwen.forward = breaking()  # type: ignore[method-assign]
    sys.exit(main())
