"""What the decode kernel takes, by the programs that share a context, and how near that is to what the memory allows.

    python -m bench.attention [--rows 1,8,64,128,256] [--contexts 200,2000,600+30000] [--save]     # needs CUDA

Keys and values of Qwen2.5-7B's shape in bfloat16; microseconds of one layer, out of a CUDA graph over so many layers
that no cache holds what they read. A context of `600+30000` is the mixed case: one row has 30,000 tokens, the others
600, and a layer takes as long as its longest program. `ours` is what `splits_for` chooses; the roof is the rate of a
large copy in this process.
"""

import argparse
from functools import partial

import torch

from bench.decode import bandwidth
from bench.harness import Bench
from bench.sampling import captured, median_ms
from handler.inference.plan import PAGE_SIZE
from handler.ops.attention_triton import paged_decode, partial_for, splits_for

HEADS, KV_HEADS, HEAD_DIM = 28, 4, 128
SPLITS = (1, 2, 4, 8, 16, 32)
#: bytes that one run reads at least, several times the cache of any GPU; and layers at most
READ, MOST_LAYERS = 1 << 29, 256


class Layers:
    """Rows with these contexts, in layers whose pages lie anywhere."""

    def __init__(self, contexts: list[int], device: str = "cuda") -> None:
        page, rows = PAGE_SIZE["cuda"], len(contexts)
        self.bytes = 2 * sum(contexts) * KV_HEADS * HEAD_DIM * 2
        count = max(2, min(MOST_LAYERS, READ // self.bytes))
        pages = [-(-context // page) for context in contexts]
        cache = count, 2, sum(pages), page, KV_HEADS, HEAD_DIM
        self._caches = torch.zeros(cache, dtype=torch.bfloat16, device=device)
        tables = torch.zeros(rows, max(pages), dtype=torch.int32)
        for table, own in zip(tables, torch.randperm(sum(pages)).int().split(pages), strict=True):
            table[: len(own)] = own
        self._tables = tables.to(device)
        self._lengths = torch.tensor(contexts, dtype=torch.int32, device=device)
        self._query = torch.zeros(rows, HEADS, HEAD_DIM, dtype=torch.bfloat16, device=device)
        self._out = torch.empty_like(self._query)

    def run(self, splits: int) -> None:
        partial = partial_for(self._query, splits)
        for keys, values in self._caches:
            paged_decode(self._query, keys, values, self._tables, self._lengths, HEAD_DIM**-0.5, self._out, partial)

    def us(self, splits: int, seconds: float) -> float:
        return 1e3 * median_ms(captured(partial(self.run, splits)), True, seconds) / len(self._caches)


def contexts_of(rows: int, text: str) -> list[int]:
    """`600`: each row has 600 tokens; `600+30000`: the last one has 30,000."""
    each, _, longest = text.partition("+")
    return [int(each)] * (rows - 1) + [int(longest or each)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,8,64,128,256")
    parser.add_argument("--contexts", default="200,2000,8000,600+30000")
    parser.add_argument("--seconds", type=float, default=0.2, help="spent on each figure")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    bench = Bench("attention", device="cuda")
    rate = bandwidth("cuda")
    torch.cuda.empty_cache()
    table = bench.table(
        f"Decode attention, microseconds a layer by splits; the roof is {rate / 1e9:,.0f} GB/s",
        ["rows", "context", *map(str, SPLITS), "ours", "best : ours", "share of the roof"],
        labels=2,
        ratio="share of the roof",
    )
    for rows in map(int, wishes.rows.split(",")):
        for context in wishes.contexts.split(","):
            layers = Layers(contexts_of(rows, context))
            us = {splits: layers.us(splits, wishes.seconds) for splits in SPLITS}
            ours = splits_for(rows, KV_HEADS)
            roof = 1e6 * layers.bytes / rate
            table.add(rows, context, *us.values(), ours, min(us.values()) / us[ours], roof / us[ours])
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
