"""What the engine's own loop costs per step: a model of zero cost, every token streamed.

    python -m bench.host [--rows 1,8,64,256] [--steps 400] [--overlap] [--save]

Two figures per number of rows, medians over the steps in which all rows decode, contexts of about 300 tokens:
`thread` is processor time of the engine's thread, `wall` is time from one forward to the next while an asyncio
consumer in the same process takes every token (both share the interpreter's lock).
"""

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from bench.harness import Bench
from handler.inference.attention import KVPages, Layout
from handler.inference.engine import ModelInfo, Prompt, Sampling
from handler.inference.loop import BatchingEngine
from handler.machine.sizing import EngineConfig, ModelShape

VOCAB = 64
PROMPT = 200
CPU = torch.device("cpu")
SHAPE = ModelShape(
    context_length=4096, layers=1, heads=1, kv_heads=1, head_dim=16, hidden=16, intermediate=16, vocab=VOCAB,
    dtype_bytes=4,
)  # fmt: skip
#: microseconds of transformers' continuous batching, streaming, on this kind of machine (5.23, its model stubbed)
TRANSFORMERS = {1: 116, 8: 242, 64: 1057, 256: 3830}


@dataclass
class FreeModel:
    """A model of one tiny head, whose logits come from nowhere; notes when it was asked."""

    rows: int
    logits: Tensor
    thread: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    shape: ModelShape = SHAPE
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    def forward(self, ids: Tensor, positions: Tensor, keep: Tensor | None, layout: Layout, pages: KVPages) -> Tensor:
        if layout.decode_rows == self.rows and keep is None:
            self.thread.append(time.thread_time())
            self.wall.append(time.perf_counter())
        return self.logits[: len(ids) if keep is None else len(keep)]


def measure(rows: int, steps: int, overlap: bool) -> tuple[float, float]:
    """Microseconds per step: of the engine's thread, and by the clock."""
    info = ModelInfo("none", None, "path", "qwen2", "merged", "float32", "cpu", 0, VOCAB, 4096, (VOCAB - 1,), {})
    length = PROMPT + steps + 1
    config = EngineConfig(
        rows=rows, max_waiting=0, max_model_len=length, page_size=16, pages=rows * -(-length // 16) + 1,
        prefill_chunk=rows * PROMPT, prefill_alone=rows * PROMPT, attention="reference", graph_buckets=(),
        overlap=overlap,
    )  # fmt: skip
    logits = torch.randn(rows, VOCAB)
    logits[:, VOCAB - 1] = float("-inf")  # nobody ends early
    model = FreeModel(rows, logits)
    engine = BatchingEngine(model, info, lambda token: b"word ", config)
    sampling = Sampling(
        max_tokens=steps, temperature=0, top_p=1, top_k=0, min_p=0, repetition_penalty=1, presence_penalty=0,
        frequency_penalty=0, seed=0, stop=("never said",),
    )  # fmt: skip

    async def consume() -> None:
        async def one(number: int) -> None:
            async for _ in engine.stream(Prompt(tuple((number + i) % 7 for i in range(PROMPT))), sampling):
                pass

        await asyncio.gather(*map(one, range(rows)))

    asyncio.run(consume())
    engine.close()
    return _median_us(model.thread), _median_us(model.wall)


def _median_us(times: list[float]) -> float:
    return 1e6 * statistics.median(b - a for a, b in pairwise(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,8,64,256")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--overlap", action="store_true", help="launch a step before the last one's tokens are read")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench("host")
    table = bench.table("The loop's own cost, microseconds a step", ["rows", "thread", "wall", "transformers"])
    for rows in map(int, wishes.rows.split(",")):
        table.add(rows, *measure(rows, wishes.steps, wishes.overlap), TRANSFORMERS.get(rows))
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
