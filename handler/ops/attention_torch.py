"""Paged attention in plain SDPA, on any device: the reference for the kernels, and the fallback without them.

The cost of a row follows its own context: its pages are gathered, and no score is computed against another row's keys.
Lengths on the host decide all shapes, so that nothing waits for the device.
"""

from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from handler.ops.pages import DecodeGroup, KVPages, Layout, PrefillRow


def decode(layer: int, query: Tensor, out: Tensor, scaling: float, layout: Layout, pages: KVPages) -> None:
    """Attend decode rows: query and out are [decode_rows, heads, head_dim]."""
    if layout.decode_groups is None:
        layout.decode_groups = _decode_groups(layout, pages.page_size, query.dtype)
    kv_heads = pages.k[layer].shape[2]
    for group in layout.decode_groups:
        count, (key, value) = len(group.mask), pages.read(layer, group.pages)
        key, value = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in (key, value))
        # Grouped heads without a copy: the query heads that share a key head take the dimension of query positions.
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
    layout: Layout,
    pages: KVPages,
) -> None:
    """Attend prefill rows: query and out [tokens, heads, head_dim], key and value [tokens, kv_heads, head_dim] of all
    new tokens."""
    if layout.prefill_rows is None:
        layout.prefill_rows = _prefill_rows(layout, pages.page_size, query.dtype)
    kv_heads = key.shape[1]
    for row in layout.prefill_rows:
        if row.pages is None:
            k, v = key[row.tokens], value[row.tokens]
        else:
            k, v = (x[: row.context] for x in pages.read(layer, row.pages))
        q = query[row.tokens].transpose(0, 1).unflatten(0, (kv_heads, -1))
        # `expand` repeats the key heads by a stride of zero: nothing is copied.
        k, v = (x.transpose(0, 1)[:, None].expand(-1, q.shape[1], -1, -1) for x in (k, v))
        got = scaled_dot_product_attention(q, k, v, attn_mask=row.mask, is_causal=row.mask is None, scale=scaling)
        out[row.tokens] = got.flatten(0, 1).transpose(0, 1)


def _decode_groups(layout: Layout, page_size: int, dtype: torch.dtype) -> list[DecodeGroup]:
    # Padding at most doubles the cost of a row; one call for each row would cost several times as much.
    lengths = layout.context_lens_host[: layout.decode_rows]
    members: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        members.setdefault((max(length, 64) - 1).bit_length(), []).append(row)
    device, groups = layout.slots.device, []
    for rows in members.values():
        every = len(rows) == layout.decode_rows
        at = slice(layout.decode_rows) if every else torch.tensor(rows, device=device)
        pages = -(-max(max(lengths[row] for row in rows), 1) // page_size)
        # A padded row reads one token of page 0, because a softmax over no token is NaN.
        valid = layout.context_lens[at].clamp(min=1)
        masked = torch.arange(pages * page_size, device=device) >= valid[:, None]
        mask = torch.zeros(masked.shape, dtype=dtype, device=device).masked_fill_(masked, float("-inf"))
        table = layout.block_tables[at, :pages].long().flatten()
        groups.append(DecodeGroup(None if isinstance(at, slice) else at, table, mask[:, None, None]))
    return groups


def _prefill_rows(layout: Layout, page_size: int, dtype: torch.dtype) -> list[PrefillRow]:
    ends, prefill = list(accumulate(layout.query_lens)), []
    for row in range(layout.decode_rows, len(layout.query_lens)):
        count, context, pages, mask = layout.query_lens[row], layout.context_lens_host[row], None, None
        if context > count:
            pages = layout.block_tables[row, : -(-context // page_size)].long()
            mask = torch.full((count, context), float("-inf"), dtype=dtype, device=pages.device)
            mask.triu_(context - count + 1)
        prefill.append(PrefillRow(slice(ends[row] - count, ends[row]), context, pages, mask))
    return prefill
