"""The interface that the engine needs of a model: its shape and one forward. Knows no checkpoint, no transformers."""

from typing import Protocol

import torch
from torch import Tensor

from handler.inference.shape import ModelShape
from handler.ops.pages import KVPages, Layout


class Model(Protocol):
    """Weights on a device, ready to run."""

    @property
    def shape(self) -> ModelShape: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def reserve(self, positions: int) -> None:
        """Allocate what `forward` needs for positions 0 to `positions` - 1. An engine calls it once, before the first.

        Raises:
            RuntimeError: from torch, where memory is too small.
        """
        ...

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        keep: Tensor | None,
        layout: Layout,
        pages: KVPages,
        out: Tensor | None = None,
    ) -> Tensor:
        """Compute one step of packed tokens: write their keys and values into `pages`, return logits.

        The hidden states of the tokens in `layout.scored` are left in `layout.hidden`: their logits together could be
        too large, and `head` computes some of them at a time.

        Args:
            ids: int64 [tokens].
            positions: int64 [tokens], each in its own sequence.
            keep: int64 [draws]: tokens whose logits are needed; None for all.
            out: gets the logits, and is returned; None for a new tensor.

        Returns:
            [draws, vocab], or [tokens, vocab] where `keep` is None.
        """
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [n, vocab] of n hidden states [n, width] from `layout.hidden`."""
        ...
