"""A step of random numbers over pages in a shuffled order, on which the self-check runs attention both ways.

Knows no kernel: it makes the inputs of attention, and the inputs that plain torch needs for the same results.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from handler.ops.pages import KVPages, Layout


@dataclass(frozen=True, slots=True)
class Sizes:
    """The dimensions of a model that decide how its kernels are compiled and launched."""

    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    #: the width of the logits, and how many ids have a token
    vocab: int
    tokens: int
    page_size: int
    dtype: torch.dtype
    device: torch.device
    #: True where the model norms queries and keys, as Qwen3 does
    norms: bool

    def random(self, *size: int, seed: int) -> Tensor:
        """Normal numbers in the model's dtype, the same on every device."""
        numbers = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        return numbers.to(self.dtype).to(self.device)

    def pages(self, count: int, dtype: torch.dtype | None = None) -> KVPages:
        """A cache of one layer."""
        size = self.page_size, self.kv_heads, self.head_dim
        return KVPages(1, count, *size, dtype or self.dtype, self.device)


class RandomStep:
    """Decode rows of the `lengths` (0 is a padded row), then chunks of (new tokens, tokens before them)."""

    def __init__(self, sizes: Sizes, lengths: tuple[int, ...], chunks: tuple[tuple[int, int], ...]) -> None:
        page, device = sizes.page_size, sizes.device
        spans = [(max(length - 1, 0), length) for length in lengths] + [(old, old + new) for new, old in chunks]
        self._decode_rows = len(lengths)
        self._contexts = [end for _, end in spans]
        self._query_lens = [1] * len(lengths) + [new for new, _ in chunks]
        pages = [-(-end // page) for end in self._contexts]
        # Page 0 is scratch.
        order = 1 + torch.randperm(sum(pages), generator=torch.Generator().manual_seed(0))
        tables, slots, used = torch.zeros(len(spans), max(pages), dtype=torch.int32), list[Tensor](), list[Tensor]()
        for row, (own, (old, end)) in enumerate(zip(order.split(pages), spans, strict=True)):
            tables[row, : len(own)] = own
            at = torch.arange(end)
            used.append(own[at // page] * page + at % page)
            slots.append(used[-1][old:] if end else torch.zeros(1, dtype=torch.int64))
        self.slots = torch.cat(slots).to(device)
        self._tables = tables.to(device)
        self._lens = torch.tensor(self._contexts, dtype=torch.int32, device=device)
        self._starts = torch.tensor([0, *accumulate(self._query_lens)], dtype=torch.int32, device=device)
        #: queries, keys and values of the new tokens, as views of one tensor, which is what a layer computes
        heads, kv_heads = sizes.heads, sizes.kv_heads
        self.qkv = sizes.random(len(self.slots), heads + 2 * kv_heads, sizes.head_dim, seed=1)
        self.query, self.key, self.value = self.qkv.split((heads, kv_heads, kv_heads), 1)
        #: the cache for the kernels, with NaN in the slots that no row may read; and the same with zeros, in float32
        self.pages, self.plain = sizes.pages(1 + sum(pages)), sizes.pages(1 + sum(pages), torch.float32)
        slots_in_use = torch.cat(used).to(device)
        for seed, cache, plain, new in (
            (2, self.pages.k[0], self.plain.k[0], self.key),
            (3, self.pages.v[0], self.plain.v[0], self.value),
        ):
            numbers = sizes.random(len(slots_in_use), kv_heads, sizes.head_dim, seed=seed)
            cache.fill_(float("nan"))
            cache.flatten(0, 1).index_copy_(0, slots_in_use, numbers).index_copy_(0, self.slots, new)
            # Padded rows write into scratch, which plain attention reads and masks.
            plain.copy_(cache.nan_to_num())

    def layout(self) -> Layout:
        """A new one for each call of attention, because each keeps there what it derived."""
        return Layout(
            slots=self.slots,
            block_tables=self._tables,
            context_lens=self._lens,
            query_starts=self._starts,
            query_lens=self._query_lens,
            context_lens_host=self._contexts,
            decode_rows=self._decode_rows,
        )
