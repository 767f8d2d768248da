"""Paged attention: the choice between its two implementations, and the call that runs the chosen one.

Plain attention is SDPA on any device (`attention_torch`); the kernels are FlashAttention and a Triton kernel on CUDA
(`attention_triton`). Knows no request, no scheduler and no sampling.
"""

from dataclasses import replace
from importlib.util import find_spec
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from handler.errors import StartError
from handler.ops import attention_torch
from handler.ops.pages import KVPages, Layout
from handler.ops.parts import Parts


def attend(layer: int, query: Tensor, key: Tensor, value: Tensor, layout: Layout, pages: KVPages) -> Tensor:
    """Attend the new tokens of one step, whose keys and values are in `pages` already.

    query is [tokens, heads, head_dim], key and value [tokens, kv_heads, head_dim]. Returns the shape of query, in
    memory that the next layer's call overwrites. Lengths on the host decide all shapes: nothing waits for the device,
    and a step of decode rows alone has fixed shapes, as a CUDA graph needs.
    """
    scaling = query.shape[-1] ** -0.5
    if layout.attended is None:
        layout.attended = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    out = layout.attended
    if rows := layout.decode_rows:
        if pages.parts.decode:
            from handler.ops.attention_triton import decode

            decode(layer, query, out, scaling, layout, pages)
        else:
            attention_torch.decode(layer, query[:rows], out[:rows], scaling, layout, pages)
    if rows < len(layout.query_lens):
        if pages.parts.prefill:
            from handler.ops.attention_triton import flash_prefill

            flash_prefill(layer, query, key, value, out, scaling, layout, pages)
        else:
            attention_torch.prefill(layer, query, key, value, out, scaling, layout, pages)
    return out


def choose(
    setting: Literal["auto", "reference", "kernel"], device: torch.device, head_dim: int, dtype: torch.dtype
) -> Parts:
    """The implementation of each part of a step and the reason, which the ledger at start and `info` report.

    Raises:
        StartError: the setting is `kernel` and the kernels cannot run on this device or model.
    """
    if setting == "reference":
        return Parts.every(False, "set by ATTENTION")
    obstacle = None
    if device.type != "cuda":
        obstacle = f"the kernels need CUDA, not {device.type}"
    elif find_spec("triton") is None:
        obstacle = "triton is not installed"
    sampler = obstacle is None  # which depends on no head
    if obstacle is None and torch.cuda.get_device_capability(device) < (8, 0):
        obstacle = "the kernels need a GPU of compute capability 8.0 or later"
    elif obstacle is None and head_dim not in (16, 32, 64, 128, 256):
        obstacle = f"the kernels do not support head_dim {head_dim}"
    if obstacle is None:
        parts = Parts.every(True, "set by ATTENTION" if setting == "kernel" else "CUDA with Triton")
        return parts if dtype.itemsize == 2 else parts.without({"prefill": "FlashAttention takes no float32"})
    if setting == "kernel":
        raise StartError(f"ATTENTION=kernel: {obstacle}; set ATTENTION=auto")
    parts = Parts.every(False, obstacle)
    if not sampler:
        return parts
    reasons = MappingProxyType({**parts.reasons, "sampler": "CUDA with Triton"})
    return replace(parts, sampler=True, reasons=reasons)
