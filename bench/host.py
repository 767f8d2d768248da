"""What an engine's own loop costs per step, beside that of transformers' continuous batching: a model of no cost.

    python -m bench.host [--rows 1,8,64,256] [--steps 400] [--repeat 3] [--overlap] [--save]

Two figures of each side, medians over the steps in which all rows decode, contexts of about 300 tokens: `thread` is
processor time of the engine's thread, `wall` is time from one forward to the next while an asyncio consumer in the same
process takes every token (both share the interpreter's lock). Greedy, 200 tokens of prompt. Ours turns tokens into text
and looks for a stop string besides, which transformers' leaves to its caller; that one takes its cheapest path, with
block tables, as with FlashAttention on CUDA. Sides take turns.

A second table, where Triton is installed: processor time of Python in launching the kernels of a layer, and those of a
draw. A step with a chunk has no CUDA graph, so it pays that in each layer. The launcher does nothing (`bench.no_gpu`),
the shape is that of Qwen2.5-7B. `Triton` binds the arguments at each call and each layer takes its own memory; `ours`
is what the engine does.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, Qwen2Config, Qwen2ForCausalLM
from transformers.generation.continuous_batching import initialization
from transformers.modeling_outputs import CausalLMOutputWithPast

from bench.engines import blocks_for
from bench.harness import Bench, alternate
from handler.engine.protocol import ModelInfo, Prompt
from handler.engine.sampling import Sampling
from handler.inference.config import EngineConfig
from handler.inference.loop import BatchingEngine
from handler.inference.sampler import Sampler
from handler.inference.shape import ModelShape
from handler.ops.attention import attend
from handler.ops.pages import KVPages, Layout
from handler.ops.parts import Parts

VOCAB = 64
PROMPT = 200
CPU = torch.device("cpu")
SHAPE = ModelShape(
    context_length=4096, layers=1, heads=1, kv_heads=1, head_dim=16, hidden=16, intermediate=16, vocab=VOCAB,
    dtype_bytes=4,
)  # fmt: skip


@dataclass
class Clock:
    """Notes when a model was asked for a step in which all rows decode."""

    thread: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def note(self) -> None:
        self.thread.append(time.thread_time())
        self.wall.append(time.perf_counter())

    def medians(self) -> tuple[float, float]:
        """Microseconds from one step to the next: of the thread, and by the clock."""
        return _median_us(self.thread), _median_us(self.wall)


@dataclass
class FreeModel:
    """A model of one tiny head, whose logits come from nowhere."""

    rows: int
    logits: Tensor
    clock: Clock = field(default_factory=Clock)
    shape: ModelShape = SHAPE
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    def reserve(self, positions: int) -> None:
        """Keep nothing: no position changes a logit."""

    def forward(
        self, ids: Tensor, positions: Tensor, keep: Tensor | None, layout: Layout, pages: KVPages,
        out: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        if layout.decode_rows == self.rows and keep is None:
            self.clock.note()
        logits = self.logits[: len(ids) if keep is None else len(keep)]
        return logits if out is None else out.copy_(logits)

    def head(self, hidden: Tensor) -> Tensor:
        return self.logits[: len(hidden)]


def ours(rows: int, steps: int, overlap: bool) -> tuple[float, float]:
    """See `Clock.medians`."""
    info = ModelInfo(
        "none", None, "path", "qwen2", "merged", True, "float32", "cpu", 0, 0, VOCAB, 4096, (VOCAB - 1,), {}
    )
    length = PROMPT + steps + 1
    config = EngineConfig(
        rows=rows, max_waiting=0, max_model_len=length, page_size=16, pages=rows * -(-length // 16) + 1,
        prefill_chunk=rows * PROMPT, prefill_alone=rows * PROMPT, attention="reference", graph_buckets=(),
        overlap=overlap,
    )  # fmt: skip
    model = FreeModel(rows, random_logits(rows))
    engine = BatchingEngine(model, info, lambda token: b"word ", config)
    sampling = Sampling(
        max_tokens=steps, temperature=0, top_p=1, top_k=0, min_p=0, repetition_penalty=1, presence_penalty=0,
        frequency_penalty=0, seed=0, stop=("never said",),
    )  # fmt: skip

    async def consume() -> None:
        async def one(number: int) -> None:
            async for _ in engine.stream(Prompt(tuple(prompt(number))), sampling):
                pass

        await asyncio.gather(*map(one, range(rows)))

    asyncio.run(consume())
    engine.close()
    return model.clock.medians()


def theirs(rows: int, steps: int) -> tuple[float, float]:
    """See `Clock.medians`."""
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
            num_key_value_heads=1, max_position_embeddings=4096, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip
    model.config._attn_implementation = "flash_attention_2"  # never called
    logits, clock = random_logits(rows)[None], Clock()

    def forward(input_ids: Tensor, logits_to_keep: Tensor, **rest: object) -> CausalLMOutputWithPast:
        if input_ids.shape[1] == rows:
            clock.note()
        return CausalLMOutputWithPast(logits=logits[:, : len(logits_to_keep)])

    model.forward = forward
    with patch.object(initialization, "ensure_decode_fast_path_is_available"):
        manager = model.init_continuous_batching(
            generation_config=GenerationConfig(max_new_tokens=steps, do_sample=False, eos_token_id=-1, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                num_blocks=blocks_for([PROMPT + steps] * rows), max_batch_tokens=2048,
                max_requests_per_batch=rows, allow_block_sharing=False, use_cuda_graph=False, use_async_batching=False,
            ),
        )  # fmt: skip
    manager.start()

    async def consume() -> None:
        async def one(number: int) -> None:
            arrived: asyncio.Queue[Any] = asyncio.Queue()
            manager.register_result_handler(str(number), arrived.put_nowait)
            manager.add_request(prompt(number), request_id=str(number), max_new_tokens=steps, streaming=True)
            while not (await arrived.get()).is_finished():
                pass

        await asyncio.gather(*map(one, range(rows)))

    asyncio.run(consume())
    manager.stop(block=True)
    return clock.medians()


def random_logits(rows: int) -> Tensor:
    """[rows, vocabulary]; nobody ends early."""
    logits = torch.randn(rows, VOCAB)
    logits[:, VOCAB - 1] = float("-inf")
    return logits


def prompt(number: int) -> list[int]:
    return [(number + i) % 7 for i in range(PROMPT)]


def _median_us(times: list[float]) -> float:
    return 1e6 * statistics.median(b - a for a, b in pairwise(times))


class Layer:
    """The kernels of one layer, and of a draw, with the shape of Qwen2.5-7B and 8 rows."""

    ROWS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INTERMEDIATE = 8, 28, 4, 128, 3584, 18_944

    def __init__(self, *, shared: bool) -> None:
        """`shared`: layers use the same memory, as in a step; else each takes its own."""
        rows, dtype = self.ROWS, torch.bfloat16
        numbers = torch.arange(rows)
        self.shared = shared
        self.pages = KVPages(
            1, rows + 1, 16, self.KV_HEADS, self.HEAD_DIM, dtype, CPU, parts=Parts.every(True, "measured")
        )
        self.hidden = torch.zeros(rows, self.HIDDEN, dtype=dtype)
        self.normed = torch.zeros_like(self.hidden)
        self.gate_up = torch.zeros(rows, 2 * self.INTERMEDIATE, dtype=dtype)
        self.mixed = torch.zeros(rows, self.INTERMEDIATE, dtype=dtype)
        self.qkv = torch.zeros(rows, self.HEADS + 2 * self.KV_HEADS, self.HEAD_DIM, dtype=dtype)
        self.rope = torch.zeros(rows, 2, self.HEAD_DIM, dtype=dtype)
        self.layout = Layout(
            slots=numbers, block_tables=torch.zeros(rows, 4, dtype=torch.int32), context_lens=numbers.int(),
            query_starts=numbers.int(), query_lens=[1] * rows, context_lens_host=[], decode_rows=rows,
        )  # fmt: skip
        self.sampler = Sampler(rows, 152_064, 151_665, CPU, kernels=True)
        self.logits = torch.zeros(rows, 152_064, dtype=dtype)

    def parts(self) -> dict[str, Callable[[], object]]:
        from handler.ops import layers_triton

        def decode() -> None:
            if not self.shared:
                self.layout.decode = self.layout.attended = None
            attend(0, self.qkv[:, : self.HEADS], self.qkv, self.qkv, self.layout, self.pages)

        weight = self.hidden[0]
        out, mixed = (self.normed, self.mixed) if self.shared else (None, None)
        return {
            "rms_norm, twice": lambda: [layers_triton.rms_norm(self.hidden, weight, 1e-6, out) for _ in range(2)],
            "rotate_and_store": lambda: layers_triton.rotate_and_store(
                self.qkv, None, self.rope, self.layout.slots, 0, self.pages, 1e-6
            ),
            "attend": decode,
            "silu_mul": lambda: layers_triton.silu_mul(self.gate_up, mixed),
            "draw": lambda: self.sampler.sample(
                self.logits, self.layout.slots, self.layout.slots, full_search=not self.shared
            ),
        }


def launches(repeat: int) -> list[tuple[str, float, float]]:
    """Name of a part of a step, and microseconds of its launches by Triton and ours."""
    from bench.no_gpu import no_gpu
    from handler.ops import launching

    def microseconds(run: Callable[[], object], direct: bool) -> float:
        with patch.object(launching, "DIRECT", direct):
            run()
            began = time.thread_time()
            for _ in range(100):
                run()
            return 1e4 * (time.thread_time() - began)

    with torch.inference_mode(), no_gpu():
        theirs, ours = Layer(shared=False).parts(), Layer(shared=True).parts()
        rows = []
        for name, run in ours.items():
            sides = {
                "triton": partial(microseconds, theirs[name], False),
                "ours": partial(microseconds, run, True),
            }
            spent = alternate(sides, repeat)
            rows.append((name, spent["triton"], spent["ours"]))
    layer = [sum(column) for column in zip(*(spent for name, *spent in rows if name != "draw"), strict=True)]
    return [*rows, ("a layer", layer[0], layer[1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,8,64,256")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--overlap", action="store_true", help="launch a step before the last one's tokens are read")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench("host")
    table = bench.table(
        "The loop's own cost, microseconds a step",
        ["rows", "thread", "wall", "transformers' thread", "transformers' wall", "transformers : ours, thread"],
        ratio="transformers : ours, thread",
    )
    for rows in map(int, wishes.rows.split(",")):
        turns = [(*ours(rows, wishes.steps, wishes.overlap), *theirs(rows, wishes.steps)) for _ in range(wishes.repeat)]
        thread, wall, *others = map(statistics.median, zip(*turns, strict=True))
        table.add(rows, thread, wall, *others, others[0] / thread)
    if find_spec("triton"):
        table = bench.table(
            "Python's part of the launches, microseconds", ["part", "Triton", "ours", "Triton : ours"],
            ratio="Triton : ours",
        )  # fmt: skip
        for name, before, after in launches(wishes.repeat):
            table.add(name, before, after, before / after)
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
