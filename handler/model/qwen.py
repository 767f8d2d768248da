"""Qwen2, 2.5 and 3 (dense) for one step of packed tokens, with as few matrix products as there can be.

Queries, keys and values come from one product, gate and up from another, and what a layer adds to the residual stream
is added by the product itself. Knows no file: `places` says what belongs where.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import linear

from handler.model.config import ModelConfig
from handler.ops import layers_torch
from handler.ops.attention import KVPages, Layout, attend


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer; matrices are [out, in] as in checkpoints."""

    input_norm: Tensor
    #: queries, then keys, then values
    qkv: Tensor
    qkv_bias: Tensor | None
    #: [2, head_dim]: for each head of the queries, and of the keys
    norms: Tensor | None
    out: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor


class Qwen:
    """A `Model` for which `config.beyond_merged()` is None. Its weights are whatever memory held, until filled."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.shape = shape = config.shape(dtype.itemsize)
        self._eps = config.rms_norm_eps
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self._parts = queries, keys, keys

        def empty(*size: int) -> Tensor:
            return torch.empty(size, dtype=dtype, device=device)

        def layer() -> Layer:
            return Layer(
                input_norm=empty(shape.hidden),
                qkv=empty(queries + 2 * keys, shape.hidden),
                qkv_bias=empty(queries + 2 * keys) if config.model_type == "qwen2" else None,
                norms=empty(2, shape.head_dim) if config.model_type == "qwen3" else None,
                out=empty(shape.hidden, queries),
                post_norm=empty(shape.hidden),
                gate_up=empty(2 * shape.intermediate, shape.hidden),
                down=empty(shape.hidden, shape.intermediate),
            )

        self._embedding = empty(shape.vocab, shape.hidden)
        self._layers = [layer() for _ in range(shape.layers)]
        self._norm = empty(shape.hidden)
        self._head = self._embedding if config.tie_word_embeddings else empty(shape.vocab, shape.hidden)
        theta = float(config.rope["rope_theta"])
        self._rope = layers_torch.rope_table(shape.context_length, shape.head_dim, theta, dtype, device)

    @classmethod
    def from_state(cls, config: ModelConfig, state: Mapping[str, Tensor]) -> Self:
        """A model of copied weights, by their names in a checkpoint; dtype and device are theirs."""
        like = state["model.embed_tokens.weight"]
        model = cls(config, like.dtype, like.device)
        for name, place in model.places().items():
            place.copy_(state[name])
        return model

    def places(self) -> dict[str, Tensor]:
        """Where the tensors of a checkpoint belong, by their names there: contiguous, each its own memory."""
        places = {"model.embed_tokens.weight": self._embedding, "model.norm.weight": self._norm}
        if self._head is not self._embedding:
            places["lm_head.weight"] = self._head
        for index, layer in enumerate(self._layers):
            names = {
                "input_layernorm.weight": layer.input_norm,
                "post_attention_layernorm.weight": layer.post_norm,
                "self_attn.o_proj.weight": layer.out,
                "mlp.down_proj.weight": layer.down,
                **dict(zip(("mlp.gate_proj.weight", "mlp.up_proj.weight"), layer.gate_up.chunk(2), strict=True)),
            }
            for kind, merged in (("weight", layer.qkv), ("bias", layer.qkv_bias)):
                if merged is not None:
                    parts = zip("qkv", merged.split(self._parts), strict=True)
                    names |= {f"self_attn.{part}_proj.{kind}": place for part, place in parts}
            if layer.norms is not None:
                names |= {f"self_attn.{part}_norm.weight": place for part, place in zip("qk", layer.norms, strict=True)}
            places |= {f"model.layers.{index}.{name}": place for name, place in names.items()}
        return places

    def forward(self, ids: Tensor, positions: Tensor, keep: Tensor | None, layout: Layout, pages: KVPages) -> Tensor:
        """See `Model.forward`."""
        ops, eps = _ops(pages.kernels), self._eps
        hidden, rope = self._embedding[ids], self._rope[positions]
        for index, layer in enumerate(self._layers):
            normed = ops.rms_norm(hidden, layer.input_norm, eps)
            qkv = linear(normed, layer.qkv, layer.qkv_bias).unflatten(1, (-1, self.shape.head_dim))
            query, key, value = ops.rotate_and_store(qkv, layer.norms, rope, layout.slots, index, pages, eps)
            attended = attend(index, query, key, value, layout, pages)
            hidden.addmm_(attended.flatten(1), layer.out.t())
            normed = ops.rms_norm(hidden, layer.post_norm, eps)
            hidden.addmm_(ops.silu_mul(linear(normed, layer.gate_up)), layer.down.t())
        if keep is not None:
            hidden = hidden[keep]
        return linear(ops.rms_norm(hidden, self._norm, eps), self._head)


def _ops(kernels: bool) -> ModuleType:
    """What computes between the matrix products: two modules of the same three functions."""
    if not kernels:
        return layers_torch
    from handler.ops import layers_triton

    return layers_triton
