"""The functions of `layers_torch` for CUDA, each as one Triton kernel that rounds at the same points.

A launch depends on shapes alone, so that a CUDA graph can capture a step. Imported only where it is used.
"""

# Triton compiles the functions below from their source: arguments have no types, constants are in capitals.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: N803

import torch
import triton
import triton.language as tl
from torch import Tensor

from handler.ops.launching import launch
from handler.ops.pages import KVPages

#: elements of a row that one program of `silu_mul` computes
BLOCK = 1024


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor | None = None) -> Tensor:
    """See `layers_torch.rms_norm`; x is [tokens, n]."""
    tokens, size = x.shape
    if out is None:
        out = torch.empty_like(x)
    width = triton.next_power_of_2(size)
    numbers = x.stride(0), out.stride(0), eps
    launch(_rms_norm, (tokens, 1, 1), (x, weight, out), numbers, (), (size, width), 8 if width > 2048 else 4)
    return out


def rotate_and_store(
    qkv: Tensor, norms: Tensor | None, rope: Tensor, slots: Tensor, layer: int, pages: KVPages, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See `layers_torch.rotate_and_store`; changes qkv in place and returns queries, keys and values as views of it."""
    tokens, every, head_dim = qkv.shape
    keys, values = pages.k[layer], pages.v[layer]
    kv_heads = keys.shape[2]
    heads = every - 2 * kv_heads
    launch(
        _rotate_and_store, (tokens, every, 1), (qkv, rope if norms is None else norms, rope, slots, keys, values),
        (qkv.stride(0), heads, kv_heads, eps), (), (norms is not None, head_dim // 2), 1,
    )  # fmt: skip
    query, key, value = qkv.split((heads, kv_heads, kv_heads), 1)
    return query, key, value


def silu_mul(gate_up: Tensor, out: Tensor | None = None) -> Tensor:
    """See `layers_torch.silu_mul`."""
    tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
    if out is None:
        out = torch.empty(tokens, size, dtype=gate_up.dtype, device=gate_up.device)
    launch(_silu_mul, (tokens, triton.cdiv(size, BLOCK), 1), (gate_up, out), (size,), (), (BLOCK,), 4)
    return out


@triton.jit
def _rms_norm(x, weight, out, x_row, out_row, eps, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """One program: one row."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WIDTH)
    valid = at < SIZE
    value = tl.load(x + row * x_row + at, mask=valid, other=0.0).to(tl.float32)
    normed = value * tl.rsqrt(tl.sum(value * value, 0) / SIZE + eps)
    normed = normed.to(out.dtype.element_ty).to(tl.float32) * tl.load(weight + at, mask=valid, other=0.0).to(tl.float32)
    tl.store(out + row * out_row + at, normed.to(out.dtype.element_ty), mask=valid)


@triton.jit
def _rotate_and_store(
    qkv, norms, rope, slots, keys, values, row_stride, heads, kv_heads, eps, NORM: tl.constexpr, HALF: tl.constexpr
):
    """One program: one head of one token, in halves. Its index tells whether it is a query, a key or a value."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    dtype = qkv.dtype.element_ty
    dim = tl.arange(0, HALF)
    at = qkv + token * row_stride + head * 2 * HALF + dim
    first, second = tl.load(at).to(tl.float32), tl.load(at + HALF).to(tl.float32)
    slot = tl.load(slots + token) * kv_heads
    if head >= heads + kv_heads:
        to = values + (slot + head - heads - kv_heads) * 2 * HALF + dim
        tl.store(to, first.to(dtype))
        tl.store(to + HALF, second.to(dtype))
    else:
        if NORM:
            scale = tl.rsqrt((tl.sum(first * first, 0) + tl.sum(second * second, 0)) / (2 * HALF) + eps)
            weight = norms + tl.where(head < heads, 0, 2 * HALF) + dim
            first = (first * scale).to(dtype).to(tl.float32) * tl.load(weight).to(tl.float32)
            second = (second * scale).to(dtype).to(tl.float32) * tl.load(weight + HALF).to(tl.float32)
            first, second = first.to(dtype).to(tl.float32), second.to(dtype).to(tl.float32)
        angle = rope + token * 4 * HALF + dim
        straight, crossed = first * tl.load(angle).to(tl.float32), second * tl.load(angle + 2 * HALF).to(tl.float32)
        new_first = (straight.to(dtype).to(tl.float32) + crossed.to(dtype).to(tl.float32)).to(dtype)
        straight, crossed = (
            second * tl.load(angle + HALF).to(tl.float32),
            first * tl.load(angle + 3 * HALF).to(tl.float32),
        )
        new_second = (straight.to(dtype).to(tl.float32) + crossed.to(dtype).to(tl.float32)).to(dtype)
        tl.store(at, new_first)
        tl.store(at + HALF, new_second)
        if head >= heads:
            to = keys + (slot + head - heads) * 2 * HALF + dim
            tl.store(to, new_first)
            tl.store(to + HALF, new_second)


@triton.jit
def _silu_mul(gate_up, out, size, BLOCK: tl.constexpr):
    """One program: one block of one row."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    valid = at < size
    dtype = out.dtype.element_ty
    gate = tl.load(gate_up + row * 2 * size + at, mask=valid, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + at, mask=valid, other=0.0).to(tl.float32)
    gate = (gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32)
    tl.store(out + row * size + at, (gate * up).to(dtype), mask=valid)
