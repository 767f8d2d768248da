"""The tensors of paged attention: the pages of the KV cache, the layout of one step over them.

Both implementations of attention read them. Knows no model, no request and no scheduler.
"""

from dataclasses import dataclass, field
from math import prod
from mmap import mmap

import torch
from torch import Tensor

from handler.ops.parts import PLAIN, Parts

#: Plain attention stores larger keys and values as 0. No model computes such values, and scores of smaller ones are
#: finite.
HUGE = 1e30


class KVPages:
    """Keys and values of all layers: `k[layer]` and `v[layer]` are [pages, page_size, kv_heads, head_dim].

    Page 0 is scratch: padded tokens are written there, and no request gets it. The memory starts as zeros because
    plain attention also reads the slots that it masks (see `finite`).
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
        parts: Parts = PLAIN,
    ) -> None:
        shape = (pages, page_size, kv_heads, head_dim)
        self.page_size = page_size
        #: what reads and writes the pages: kernels or plain torch
        self.parts = parts
        self.k = [_zeros(shape, dtype, device) for _ in range(layers)]
        self.v = [_zeros(shape, dtype, device) for _ in range(layers)]

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store key and value [tokens, kv_heads, head_dim] at the flat `slots` [tokens]."""
        if not self.parts.decode:
            key, value = finite(key), finite(value)
        self.k[layer].flatten(0, 1).index_copy_(0, slots, key)
        self.v[layer].flatten(0, 1).index_copy_(0, slots, value)

    def read(self, layer: int, pages: Tensor) -> tuple[Tensor, Tensor]:
        """Copy keys and values of `pages` [n]; each result is [n * page_size, kv_heads, head_dim]."""
        return self.k[layer].index_select(0, pages).flatten(0, 1), self.v[layer].index_select(0, pages).flatten(0, 1)


def finite(x: Tensor) -> Tensor:
    """Keys or values with NaN, infinite and huge elements replaced by 0.

    Plain attention reads whole pages and masks the slots after a row's last token, which hold what an earlier request
    wrote. A mask adds -inf to the score and multiplies the value by 0: this removes finite elements only, so no others
    may be stored.
    """
    return torch.where(x.abs() < HUGE, x, 0)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Like torch.zeros, but on a CPU from an anonymous mapping: the system zeroes its pages when they are first used,
    so that the start does not wait for the whole cache."""
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap(-1, prod(shape) * dtype.itemsize), dtype=dtype).view(shape)


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Decode rows of similar length, padded to the longest and attended in one call."""

    #: int64 [n]; None where the group is all decode rows
    rows: Tensor | None
    #: int64 [n * m]: the first m pages of each row
    pages: Tensor
    #: [n, 1, 1, m * page_size], added to scores: -inf after a row's last token
    mask: Tensor


@dataclass(frozen=True, slots=True)
class PrefillRow:
    """One prefill row."""

    #: its tokens among the new tokens of the step
    tokens: slice
    #: how many of its tokens are in the cache after this step
    context: int
    #: int64: the pages of its context; None where the row begins its sequence and needs no other keys than its own
    pages: Tensor | None
    #: [tokens, context], added to scores: -inf for later positions; None where plain causal attention does the same
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class PackedPrefill:
    """All prefill rows in the form that FlashAttention takes: packed queries, packed keys and where each row begins."""

    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_context: int
    #: int64 [keys]: the cache slots of the keys; None where every row begins its sequence
    slots: Tensor | None


@dataclass(frozen=True, slots=True)
class Partial:
    """Memory for what the splits of each context leave to their combination, float32; not initialised."""

    #: [rows, heads, splits, head_dim]
    values: Tensor
    #: [rows, heads, splits]: the logarithm of a split's softmax sum
    lse: Tensor


@dataclass(frozen=True, slots=True)
class SplitDecode:
    """All decode rows in the form that the decode kernel takes, and the memory that it uses again in each layer."""

    #: int32 [rows, max_pages]
    tables: Tensor
    #: int32 [rows]
    lengths: Tensor
    #: [rows, heads, head_dim]
    out: Tensor
    partial: Partial


@dataclass(slots=True)
class Layout:
    """The rows and tokens of one step. Its new tokens are packed in the order of the rows, decode rows (one token each)
    first.

    Each step needs a new one, because the derived fields are computed by the first layer and kept for the others.
    """

    #: int64 [tokens]: flat cache slot (page * page_size + offset) of each new token; slots of page 0 for padded tokens
    slots: Tensor
    #: int32 [rows, max_pages]: the pages of each row, in order; entries after its last page are ignored
    block_tables: Tensor
    #: int32 [rows]: tokens of each row in the cache once this step's are written; 0 is a padded row
    context_lens: Tensor
    #: int32 [rows + 1]: where each row's tokens begin
    query_starts: Tensor
    #: the lengths on the host; prefill rows and plain attention read them
    query_lens: list[int]
    context_lens_host: list[int]
    #: rows [0, decode_rows) have exactly one new token
    decode_rows: int
    #: int64 [tokens]: the length of the prompt that each token is part of, 0 for drawn tokens; None where all tokens
    #: were drawn, and for models that do not need it
    prompt_lens: Tensor | None = None
    #: derived by plain attention
    decode_groups: list[DecodeGroup] | None = field(default=None, repr=False)
    prefill_rows: list[PrefillRow] | None = field(default=None, repr=False)
    #: derived for FlashAttention
    packed: PackedPrefill | None = field(default=None, repr=False)
    #: derived for the decode kernel
    decode: SplitDecode | None = field(default=None, repr=False)
    #: [tokens, heads, head_dim]: the result of attention, which each layer overwrites
    attended: Tensor | None = field(default=None, repr=False)
    #: int64 [scored]: the tokens whose hidden states the model leaves in `hidden`; None where there are none
    scored: Tensor | None = None
    #: [scored, width]: derived by the model, after its last norm, for `Model.head`
    hidden: Tensor | None = field(default=None, repr=False)
