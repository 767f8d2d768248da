"""The steps of `bench.proof` that are no bench of their own.

    python -m bench.proof_steps self-check | profile | captures | decode | identical | scoring [--shape 7b]     # CUDA

Each prints its tables, and a line `finding: …` that the proof's own table takes over. Weights are random.
"""

import argparse
import asyncio
import random
import re
import sys
import threading
import time
from collections.abc import Callable

import torch

from bench.engines import GREEDY, SHAPES, Work, engine_on, random_ids, random_model, serve
from bench.harness import Bench
from handler.engine.protocol import Prompt
from handler.engine.sampling import Sampling
from handler.engine.scoring import Scored
from handler.engine.stream import Delta
from handler.inference.loop import BatchingEngine
from handler.inference.plan import PAGE_SIZE
from handler.model.qwen import Qwen
from handler.ops.check_step import Sizes
from handler.ops.parts import PARTS, Parts
from handler.ops.self_check import check

#: tokens a second of Qwen2.5-7B by rows that a model of the hardware predicts, and nobody has measured; by a word of
#: the GPU's name. A figure more than 20 % below means that the prediction does not hold.
PREDICTED: dict[str, dict[int, float]] = {
    "H100": {1: 159, 8: 1330, 64: 9100, 128: 15_200, 256: 22_300},
    "A100": {1: 104, 8: 866, 64: 5300, 128: 8000, 256: 8200},
    "5090": {1: 92, 8: 776, 64: 5000, 128: 6500},
    "4090": {1: 54, 8: 457, 64: 3000, 128: 4800},
    "L4": {1: 17, 8: 141, 64: 920, 128: 1500},
}
HELD = 0.8
#: nats by which the mean of 64 tokens may differ between prefill and decode in bfloat16; an estimate: logits have 8
#: bits, and errors of either sign
SCORE_NOISE = 0.05
#: prompt tokens of a row; the predictions are for contexts of 600
PROMPT = 256


def self_check(shape: str) -> bool:
    """The check of a start, in the model's shapes; the first time with the loading of each kernel, then without."""
    config = SHAPES[shape]
    heads = config["num_attention_heads"]
    sizes = Sizes(
        heads, config["num_key_value_heads"], config["hidden_size"] // heads, config["hidden_size"],
        config["intermediate_size"], config["vocab_size"], config["vocab_size"] - 399, PAGE_SIZE["cuda"],
        torch.bfloat16, torch.device("cuda"), norms=False,
    )  # fmt: skip
    bench = Bench("proof_steps", device="cuda")
    seconds, parts = [], Parts.every(True, "CUDA with Triton")
    for _ in range(2):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.inference_mode():
            checked = check(parts, sizes, fatal=lambda _: True)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    table = bench.table("Self-check", ["part", "kernels", "reason"])
    for part in PARTS:
        table.add(part, str(getattr(checked, part)), checked.reasons[part])
    bench.finish(save=False)
    off = [part for part in PARTS if not getattr(checked, part)]
    print(f"finding: off: {', '.join(off) or 'nothing'}; {seconds[0]:.2f} s the first time, then {seconds[1]:.2f} s")
    return not off


def profile(shape: str) -> bool:
    """The kernels of decode steps of 64 rows, by torch's profiler."""
    rows, new = 64, 64
    bench = Bench("proof_steps", device="cuda")
    # Prompts are so short that one step prefills all of them.
    work = Work("decode", [(random_ids(16), new) for _ in range(rows)])
    with engine_on(model_of(shape), rows, 256) as engine:
        serve(engine, work)
        before = steps_of(engine)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            serve(engine, work)
        steps = steps_of(engine) - before
    ranges: dict[str, list[tuple[float, float]]] = {}
    for event in profiler.events():
        if event.device_type.name == "CUDA":
            ranges.setdefault(event.name, []).append((event.time_range.start, event.time_range.end))
    if not ranges:
        print("finding: the profiler saw no kernel")
        return False
    spent = {name: sum(end - start for start, end in times) / steps for name, times in ranges.items()}
    table = bench.table(
        f"Kernels of a step, {shape}, {rows} rows", ["kernel", "microseconds a step", "launches a step"]
    )
    for name in sorted(spent, key=lambda name: -spent[name])[:30]:
        table.add(name[:70].replace("|", " "), spent[name], len(ranges[name]) / steps)
    every = [moment for times in ranges.values() for pair in times for moment in pair]
    span = (max(every) - min(every)) / steps
    table = bench.table("Of a step", ["", "microseconds"])
    busy, search = sum(spent.values()), sum(spent[name] for name in spent if "_narrow" in name)
    table.add("all kernels", busy)
    table.add("from its first kernel to its last", span)
    table.add("the sampler's search", search)
    bench.finish(save=False)
    print(f"finding: {span:.0f} us a step, {span - busy:.0f} of them gaps, {search:.0f} the sampler's search")
    return True


def captures(shape: str) -> bool:
    """Whether graphs are captured while another thread synchronises the device all the time."""
    bench = Bench("proof_steps", device="cuda")
    done, errors, calls = threading.Event(), list[str](), 0

    def synchronise() -> None:
        nonlocal calls
        while not done.is_set():
            calls += 1
            try:
                torch.cuda.synchronize()
            except Exception as error:
                errors.append(str(error).partition("\n")[0])

    thread = threading.Thread(target=synchronise)
    thread.start()
    try:
        with engine_on(model_of(shape), 128, 512) as engine:
            planned, captured = len(engine._config.graph_buckets), engine.status().details["graphs"]
    finally:
        done.set()
        thread.join()
    assert isinstance(captured, list)
    table = bench.table("Captures beside a thread that synchronises", ["", "count"])
    table.add("graphs planned", planned)
    table.add("graphs captured", len(captured))
    table.add("calls of synchronize", calls)
    table.add("of them with an error", len(errors))
    bench.finish(save=False)
    print(f"finding: {len(captured)} of {planned} graphs, {len(errors)} errors{': ' + errors[0] if errors else ''}")
    return True  # either answer is one: the worker waits with its checks until nothing is captured


def decode(shape: str) -> bool:
    """Tokens a second by rows, beside the prediction for this GPU."""
    bench = Bench("proof_steps", device="cuda")
    name = torch.cuda.get_device_name()
    predicted: dict[int, float] = {}
    if shape == "7b":
        predicted = next((rates for word, rates in PREDICTED.items() if re.search(rf"\b{word}\b", name)), {})
    table = bench.table(
        f"Decoding, {shape} bfloat16", ["rows", "ms a step", "tok/s", "predicted tok/s", "measured : predicted"]
    )
    crowds, short = [*predicted] or [1, 8, 64, 128], []
    with engine_on(model_of(shape), max(crowds), PROMPT + new_of(max(crowds))) as engine:
        serve(engine, Work("warm", [(random_ids(64), 8)] * max(crowds)))
        for rows in crowds:
            _, records = serve(engine, Work("decode", [(random_ids(PROMPT), new_of(rows)) for _ in range(rows)]))
            # The steps in which all of them decode
            first = max(record.arrivals[0] for record in records)
            last = min(record.arrivals[-1] for record in records)
            steps = sum(first < at <= last for at in records[0].arrivals)
            if not steps:
                table.add(rows, None, None, predicted.get(rows), None)
                continue
            rate = rows * steps / (last - first)
            ratio = rate / predicted[rows] if rows in predicted else None
            table.add(rows, 1e3 * (last - first) / steps, rate, predicted.get(rows), ratio)
            if ratio is not None and ratio < HELD:
                short.append(str(rows))
        told = bench.table("The engine", ["", "is"])
        for fact, value in engine.status().details.items():
            told.add(fact, str(value))
    bench.finish(save=False)
    missed = f"more than 20 % below the prediction at {', '.join(short) or 'no'} rows"
    print(f"finding: {missed if predicted else 'there is no prediction for ' + name}")
    return True


def new_of(rows: int) -> int:
    """Tokens to draw: enough to go on together once a step of 256 tokens after the other has prefilled all rows."""
    return 96 + 2 * rows


def identical(shape: str) -> bool:
    """The share of greedy answers that are the same alone and among others; random weights are a hard case."""
    bench = Bench("proof_steps", device="cuda")
    prompts, table = [random_ids(64) for _ in range(64)], bench.table("Identical answers", ["at once", "same %"])
    shares = []
    with engine_on(model_of(shape), 64, 256) as engine:
        alone = [tokens for prompt in prompts[:24] for tokens in answers(engine, [prompt])]
        for at_once in (1, 8, 64):
            got: list[tuple[int, ...]] = []
            for begin in range(0, len(prompts), at_once):
                got += answers(engine, prompts[begin : begin + at_once])
                if len(got) >= len(alone):
                    break
            shares.append(100 * sum(one == other for one, other in zip(alone, got, strict=False)) / len(alone))
            table.add(at_once, shares[-1])
    bench.finish(save=False)
    print("finding: the same at 1, 8 and 64 at once: " + ", ".join(f"{share:.0f} %" for share in shares))
    return True


def scoring(shape: str) -> bool:
    """Whether the score of a text is that of drawing it, alone and beside rows that decode, and what it costs."""
    bench = Bench("proof_steps", device="cuda")
    prompts, new = [random_ids(300) for _ in range(8)], 64
    table = bench.table("Scores of drawn texts", ["texts", "largest difference of a token, nats", "of a mean", "ms"])
    with engine_on(model_of(shape), 64, 512) as engine:
        drawn = [asyncio.run(drawn_text(engine, prompt, new)) for prompt in prompts]

        async def rate(beside: int) -> list[Scored]:
            crowd = [asyncio.create_task(drawn_text(engine, random_ids(64), 64)) for _ in range(beside)]
            texts = zip(prompts, drawn, strict=True)
            scores = [engine.score(Prompt(tuple(prompt)), ids, top=1) for prompt, (ids, _) in texts]
            found = await asyncio.gather(*scores)
            await asyncio.gather(*crowd)
            return found

        worst = 0.0
        for beside in (0, 32):
            asyncio.run(rate(beside))  # warm
            begin = time.perf_counter()
            found = asyncio.run(rate(beside))
            seconds = time.perf_counter() - begin
            tokens, means = [], []
            for scored, (_, told) in zip(found, drawn, strict=True):
                both = [(one.logprob, other) for one, other in zip(scored.logprobs, told, strict=True)]
                tokens += [abs(one - other) for one, other in both]
                means.append(abs(sum(one - other for one, other in both)) / len(both))
            worst = max(worst, *means)
            table.add(f"8 beside {beside} that draw", max(tokens), max(means), 1e3 * seconds)
        failures = engine.status().details["step_failures"]
    bench.finish(save=False)
    print(f"finding: means of {new} tokens differ by {worst:.4f} nats at most, {failures} failed steps")
    return worst < SCORE_NOISE and failures == 0


async def drawn_text(engine: BatchingEngine, prompt: list[int], new: int) -> tuple[tuple[int, ...], list[float]]:
    """A greedy answer, and the log-probabilities with which its tokens were drawn."""
    ids, told = list[int](), list[float]()
    async for event in engine.stream(Prompt(tuple(prompt)), Sampling(max_tokens=new, **GREEDY), logprobs=0):
        if isinstance(event, Delta):
            ids += event.token_ids
            told += [one.logprob for one in event.logprobs]
    return tuple(ids), told


def answers(engine: BatchingEngine, prompts: list[list[int]]) -> list[tuple[int, ...]]:
    """The greedy tokens of each, sent at once."""

    async def one(prompt: list[int]) -> tuple[int, ...]:
        tokens: list[int] = []
        async for event in engine.stream(Prompt(tuple(prompt)), Sampling(max_tokens=64, **GREEDY)):
            if isinstance(event, Delta):
                tokens += event.token_ids
        return tuple(tokens)

    async def every() -> list[tuple[int, ...]]:
        return await asyncio.gather(*(one(prompt) for prompt in prompts))

    return asyncio.run(every())


def model_of(shape: str) -> Qwen:
    return random_model(shape, torch.bfloat16, torch.device("cuda"))


def steps_of(engine: BatchingEngine) -> int:
    steps = engine.status().details["steps"]
    assert isinstance(steps, int)
    return steps


STEPS: dict[str, Callable[[str], bool]] = {
    "self-check": self_check,
    "profile": profile,
    "captures": captures,
    "decode": decode,
    "identical": identical,
    "scoring": scoring,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--shape", default="7b", choices=SHAPES)
    wishes = parser.parse_args()
    random.seed(0)
    return 0 if STEPS[wishes.step](wishes.shape) else 1


if __name__ == "__main__":
    sys.exit(main())
