"""The cosines and sines of each position, as transformers computes them in float32. Knows no file and no step."""

import torch
from torch import Tensor

from handler.model.rope import Rope
from handler.ops.layers_torch import frequencies, rope_table


class Rotation:
    """The rotary table of one model.

    With `dynamic` a token's angle depends on a length too: that of the prompt, or its own position where it was drawn.
    These are the angles that transformers' `generate` gives it, whatever chunks the prompt is cut into.
    """

    def __init__(self, rope: Rope, positions: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        """`positions`: `max_position_embeddings` of config.json. `reserve` makes the table."""
        self._rope, self._positions, self._head_dim = rope, positions, head_dim
        self._dtype, self._device = dtype, device
        self._table = torch.empty(0, 2, head_dim, dtype=dtype, device=device)

    def reserve(self, positions: int) -> None:
        """Compute the table for positions 0 to `positions` - 1."""
        if positions > len(self._table):
            self._table = self._of(torch.arange(positions, device=self._device))

    def __call__(self, positions: Tensor, prompt_lens: Tensor | None) -> Tensor:
        """[tokens, 2, head_dim] for positions [tokens]; `prompt_lens` as in `Layout`."""
        if prompt_lens is None or self._rope.rope_type != "dynamic":
            return self._table[positions]
        return self._of(positions, prompt_lens)

    def _of(self, positions: Tensor, prompt_lens: Tensor | None = None) -> Tensor:
        own = self._frequencies() if self._rope.rope_type != "dynamic" else self._grown(positions, prompt_lens)
        return rope_table(positions, own, self._dtype, self._rope.scale)

    def _frequencies(self) -> Tensor:
        """float32 [head_dim / 2]."""
        rope = self._rope
        plain = frequencies(self._head_dim, rope.rope_theta, self._device)
        if rope.rope_type == "linear":
            return plain / rope.factor
        if rope.rope_type == "yarn":
            low, high = rope.ramp(self._head_dim, self._positions)
            steps = torch.arange(len(plain), dtype=torch.float, device=self._device)
            kept = 1 - ((steps - low) / (high - low)).clamp_(0, 1)
            powers = rope.rope_theta ** (2 * steps / self._head_dim)
            return 1.0 / (rope.factor * powers) * (1 - kept) + plain * kept
        return plain

    def _grown(self, positions: Tensor, prompt_lens: Tensor | None) -> Tensor:
        """float32 [tokens, head_dim / 2]: the base of each token grows with its length beyond the original context."""
        rope, dim = self._rope, self._head_dim
        lengths = positions + 1 if prompt_lens is None else torch.maximum(positions + 1, prompt_lens)
        lengths = lengths.clamp(min=self._positions)
        growth = rope.factor * lengths / self._positions - (rope.factor - 1)
        # A vector's power in float32 is rounded otherwise than a number's; in float64 both come out the same.
        base = rope.rope_theta * (growth.double() ** (dim / (dim - 2))).float()
        return 1.0 / base[:, None] ** (torch.arange(0, dim, 2, dtype=torch.float, device=self._device) / dim)
