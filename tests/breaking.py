"""`python -m handler` with a model that breaks: BREAK holds `how:step,step…`, how being raise, memory, lost or hang."""

import os
import sys
import time
from typing import Any

import torch
from transformers import PreTrainedModel

from handler.__main__ import main
from handler.inference import runner

HOW, _, STEPS = os.environ["BREAK"].partition(":")
BROKEN = {int(step) for step in STEPS.split(",")}
sound = runner.model_forward


def breaking(model: PreTrainedModel) -> runner.Forward:
    forward = sound(model)
    step = 0

    def broken(*arguments: Any) -> torch.Tensor:
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
        return forward(*arguments)

    return broken


if __name__ == "__main__":
    runner.model_forward = breaking
    sys.exit(main())
