"""Paged attention: every token's key and value lives in a page, and a row reads only its own pages.

Two implementations share one contract: `paged_reference` is plain SDPA on any device; `paged_kernel` is FlashAttention
and a Triton kernel on CUDA. Knows no request, no scheduler and no sampling.
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from math import prod
from mmap import mmap
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from handler.errors import StartError
from handler.ops import attention_torch

if TYPE_CHECKING:
    from handler.ops.attention_triton import Packed

Name = Literal["paged_reference", "paged_kernel"]


class KVPages:
    """Keys and values of all layers: `k[layer]` and `v[layer]` are [pages, page_size, kv_heads, head_dim].

    Page 0 is scratch, where padded tokens write; it is never given to a request. Memory begins as zeros because the
    reference path also reads slots that it masks (see `attention_torch.readable`).
    """

    def __init__(
        self,
        layers: int,
        pages: int,
        page_size: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        kernels: bool = False,
    ) -> None:
        shape = (pages, page_size, kv_heads, head_dim)
        self.page_size = page_size
        #: who reads and writes: CUDA kernels, or plain torch
        self.kernels = kernels
        self.k = [_zeros(shape, dtype, device) for _ in range(layers)]
        self.v = [_zeros(shape, dtype, device) for _ in range(layers)]

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store key and value [tokens, kv_heads, head_dim] at flat `slots` [tokens]."""
        if not self.kernels:
            key, value = attention_torch.readable(key), attention_torch.readable(value)
        self.k[layer].flatten(0, 1).index_copy_(0, slots, key)
        self.v[layer].flatten(0, 1).index_copy_(0, slots, value)

    def read(self, layer: int, pages: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `pages` [n], each [n * page_size, kv_heads, head_dim] (a copy)."""
        return self.k[layer].index_select(0, pages).flatten(0, 1), self.v[layer].index_select(0, pages).flatten(0, 1)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """As torch.zeros; on a CPU the system hands out zeros as they are touched, and a start waits for none of them."""
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap(-1, prod(shape) * dtype.itemsize), dtype=dtype).view(shape)


@dataclass(slots=True)
class Layout:
    """What attention must know of one step. Its new tokens are packed, rows in order, decode rows (one token) first.

    Make a new one for each step: what a step derives from it once is kept for its other layers.
    """

    #: int64 [tokens]: flat cache slot (page * page_size + offset) of each new token; padded tokens name slots of page 0
    slots: Tensor
    #: int32 [rows, max_pages]: the pages of each row, in order; entries past its last page are ignored
    block_tables: Tensor
    #: int32 [rows]: tokens of each row in the cache once this step's are written; 0 is a padded row
    context_lens: Tensor
    #: int32 [rows + 1]: where each row's tokens begin
    query_starts: Tensor
    #: the lengths again, on the host, where the prefill rows and the reference path read them
    query_lens: list[int]
    context_lens_host: list[int]
    #: rows [0, decode_rows) have exactly one new token
    decode_rows: int
    #: derived by the first layer that needs them
    groups: list[attention_torch.Group] | None = field(default=None, repr=False)
    chunks: list[attention_torch.Chunk] | None = field(default=None, repr=False)
    packed: "Packed | None" = field(default=None, repr=False)


def attend(layer: int, query: Tensor, key: Tensor, value: Tensor, layout: Layout, pages: KVPages) -> Tensor:
    """Attend the new tokens of one step, whose keys and values are in `pages` already.

    query is [tokens, heads, head_dim], key and value [tokens, kv_heads, head_dim]; returns the shape of query. Host
    lengths decide all shapes: nothing waits for the device, and a step of decode rows alone has fixed shapes under a
    CUDA graph.
    """
    scaling = query.shape[-1] ** -0.5
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if rows := layout.decode_rows:
        if pages.kernels:
            from handler.ops.attention_triton import paged_decode

            tables, lengths = layout.block_tables[:rows], layout.context_lens[:rows]
            paged_decode(query[:rows], pages.k[layer], pages.v[layer], tables, lengths, scaling, out[:rows])
        else:
            attention_torch.decode(layer, query[:rows], out[:rows], scaling, layout, pages)
    if rows < len(layout.query_lens):
        # FlashAttention takes no float32: there the prefill stays with SDPA.
        if pages.kernels and query.dtype.itemsize == 2:
            from handler.ops.attention_triton import flash_prefill

            flash_prefill(layer, query, key, value, out, scaling, layout, pages)
        else:
            attention_torch.prefill(layer, query, key, value, out, scaling, layout, pages)
    return out


def choose(wish: Literal["auto", "reference", "kernel"], device: torch.device, head_dim: int) -> tuple[Name, str]:
    """Which implementation serves, and why: the ledger at start quotes it.

    Raises:
        StartError: `kernel` was wished for and cannot run here.
    """
    if wish == "reference":
        return "paged_reference", "asked for"
    obstacle = None
    if device.type != "cuda":
        obstacle = f"the kernels need CUDA, not {device.type}"
    elif find_spec("triton") is None:
        obstacle = "triton is not installed"
    elif torch.cuda.get_device_capability(device) < (8, 0):
        obstacle = "the kernels need compute capability 8.0"
    elif head_dim not in (16, 32, 64, 128, 256):
        obstacle = f"no kernel for head_dim {head_dim}"
    if obstacle is None:
        return "paged_kernel", "asked for" if wish == "kernel" else "CUDA with Triton"
    if wish == "kernel":
        raise StartError(f"ATTENTION=kernel: {obstacle}")
    return "paged_reference", obstacle
