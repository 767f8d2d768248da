"""The merged forward of Qwen2, 2.5 and 3 (dense): one step of packed tokens with as few matrix products as possible.

One product computes queries, keys and values, another gate and up, and the products add their results to the residual
stream themselves. Knows no file: it asks for its weights by their names in a checkpoint.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import linear

from handler.model.config import ModelConfig
from handler.model.rotation import Rotation
from handler.ops import layers_torch
from handler.ops.attention import attend
from handler.ops.pages import KVPages, Layout

#: Loads weights: names and shapes -> one tensor with all of them, concatenated in order.
Source = Callable[[Mapping[str, tuple[int, ...]]], Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer; matrices are [out, in] as in checkpoints."""

    input_norm: Tensor
    #: queries, then keys, then values
    qkv: Tensor
    qkv_bias: Tensor | None
    #: [2, head_dim]: the norm weights of each query head and of each key head; None where the model has none
    norms: Tensor | None
    out: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor


class Qwen:
    """A `Model` made of merged matrices, for a config whose `beyond_merged()` is None."""

    def __init__(self, config: ModelConfig, source: Source, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.shape = shape = config.shape(dtype.itemsize)
        #: name in a checkpoint -> the weight, a part of its merged matrix
        self.weights: dict[str, Tensor] = {}
        self._eps = config.rms_norm_eps
        width = shape.hidden
        take = partial(self._take, source)
        self._embedding = take({"model.embed_tokens.weight": (shape.vocab, width)})
        self._layers = [self._load_layer(take, config, index) for index in range(shape.layers)]
        self._norm = take({"model.norm.weight": (width,)})
        tied = config.tie_word_embeddings
        self._head = self._embedding if tied else take({"lm_head.weight": (shape.vocab, width)})
        self._rotation = Rotation(config.scaling, config.max_position_embeddings, shape.head_dim, dtype, device)

    @classmethod
    def from_state(cls, config: ModelConfig, state: Mapping[str, Tensor]) -> Self:
        """A model from a copy of these weights (by their names in a checkpoint), with their dtype and device.

        It is ready for all positions of the config.
        """
        like = state["model.embed_tokens.weight"]
        model = cls(config, lambda names: torch.cat([state[name] for name in names]), like.dtype, like.device)
        model.reserve(config.context_length)
        return model

    def _take(self, source: Source, names: Mapping[str, tuple[int, ...]]) -> Tensor:
        """Load one merged matrix and enter its parts into `weights`."""
        merged = source(names)
        parts = merged.split([rows for rows, *_ in names.values()])
        self.weights.update(zip(names, parts, strict=True))
        return merged

    def _load_layer(self, take: Source, config: ModelConfig, index: int) -> Layer:
        at, shape = f"model.layers.{index}.", self.shape
        attention, mlp = f"{at}self_attn.", f"{at}mlp."
        width, head = shape.hidden, shape.head_dim
        rows = {"q": shape.heads * head, "k": shape.kv_heads * head, "v": shape.kv_heads * head}
        bias, normed = config.model_type == "qwen2", config.model_type == "qwen3"

        def qkv(kind: str, *columns: int) -> Tensor:
            return take({f"{attention}{part}_proj.{kind}": (size, *columns) for part, size in rows.items()})

        return Layer(
            input_norm=take({f"{at}input_layernorm.weight": (width,)}),
            qkv=qkv("weight", width),
            qkv_bias=qkv("bias") if bias else None,
            norms=take({f"{attention}{part}_norm.weight": (head,) for part in "qk"}).view(2, head) if normed else None,
            out=take({f"{attention}o_proj.weight": (width, rows["q"])}),
            post_norm=take({f"{at}post_attention_layernorm.weight": (width,)}),
            gate_up=take({f"{mlp}{part}_proj.weight": (shape.intermediate, width) for part in ("gate", "up")}),
            down=take({f"{mlp}down_proj.weight": (width, shape.intermediate)}),
        )

    def reserve(self, positions: int) -> None:
        """See `Model.reserve`. The config's own number of positions is only claimed: its table may not fit anywhere."""
        self._rotation.reserve(positions)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        keep: Tensor | None,
        layout: Layout,
        pages: KVPages,
        out: Tensor | None = None,
    ) -> Tensor:
        """See `Model.forward`."""
        ops, eps = _ops(pages.parts.layers), self._eps
        hidden, rope = self._embedding[ids], self._rotation(positions, layout.prompt_lens)
        # Memory that all layers share, taken once.
        normed = torch.empty_like(hidden)
        mixed = hidden.new_empty(len(ids), self.shape.intermediate)
        for index, layer in enumerate(self._layers):
            ops.rms_norm(hidden, layer.input_norm, eps, normed)
            qkv = linear(normed, layer.qkv, layer.qkv_bias).unflatten(1, (-1, self.shape.head_dim))
            query, key, value = ops.rotate_and_store(qkv, layer.norms, rope, layout.slots, index, pages, eps)
            attended = attend(index, query, key, value, layout, pages)
            hidden.addmm_(attended.flatten(1), layer.out.t())
            ops.rms_norm(hidden, layer.post_norm, eps, normed)
            hidden.addmm_(ops.silu_mul(linear(normed, layer.gate_up), mixed), layer.down.t())
        if layout.scored is not None:
            layout.hidden = ops.rms_norm(hidden[layout.scored], self._norm, eps)
        if keep is not None:
            hidden = hidden[keep]
        normed = ops.rms_norm(hidden, self._norm, eps)
        return self.head(normed) if out is None else torch.mm(normed, self._head.t(), out=out)

    def head(self, hidden: Tensor) -> Tensor:
        """See `Model.head`."""
        return linear(hidden, self._head)


def _ops(kernels: bool) -> ModuleType:
    """The module with the operations between matrix products: plain torch or Triton, with the same functions."""
    if not kernels:
        return layers_torch
    from handler.ops import layers_triton

    return layers_triton
