"""`python -m tests.support.launches`: each call of a kernel by Triton, and by `launch`, as the launcher gets it.

In a process of its own, because tests of kernels make Triton interpret. Prints one line of JSON for each call: which
argument is special, the handle of the kernel and its arguments both ways, and how often `launch` went through Triton.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: N803

import json
import sys
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.jit import JITFunction

from bench.no_gpu import NoGPU, no_gpu
from handler.ops.launching import launch
from handler.precompile.cache import compiling_for


@triton.jit(do_not_specialize=["step"])
def _add(x, out, size, scale, step, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out + at, tl.load(x + at, mask=at < size, other=0.0) * scale + step)


#: memory that begins at a multiple of 16
X, OUT = torch.zeros(64), torch.zeros(64)
#: what is special -> x, out, size, scale, step, SIZE, warps, device
CALLS: dict[str, tuple[Tensor, Tensor, int, float, int, int, int, int]] = {
    "nothing": (X, OUT, 7, 0.5, 3, 32, 4, 0),
    "a changing number": (X, OUT, 7, 0.5, 4, 32, 4, 0),
    "a changing number of 1": (X, OUT, 7, 0.5, 1, 32, 4, 0),
    "a changing number that divides by 16": (X, OUT, 7, 0.5, 32, 32, 4, 0),
    "a changing number of 64 bits": (X, OUT, 7, 0.5, 1 << 40, 32, 4, 0),
    "a number of 1": (X, OUT, 1, 0.5, 3, 32, 4, 0),
    "a number that divides by 16": (X, OUT, 32, 0.5, 3, 32, 4, 0),
    "a number of 64 bits": (X, OUT, (1 << 40) + 1, 0.5, 3, 32, 4, 0),
    "another float": (X, OUT, 7, 1.0, 3, 32, 4, 0),
    "a pointer beside a multiple of 16": (X[1:], OUT, 7, 0.5, 3, 32, 4, 0),
    "the other pointer beside it": (X, OUT[1:], 7, 0.5, 3, 32, 4, 0),
    "another pointer": (X[4:], OUT[8:], 7, 0.5, 3, 32, 4, 0),
    "another dtype": (X.bfloat16(), OUT, 7, 0.5, 3, 32, 4, 0),
    "another constant": (X, OUT, 7, 0.5, 3, 64, 4, 0),
    "other warps": (X, OUT, 7, 0.5, 3, 32, 8, 0),
    "another device": (X, OUT, 7, 0.5, 3, 32, 4, 1),
}


def call(x: Tensor, out: Tensor, size: int, scale: float, step: int, constant: int, warps: int) -> None:
    launch(_add, (3, 2, 1), (x, out), (size, scale), (step,), (constant,), warps)


def arrived(gpu: NoGPU) -> list[Any]:
    """Handle and arguments of the only launch; pointers in place of tensors."""
    assert gpu.launches is not None
    ((handle, arguments),) = gpu.launches
    gpu.launches.clear()
    return [handle, *(x.data_ptr() if isinstance(x, Tensor) else x for x in arguments)]


def main() -> None:
    run, through = JITFunction.run, 0

    def counting(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal through
        through += 1
        return run(self, *arguments, **options)

    with compiling_for(90):  # loads nothing, and leaves nothing behind for the launches
        call(*CALLS["nothing"][:-1])
        call(*CALLS["nothing"][:-1])
    JITFunction.run = counting
    with no_gpu() as gpu:
        gpu.launches = []
        for special, (*arguments, warps, device) in CALLS.items():
            gpu.device = device
            _add[3, 2, 1](*arguments, num_warps=warps)
            triton_s = arrived(gpu)
            through = 0
            ours = []
            for _ in range(3):
                call(*arguments, warps)  # type: ignore[arg-type, call-arg]
                ours.append(arrived(gpu))
            line = {"special": special, "triton": triton_s, "ours": ours, "through": through}
            sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
