"""Tokens per second of the engine, beside serial generate, static batches and transformers' continuous batching.

    python -m bench.throughput                                 # 0.5B shape, bfloat16, here
    python -m bench.throughput --shape 50m,0.5b --dtype bfloat16,float32 --rows 1,8,32,64 --mixed --prefix
    python -m bench.throughput --quick                         # 50m, a minute
    python -m bench.throughput --gpu                           # Qwen2.5-7B shape on CUDA: decode, share of roof, TTFT

Random weights, greedy, nobody ends early. Sides take turns, `--repeat` times, and medians are printed, so that a
machine that is shared slows all of them alike.
"""

import argparse
import asyncio
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from handler.inference.engine import Delta, Finish, ModelInfo, Prompt, Sampling
from handler.inference.loop import BatchingEngine
from handler.inference.model import Model
from handler.inference.sizing import Wishes, plan
from handler.model.config import ModelConfig
from handler.model.qwen import Qwen

SHAPES: dict[str, dict[str, Any]] = {
    "50m": {
        "vocab_size": 32_000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": False,
    },
    "0.5b": {
        "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "7b": {
        "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
    },
}  # fmt: skip
GREEDY: dict[str, Any] = {
    "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": 0, "stop": (),
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Requests sent at once: (prompt, new tokens) of each."""

    name: str
    requests: list[tuple[list[int], int]]

    @property
    def new(self) -> int:
        return sum(new for _, new in self.requests)


@dataclass(frozen=True)
class Record:
    """One answer of ours: when its tokens came, in seconds since all were sent."""

    arrivals: list[float]
    finish: Finish


def build(shape: str, dtype: torch.dtype, device: str) -> PreTrainedModel:
    config = Qwen2Config(
        **SHAPES[shape], max_position_embeddings=32_768, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model: PreTrainedModel = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.eval().requires_grad_(False)
    return model


def merged(model: PreTrainedModel) -> Qwen:
    """Our forward, with a copy of the weights."""
    return Qwen.from_state(ModelConfig.model_validate(model.config.to_dict()), model.state_dict())


def random_ids(count: int) -> list[int]:
    return [random.randrange(1, 30_000) for _ in range(count)]


@contextmanager
def engine_on(model: Model, rows: int, longest: int) -> Iterator[BatchingEngine]:
    """The engine at the size that `plan` gives it in production."""
    shape, cuda = model.shape, model.device.type == "cuda"
    free = torch.cuda.mem_get_info()[0] if cuda else 8 << 30
    wishes = Wishes(max_concurrent_requests=rows, max_model_len=longest)
    sized = plan(wishes, shape, device="cuda" if cuda else "cpu", free_bytes=free)
    info = ModelInfo("random", None, "path", "qwen2", "merged", str(model.dtype), str(model.device), 0, shape.vocab,
                     shape.context_length, (), {})  # fmt: skip
    engine = BatchingEngine(model, info, lambda _: b"word ", sized)
    try:
        yield engine
    finally:
        engine.close()


def serve(engine: BatchingEngine, work: Work) -> tuple[float, list[Record]]:
    """Seconds until the last answer, and all answers."""

    async def one(prompt: list[int], new: int, begin: float) -> Record:
        arrivals: list[float] = []
        async for event in engine.stream(Prompt(tuple(prompt)), Sampling(max_tokens=new, **GREEDY)):
            if isinstance(event, Delta):
                arrivals += [time.perf_counter() - begin] * len(event.token_ids)
            else:
                return Record(arrivals, event)
        raise AssertionError("a stream ends with a Finish")

    async def all_of_it() -> tuple[float, list[Record]]:
        begin = time.perf_counter()
        records = await asyncio.gather(*(one(prompt, new, begin) for prompt, new in work.requests))
        return time.perf_counter() - begin, records

    return asyncio.run(all_of_it())


def ours(model: Model, work: Work) -> float:
    longest = max(len(prompt) + new for prompt, new in work.requests)
    with engine_on(model, len(work.requests), longest) as engine:
        return serve(engine, work)[0]


def static(model: PreTrainedModel, work: Work, size: int) -> float:
    """Left-padded batches through `generate`, each until its longest answer is done. One by one where size is 1."""
    generate: Callable[..., Any] = model.generate  # type: ignore[assignment]
    begin = time.perf_counter()
    for at in range(0, len(work.requests), size):
        batch = work.requests[at : at + size]
        widest = max(len(prompt) for prompt, _ in batch)
        ids = torch.tensor([[0] * (widest - len(prompt)) + prompt for prompt, _ in batch], device=model.device)
        greedy = GenerationConfig(max_new_tokens=max(new for _, new in batch), do_sample=False, pad_token_id=0)
        generate(ids, attention_mask=(ids != 0).long(), generation_config=greedy)
    return time.perf_counter() - begin


def theirs(model: PreTrainedModel, work: Work) -> float:
    """transformers' continuous batching, sized like ours."""
    page, count = 256, len(work.requests)
    pages = sum(-(-(len(prompt) + new) // page) + 1 for prompt, new in work.requests)
    manager = model.init_continuous_batching(  # type: ignore[operator]
        generation_config=GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=page, num_blocks=pages + 4, max_batch_tokens=512, max_requests_per_batch=count,
            allow_block_sharing=False, use_cuda_graph=False, use_async_batching=False,
        ),
    )  # fmt: skip
    manager.start()
    begin = time.perf_counter()
    for prompt, new in work.requests:
        if manager.add_request(prompt, max_new_tokens=new) is None:
            raise RuntimeError("transformers' batching refused a request")
    done = 0
    while done < count:
        result = manager.get_result(timeout=1)
        if result is None and not manager.is_running():
            raise RuntimeError(f"transformers' batching ended: {manager.background_thread_status.fatal_error}")
        done += result is not None and result.is_finished()
    seconds = time.perf_counter() - begin
    manager.stop(block=True)
    model.set_attn_implementation("sdpa")
    return seconds


def compare(model: PreTrainedModel, mine: Model, work: Work, sides: list[str], repeat: int) -> None:
    few = Work(work.name, work.requests[: max(1, min(2, len(work.requests)))])
    run: dict[str, tuple[Callable[[], float], int]] = {
        "serial generate": (lambda: static(model, few, 1), few.new),
        "static batches of 8": (lambda: static(model, work, 8), work.new),
        "transformers batching": (lambda: theirs(model, work), work.new),
        "ours": (lambda: ours(mine, work), work.new),
    }
    rates: dict[str, list[float]] = {name: [] for name in run if name.split()[0] in sides}
    for _ in range(repeat):
        for name, seen in rates.items():
            seconds, new = run[name][0](), run[name][1]
            seen.append(new / seconds)
    median = {name: statistics.median(seen) for name, seen in rates.items()}
    base = median.get("transformers batching")
    for name, rate in median.items():
        against = f"{rate / base:5.2f}x of transformers batching" if base and name == "ours" else ""
        spread = f"{min(rates[name]):.1f}-{max(rates[name]):.1f}"
        print(f"  {work.name:32s} {name:22s} {rate:9.1f} tok/s  ({spread})  {against}", flush=True)


def shared_prefix(model: Model) -> None:
    """One request, then 100 more with its 600-token system prompt, then as many that share nothing: TTFT, and tokens
    found in the cache."""
    system = random_ids(600)
    heads: dict[str, Callable[[], list[int]]] = {
        "600 shared tokens": lambda: system,
        "nothing shared": lambda: random_ids(600),
    }
    for name, head in heads.items():
        works = [Work(name, [(head() + random_ids(20), 4)]) for _ in range(11)]
        crowd = Work(name, [(head() + random_ids(20), 4) for _ in range(100)])
        with engine_on(model, 32, 700) as engine:
            (_, [first]), *others = [serve(engine, work) for work in works]
            alone = statistics.median(record.arrivals[0] for _, [record] in others)
            seconds, records = serve(engine, crowd)
        cached = sum(record.finish.usage.cached_tokens for record in records)
        prompts = sum(record.finish.usage.prompt_tokens for record in records)
        ttft = statistics.median(record.arrivals[0] for record in records)
        print(f"  {name}: TTFT of the first {first.arrivals[0] * 1e3:.0f} ms, of later ones alone {alone * 1e3:.0f} ms")
        print(f"    100 at once: TTFT {ttft * 1e3:.0f} ms in the median, {seconds:.1f} s until all are done")
        print(f"    of their {prompts} prompt tokens {cached} came from the cache", flush=True)


def on_gpu(concurrent: list[int]) -> None:
    model = merged(build("7b", torch.bfloat16, "cuda"))
    weights = sum(place.nbytes for name, place in model.places().items() if "embed" not in name)
    a = torch.empty(4 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    b.copy_(a)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(10):
        b.copy_(a)
    torch.cuda.synchronize()
    bandwidth = 10 * 2 * a.numel() / (time.perf_counter() - begin)
    del a, b
    torch.cuda.empty_cache()
    print(f"  copy bandwidth {bandwidth / 1e12:.2f} TB/s, weights read in a step {weights / 1e9:.2f} GB")
    token = model.shape.token_bytes
    with engine_on(model, max(concurrent), 4096) as engine:
        serve(engine, Work("warm", [(random_ids(128), 8)] * max(concurrent)))
        time.sleep(5)  # idle, the engine captures its larger graphs
        for count in concurrent:
            _, records = serve(engine, Work("decode", [(random_ids(128), 256) for _ in range(count)]))
            first = max(record.arrivals[0] for record in records)
            last = min(record.arrivals[-1] for record in records)
            steps = sum(first < at <= last for at in records[0].arrivals)
            step = (last - first) / steps
            floor = (weights + count * (128 + 128) * token) / bandwidth
            print(
                f"  decode {count:4d} concurrent: {step * 1e3:7.2f} ms a step, {count / step:9.0f} tok/s, "
                f"{100 * floor / step:5.1f} % of the roof"
            )
        for prompt in (200, 2000):
            alone = [serve(engine, Work("ttft", [(random_ids(prompt), 4)]))[1][0].arrivals[0] for _ in range(11)]
            print(f"  TTFT of a {prompt}-token prompt: {statistics.median(alone) * 1e3:.1f} ms")
        print(f"  {dict(engine.status().details)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--shape", default="0.5b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rows", default="1,32")
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--sides", default="serial,static,transformers,ours")
    parser.add_argument("--mixed", action="store_true", help="32 prompts of 16-256 tokens, answers of 32-128")
    parser.add_argument("--prefix", action="store_true", help="TTFT with a shared system prompt")
    parser.add_argument("--repeat", type=int, default=3)
    wishes = parser.parse_args()
    if wishes.quick:
        wishes.shape, wishes.rows, wishes.new, wishes.repeat = "50m", "1,8,32", 32, 1
    where = torch.cuda.get_device_name() if wishes.gpu else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{where}; torch {torch.__version__}, transformers {transformers.__version__}, {time.strftime('%Y-%m-%d')}")
    random.seed(0)
    torch.manual_seed(0)
    if wishes.gpu:
        on_gpu([1, 8, 64, 256])
        return
    for shape in wishes.shape.split(","):
        for dtype in wishes.dtype.split(","):
            print(f"{shape} {dtype}")
            model = build(shape, getattr(torch, dtype), "cpu")
            mine = merged(model)
            for rows in map(int, wishes.rows.split(",")):
                work = Work(f"{rows} at once, 64+{wishes.new}", [(random_ids(64), wishes.new) for _ in range(rows)])
                compare(model, mine, work, wishes.sides.split(","), wishes.repeat)
            if wishes.mixed:
                mixed = [(random_ids(random.randint(16, 256)), random.randint(32, 128)) for _ in range(32)]
                compare(model, mine, Work("32 at once, mixed", mixed), wishes.sides.split(","), wishes.repeat)
            if wishes.prefix:
                shared_prefix(mine)


if __name__ == "__main__":
    main()
