"""The operations of a layer between its matrix products, in plain torch: on any device, the reference for the kernels.

Results are rounded where transformers' Qwen2 and Qwen3 round them. Knows only tensors, no model.
"""

import torch
from torch import Tensor
from torch.nn import functional

from handler.ops.pages import KVPages


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor | None = None) -> Tensor:
    """RMS norm of the last dimension, in float32 and rounded to the dtype of `x`; then times `weight`.

    `out` is memory for the result, which layers share; None takes new memory.
    """
    return torch.mul(functional.rms_norm(x.float(), x.shape[-1:], None, eps).to(x.dtype), weight, out=out)


def rotate_and_store(
    qkv: Tensor, norms: Tensor | None, rope: Tensor, slots: Tensor, layer: int, pages: KVPages, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Norm and rotate queries and keys, then write keys and values into the cache.

    qkv is [tokens, heads + 2 * kv_heads, head_dim]; norms [2, head_dim], the weights for queries and for keys, or None
    for a model without these norms; rope [tokens, 2, head_dim], see `rope_table`; slots int64 [tokens]. May change qkv;
    returns queries, keys and values.
    """
    kv_heads = pages.k[layer].shape[2]
    heads = qkv.shape[1] - 2 * kv_heads
    turned, value = qkv.split((heads + kv_heads, kv_heads), 1)
    if norms is not None:
        turned = functional.rms_norm(turned.float(), turned.shape[-1:], None, eps).to(qkv.dtype)
        for part, weight in zip(turned.split((heads, kv_heads), 1), norms, strict=True):
            part.mul_(weight)
    cos, sin = rope[:, None].unbind(2)
    # `roll` swaps the halves of a head; the table holds the sign that one half changes.
    turned = (turned * cos).add_(turned.roll(turned.shape[-1] // 2, -1).mul_(sin))
    query, key = turned.split((heads, kv_heads), 1)
    pages.write(layer, slots, key, value)
    return query, key, value


def silu_mul(gate_up: Tensor, out: Tensor | None = None) -> Tensor:
    """[tokens, 2 * n] to [tokens, n]: silu of the first half, times the second half; `out` as in `rms_norm`."""
    gate, up = gate_up.chunk(2, -1)
    return torch.mul(functional.silu(gate), up, out=out)


def frequencies(head_dim: int, theta: float, device: torch.device) -> Tensor:
    """float32 [head_dim / 2]: radians for each position of the pairs of a head, without any scaling."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float, device=device) / head_dim)


def rope_table(positions: Tensor, frequencies: Tensor, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """[n, 2, head_dim]: the cosines that multiply a head, and the signed sines that multiply its swapped halves.

    positions [n]; frequencies float32, [head_dim / 2] for all of them or [n, head_dim / 2]; both times `scale`.
    """
    angles = positions.float()[:, None] * frequencies
    table = torch.empty(*angles.shape[:1], 2, 2 * angles.shape[1], dtype=dtype, device=angles.device)
    cos, sin = table.unflatten(-1, (2, -1)).unbind(1)
    cos.copy_(angles.cos().mul_(scale)[:, None])
    sin.copy_(angles.sin_().mul_(scale)[:, None])
    sin[:, 0].neg_()
    return table
