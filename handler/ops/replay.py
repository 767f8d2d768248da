"""Compares a captured CUDA graph with the eager step that it was captured from. Knows tensors and no step.

Both launch the same kernels with the same arguments, so that the results must be equal to the bit. They are not where
the capture has missed a launch, or where the host chose something in it that a later step needs otherwise.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: runs a step and returns the tensors that it has written
Run = Callable[[], Sequence[Tensor]]


def replays_as_eager(eager: Run, replay: Run, state: Sequence[Tensor], times: int = 2) -> bool:
    """True where `times` replays each write the bits that the eager step writes.

    Each run begins with the same contents of `state`, the tensors that a step reads and changes; their contents after a
    step are compared too. They are left as they were. Waits for the device.
    """
    before = [tensor.clone() for tensor in state]

    def restore() -> None:
        for tensor, contents in zip(state, before, strict=True):
            tensor.copy_(contents)

    def run(step: Run) -> list[Tensor]:
        restore()
        return [tensor.clone() for tensor in (*step(), *state)]

    try:
        expected = run(eager)
        return all(_same_bits(run(replay), expected) for _ in range(times))
    finally:
        restore()


def _same_bits(got: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Equal bytes, so that NaN equals itself and 0 differs from -0."""
    return len(got) == len(expected) and all(
        torch.equal(one.view(torch.uint8), other.view(torch.uint8)) for one, other in zip(got, expected, strict=True)
    )
