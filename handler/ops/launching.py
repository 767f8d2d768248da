"""Launches Triton kernels without the work that Triton does at each call. Knows no kernel and no model.

Triton binds and specialises all arguments of a call in Python, to find the compiled kernel. Here that happens at the
first call with arguments of a kind; later calls look the compiled kernel up, and hand it to the driver.
"""

from typing import Any

import triton
from torch import Tensor
from triton.runtime import driver
from triton.runtime.jit import JITFunction

Number = int | float

#: Other versions of Triton may call compiled kernels in another way, and launch them themselves.
DIRECT = triton.__version__.split(".")[:2] == ["3", "7"]

#: kind of a call -> how its compiled kernel is called, its handle and its metadata
_loaded: dict[tuple[Any, ...], tuple[Any, Any, Any]] = {}


def launch(
    kernel: Any,
    grid: tuple[int, int, int],
    tensors: tuple[Tensor, ...],
    numbers: tuple[Number, ...],
    changing: tuple[int, ...],
    constants: tuple[Number, ...],
    warps: int,
) -> None:
    """Launch a kernel on the current stream. Its parameters are in the order of these arguments.

    `changing` are the numbers that differ from step to step, which the kernel has to name in `do_not_specialize`. Each
    new value of `numbers` or `constants` takes Triton's slow way once, so they have to be few. All `tensors` have to be
    on the current device. Triton's own way is taken where it interprets, or compiles for a GPU that is absent.
    """
    if kernel.__class__ is not JITFunction or not DIRECT:
        kernel[grid](*tensors, *numbers, *changing, *constants, num_warps=warps)
        return
    pointers = [tensor.data_ptr() for tensor in tensors]
    union = wide = 0
    for pointer in pointers:
        union |= pointer
    for number in changing:
        wide |= number >> 31
    device = driver.active.get_current_device()
    # What Triton compiles a kernel for: types, which numbers are 1 or a multiple of 16 or wider than 32 bits, and
    # which pointers are multiples of 16. The exact numbers stand for what Triton derives from them.
    kind = (
        kernel.fn, device, warps, numbers, constants, (*[tensor.dtype for tensor in tensors],), wide,
        None if union % 16 == 0 else (*[pointer % 16 == 0 for pointer in pointers],),
    )  # fmt: skip
    found = _loaded.get(kind)
    if found is None:
        compiled = kernel[grid](*tensors, *numbers, *changing, *constants, num_warps=warps)
        # Not loaded where it was compiled for an absent GPU. Numbers of 32 bits or more are of several types.
        if compiled is not None and compiled.module is not None and not wide:
            _loaded[kind] = compiled.run, compiled.function, compiled.packed_metadata
        return
    run, function, metadata = found
    stream = driver.active.get_current_stream(device)
    run(*grid, stream, function, metadata, None, None, None, *pointers, *numbers, *changing, *constants)
