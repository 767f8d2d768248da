"""Paged attention: the choice between its two implementations, and the call that runs the chosen one.

`paged_reference` is plain SDPA on any device (`attention_torch`); `paged_kernel` is FlashAttention and a Triton kernel
on CUDA (`attention_triton`). Knows no request, no scheduler and no sampling.
"""

from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from handler.errors import StartError
from handler.ops import attention_torch
from handler.ops.pages import KVPages, Layout

Name = Literal["paged_reference", "paged_kernel"]

#: bytes of one head of one token: with more, the decode kernel needs more shared memory than GPUs for desktops have
MOST_HEAD_BYTES = 512


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
        if pages.kernels:
            from handler.ops.attention_triton import decode

            decode(layer, query, out, scaling, layout, pages)
        else:
            attention_torch.decode(layer, query[:rows], out[:rows], scaling, layout, pages)
    if rows < len(layout.query_lens):
        # FlashAttention takes no float32: SDPA prefills it.
        if pages.kernels and query.dtype.itemsize == 2:
            from handler.ops.attention_triton import flash_prefill

            flash_prefill(layer, query, key, value, out, scaling, layout, pages)
        else:
            attention_torch.prefill(layer, query, key, value, out, scaling, layout, pages)
    return out


def choose(
    setting: Literal["auto", "reference", "kernel"], device: torch.device, head_dim: int, dtype_bytes: int
) -> tuple[Name, str]:
    """The implementation that serves and the reason, which the ledger at start and `info` report.

    `dtype_bytes` are those of one number of the model.

    Raises:
        StartError: the setting is `kernel` and the kernels cannot run on this device or model.
    """
    if setting == "reference":
        return "paged_reference", "set by ATTENTION"
    obstacle = None
    if device.type != "cuda":
        obstacle = f"the kernels need CUDA, not {device.type}"
    elif find_spec("triton") is None:
        obstacle = "triton is not installed"
    elif torch.cuda.get_device_capability(device) < (8, 0):
        obstacle = "the kernels need a GPU of compute capability 8.0 or later"
    elif head_dim not in (16, 32, 64, 128, 256):
        obstacle = f"the kernels do not support head_dim {head_dim}"
    elif head_dim * dtype_bytes > MOST_HEAD_BYTES:
        obstacle = f"the kernels support head_dim {head_dim} in 16 bits, not in float32"
    if obstacle is None:
        return "paged_kernel", "set by ATTENTION" if setting == "kernel" else "CUDA with Triton"
    if setting == "kernel":
        raise StartError(f"ATTENTION=kernel: {obstacle}; set ATTENTION=auto")
    return "paged_reference", obstacle
