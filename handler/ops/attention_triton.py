"""Paged attention on CUDA: FlashAttention through torch for prefill, a split-KV Triton kernel for decode.

Imported only where it is used, because it needs Triton. Nothing here waits for the device. The shapes of a decode call
follow from those of its arguments, so a CUDA graph can capture it.
"""

# Triton compiles the functions below from their source: arguments have no types, constants are in capitals.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: N803

import torch
import triton
import triton.language as tl
from torch import Tensor

from handler.ops.launching import launch
from handler.ops.pages import KVPages, Layout, PackedPrefill, Partial, SplitDecode

#: positions that a program of the decode kernel attends at a time
BLOCK = 64
#: so many programs share the context of a row
LEAST_SPLITS, MOST_SPLITS = 8, 32


def flash_prefill(
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    scaling: float,
    layout: Layout,
    pages: KVPages,
) -> None:
    """Attend prefill rows by FlashAttention 2 in one call, in float16 or bfloat16.

    query and out are [tokens, heads, head_dim], key and value [tokens, kv_heads, head_dim] of all new tokens. The
    operator has the same signature in torch 2.11 and 2.13.
    """
    if layout.packed is None:
        layout.packed = _packed(layout, pages.page_size)
    packed, decode_rows = layout.packed, layout.decode_rows
    if packed.slots is None:
        k, v = key[decode_rows:], value[decode_rows:]
    else:
        k, v = (cache[layer].flatten(0, 1).index_select(0, packed.slots) for cache in (pages.k, pages.v))
    out[decode_rows:] = torch.ops.aten._flash_attention_forward(
        query[decode_rows:], k, v, packed.query_starts, packed.key_starts, packed.longest_query,
        packed.longest_context, 0.0, True, False, scale=scaling,
    )[0]  # fmt: skip


def _packed(layout: Layout, page_size: int) -> PackedPrefill:
    first, device = layout.decode_rows, layout.slots.device
    queries, contexts = layout.query_lens[first:], layout.context_lens_host[first:]
    query_starts = layout.query_starts[first:] - layout.query_starts[first]
    if queries == contexts:
        return PackedPrefill(query_starts, query_starts, max(queries), max(contexts), None)
    lengths, total = layout.context_lens[first:], sum(contexts)
    key_starts = torch.zeros_like(query_starts)
    key_starts[1:] = lengths.cumsum(0)
    rows = torch.repeat_interleave(torch.arange(len(contexts), device=device), lengths, output_size=total)
    positions = torch.arange(total, device=device) - key_starts[rows]
    pages = layout.block_tables[first:][rows, positions // page_size].long()
    slots = pages * page_size + positions % page_size
    return PackedPrefill(query_starts, key_starts, max(queries), max(contexts), slots)


def splits_for(rows: int, kv_heads: int) -> int:
    """How many programs share the context of a row: enough for two waves on 132 multiprocessors (an H100) in total.

    The lengths of the contexts do not count, because they are on the device. A step takes as long as its longest
    program, so LEAST_SPLITS share each context however many rows there are: one row may have a long one, and programs
    without a part of a short one end at once. `python -m bench.attention` compares other values.
    """
    splits = LEAST_SPLITS
    while splits < MOST_SPLITS and rows * kv_heads * splits < 264:
        splits *= 2
    return splits


def decode(layer: int, query: Tensor, out: Tensor, scaling: float, layout: Layout, pages: KVPages) -> None:
    """Attend the decode rows of a step; query and out are [tokens, heads, head_dim] of all new tokens."""
    queries = query[: layout.decode_rows]
    if layout.decode is None:
        layout.decode = _split_decode(queries, out, layout, pages.k[layer].shape[2])
    split = layout.decode
    paged_decode(
        queries, pages.k[layer], pages.v[layer], split.tables, split.lengths, scaling, split.out, split.partial
    )


def _split_decode(queries: Tensor, out: Tensor, layout: Layout, kv_heads: int) -> SplitDecode:
    rows = layout.decode_rows
    partial = partial_for(queries, splits_for(rows, kv_heads))
    return SplitDecode(layout.block_tables[:rows], layout.context_lens[:rows], out[:rows], partial)


def partial_for(query: Tensor, splits: int) -> Partial:
    """Memory for a query [rows, heads, head_dim] whose contexts are split so many ways, a power of two."""
    rows, heads, head_dim = query.shape
    values = torch.empty(rows, heads, splits, head_dim, dtype=torch.float32, device=query.device)
    return Partial(values, torch.empty(rows, heads, splits, dtype=torch.float32, device=query.device))


def paged_decode(
    query: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor, scaling: float, out: Tensor,
    partial: Partial | None = None,
) -> None:  # fmt: skip
    """Attend one query token per row over its pages (flash-decoding: splits of a context, then their combination).

    query, out [rows, heads, head_dim]; keys, values [pages, page_size, kv_heads, head_dim], any page size; tables
    int32 [rows, max_pages]; lengths int32 [rows], the new token included. The result of a row of length 0 is zeros.
    float32, float16 or bfloat16; head_dim a power of two >= 16. Softmax and sums in float32. The layers of a step share
    `partial`, which has the number of splits, at most MOST_SPLITS; None takes memory for `splits_for`.
    """
    rows, heads, head_dim = query.shape
    page_size, kv_heads = keys.shape[1:3]
    group = heads // kv_heads
    if partial is None:
        partial = partial_for(query, splits_for(rows, kv_heads))
    splits = partial.lse.shape[2]
    padded = max(16, triton.next_power_of_2(group))  # a tensor-core tile has at least 16 rows
    launch(
        _attend_split, (rows, kv_heads, splits), (query, keys, values, tables, lengths, partial.values, partial.lse),
        (*query.stride()[:2], *keys.stride()[:3], heads, scaling), (tables.stride(0), splits),
        (group, padded, head_dim, page_size, BLOCK), 4,
    )  # fmt: skip
    launch(
        _combine, (rows, heads, 1), (partial.values, partial.lse, out), (*out.stride()[:2], heads), (splits,),
        (head_dim, MOST_SPLITS), 4,
    )  # fmt: skip


# Not specialised for arguments that differ from step to step: Triton would compile the kernel again for special values
# (1, multiples of 16) while requests wait.
@triton.jit(do_not_specialize=["t_row", "splits"])
def _attend_split(
    query, keys, values, tables, lengths, partial, lse, q_row, q_head, c_page, c_token, c_head, heads, scaling, t_row,
    splits, GROUP: tl.constexpr, PADDED: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: one row, one key head with the query heads that share it, one split of the context.

    A split without a token stores its lse alone, -inf: most splits of short contexts are empty.
    """
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    per_split = tl.cdiv(tl.cdiv(length, splits), BLOCK) * BLOCK
    begin = split * per_split
    end = tl.minimum(begin + per_split, length)
    member = tl.arange(0, PADDED)
    dim = tl.arange(0, HEAD_DIM)
    q_at = query + row * q_row + (head * GROUP + member)[:, None] * q_head + dim[None, :]
    q = tl.load(q_at, mask=(member < GROUP)[:, None], other=0.0)
    best = tl.full([PADDED], float("-inf"), tl.float32)
    total = tl.zeros([PADDED], tl.float32)
    acc = tl.zeros([PADDED, HEAD_DIM], tl.float32)
    for start in range(begin, end, BLOCK):
        position = start + tl.arange(0, BLOCK)
        valid = position < end
        # int64 from here: a cache may be larger than 2**31 elements.
        page = tl.load(tables + row * t_row + position // PAGE, mask=valid, other=0).to(tl.int64)
        at = (page * c_page + (position % PAGE) * c_token + head * c_head)[:, None] + dim[None, :]
        k = tl.load(keys + at, mask=valid[:, None], other=0.0)
        v = tl.load(values + at, mask=valid[:, None], other=0.0)
        # ieee: float32 must not be rounded to tf32; half precision ignores the option
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
        score = tl.where(valid[None, :], score, float("-inf"))
        new_best = tl.maximum(best, tl.max(score, 1))
        weight = tl.exp(score - new_best[:, None])
        fade = tl.exp(best - new_best)
        total = total * fade + tl.sum(weight, 1)
        acc = acc * fade[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        best = new_best
    some = tl.where(total > 0, total, 1.0)
    own = member < GROUP
    at = (row * heads + head * GROUP + member) * splits + split
    if begin < end:
        tl.store(partial + at[:, None] * HEAD_DIM + dim[None, :], acc / some[:, None], mask=own[:, None])
    tl.store(lse + at, tl.where(total > 0, best + tl.log(some), float("-inf")), mask=own)


@triton.jit(do_not_specialize=["splits"])
def _combine(partial, lse, out, o_row, o_head, heads, splits, HEAD_DIM: tl.constexpr, MOST: tl.constexpr):
    """One program: one row, one query head; sums its splits, weighted by their share of the softmax."""
    row, head = tl.program_id(0), tl.program_id(1)
    dim = tl.arange(0, HEAD_DIM)
    split = tl.arange(0, MOST)
    at = (row * heads + head) * splits + split
    part = tl.load(lse + at, mask=split < splits, other=float("-inf"))
    filled = part > float("-inf")
    best = tl.max(part, 0)
    weight = tl.exp(part - tl.where(best > float("-inf"), best, 0.0))  # an empty split, or row, has weight 0
    total = tl.sum(weight, 0)
    values = tl.load(partial + at[:, None] * HEAD_DIM + dim[None, :], mask=filled[:, None], other=0.0)
    result = tl.sum(values * weight[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + row * o_row + head * o_head + dim, result.to(out.dtype.element_ty))
