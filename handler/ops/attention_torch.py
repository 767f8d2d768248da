"""Paged attention in plain SDPA, on any device: what the kernels are measured against, and what serves without them.

A row costs what its own context costs: its pages are gathered, and no score is taken with another row's keys. Host
lengths decide all shapes, so that nothing waits for a device.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from handler.ops.attention import KVPages, Layout


#: no model computes keys and values as large; scores of smaller ones are finite
HUGE = 1e30


def readable(x: Tensor) -> Tensor:
    """Keys or values as they may be stored: NaN, infinite and huge ones become 0.

    `decode` reads whole pages and masks what lies behind a row's last token: what another request left there. Masking
    adds -inf to a score and multiplies a value by 0, which undoes what is finite, and nothing else.
    """
    return torch.where(x.abs() < HUGE, x, 0)


@dataclass(frozen=True, slots=True)
class Group:
    """Decode rows of similar length, padded to the longest and attended in one call."""

    #: int64 [n], or None where the group is all decode rows
    rows: Tensor | None
    #: int64 [n * m]: the first m pages of each row
    pages: Tensor
    #: [n, 1, 1, m * page_size], added to scores: -inf past a row's last token
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Chunk:
    """One prefill row."""

    #: its tokens among the new tokens of the step
    tokens: slice
    #: its tokens in the cache after this step
    context: int
    #: int64: pages of its context; None where the chunk begins the sequence, so that its own keys are all there is
    pages: Tensor | None
    #: [tokens, context], added to scores: -inf for what comes later; None where plain causal does the same
    mask: Tensor | None


def decode(layer: int, query: Tensor, out: Tensor, scaling: float, layout: "Layout", pages: "KVPages") -> None:
    """Attend decode rows: query and out are [decode_rows, heads, head_dim]."""
    if layout.groups is None:
        layout.groups = _groups(layout, pages.page_size, query.dtype)
    kv_heads = pages.k[layer].shape[2]
    for group in layout.groups:
        count, (key, value) = len(group.mask), pages.read(layer, group.pages)
        key, value = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in (key, value))
        # The query heads that share a key head stand where query positions do: grouped heads without a repeat.
        q = (query if group.rows is None else query[group.rows]).unflatten(1, (kv_heads, -1))
        got = scaled_dot_product_attention(q, key, value, attn_mask=group.mask, scale=scaling).flatten(1, 2)
        if group.rows is None:
            out.copy_(got)
        else:
            out.index_copy_(0, group.rows, got)


def prefill(
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    scaling: float,
    layout: "Layout",
    pages: "KVPages",
) -> None:
    """Attend prefill rows: query and out [tokens, heads, head_dim], key and value the same of all new tokens."""
    if layout.chunks is None:
        layout.chunks = _chunks(layout, pages.page_size, query.dtype)
    kv_heads = key.shape[1]
    for chunk in layout.chunks:
        if chunk.pages is None:
            k, v = key[chunk.tokens], value[chunk.tokens]
        else:
            k, v = (x[: chunk.context] for x in pages.read(layer, chunk.pages))
        q = query[chunk.tokens].transpose(0, 1).unflatten(0, (kv_heads, -1))
        # Key heads repeated by a stride of zero: nothing is copied.
        k, v = (x.transpose(0, 1)[:, None].expand(-1, q.shape[1], -1, -1) for x in (k, v))
        got = scaled_dot_product_attention(q, k, v, attn_mask=chunk.mask, is_causal=chunk.mask is None, scale=scaling)
        out[chunk.tokens] = got.flatten(0, 1).transpose(0, 1)


def _groups(layout: "Layout", page_size: int, dtype: torch.dtype) -> list[Group]:
    # Padding costs at most twice a row's own length; a call per row would cost several times as much.
    lengths = layout.context_lens_host[: layout.decode_rows]
    members: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        members.setdefault((max(length, 64) - 1).bit_length(), []).append(row)
    device, groups = layout.slots.device, []
    for rows in members.values():
        every = len(rows) == layout.decode_rows
        at = slice(layout.decode_rows) if every else torch.tensor(rows, device=device)
        pages = -(-max(max(lengths[row] for row in rows), 1) // page_size)
        valid = layout.context_lens[at].clamp(min=1)  # a padded row reads one token of page 0: no softmax over nothing
        masked = torch.arange(pages * page_size, device=device) >= valid[:, None]
        mask = torch.zeros(masked.shape, dtype=dtype, device=device).masked_fill_(masked, float("-inf"))
        table = layout.block_tables[at, :pages].long().flatten()
        groups.append(Group(None if isinstance(at, slice) else at, table, mask[:, None, None]))
    return groups


def _chunks(layout: "Layout", page_size: int, dtype: torch.dtype) -> list[Chunk]:
    ends, chunks = list(accumulate(layout.query_lens)), []
    for row in range(layout.decode_rows, len(layout.query_lens)):
        count, context, pages, mask = layout.query_lens[row], layout.context_lens_host[row], None, None
        if context > count:
            pages = layout.block_tables[row, : -(-context // page_size)].long()
            mask = torch.full((count, context), float("-inf"), dtype=dtype, device=pages.device)
            mask.triu_(context - count + 1)
        chunks.append(Chunk(slice(ends[row] - count, ends[row]), context, pages, mask))
    return chunks
