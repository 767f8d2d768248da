"""Tokens per second of the engine, beside the ways that transformers has: `generate` and continuous batching.

    python -m bench.throughput                                 # 0.5B shape, bfloat16
    python -m bench.throughput --shape 50m,0.5b --dtype bfloat16,float32 --rows 1,8,32,64 --mixed [--save]
    python -m bench.throughput --gpu                           # 7B shape on CUDA

Random weights, greedy, nobody ends early. Sides take turns, so that a machine that is shared slows all of them alike.
`serial`, `cached` (a static cache) and `compiled` (the same, decoding compiled as transformers does by itself on CUDA)
answer two of the requests, one after the other, since each takes as long; what compiling takes is told apart.
"""

import argparse
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from transformers import CompileConfig, ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from bench.engines import Work, blocks_for, build, engine_on, merged, random_ids, serve
from bench.harness import Bench, alternate
from handler.inference.model import Model

SIDES = ("serial", "cached", "compiled", "static", "transformers", "ours")
STATIC = 8
COMPILE = CompileConfig()
COMPILE._compile_all_devices = True  # type: ignore[assignment]  # else on CUDA alone
#: options of `generate` by the sides that answer one request after the other
ALONE: dict[str, dict[str, Any]] = {
    "serial": {},
    "cached": {"cache_implementation": "static", "disable_compile": True},
    "compiled": {"cache_implementation": "static", "compile_config": COMPILE},
}


def ours(model: Model, work: Work) -> float:
    longest = max(len(prompt) + new for prompt, new in work.requests)
    with engine_on(model, len(work.requests), longest) as engine:
        return serve(engine, work)[0]


def static(model: PreTrainedModel, work: Work, size: int, **options: Any) -> float:
    """Left-padded batches through `generate`, each until its longest answer is done. One by one where size is 1."""
    generate: Callable[..., Any] = model.generate  # type: ignore[assignment]
    begin = time.perf_counter()
    for at in range(0, len(work.requests), size):
        batch = work.requests[at : at + size]
        widest = max(len(prompt) for prompt, _ in batch)
        ids = torch.tensor([[0] * (widest - len(prompt)) + prompt for prompt, _ in batch], device=model.device)
        new = max(new for _, new in batch)
        greedy = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0, **options)
        generate(ids, attention_mask=(ids != 0).long(), generation_config=greedy)
    return time.perf_counter() - begin


def alone(model: PreTrainedModel, work: Work, side: str) -> float:
    """Tokens a second of the first two requests, one after the other."""
    few = Work(work.name, work.requests[:2])
    return few.new / static(model, few, 1, **ALONE[side])


def compiles(model: PreTrainedModel, work: Work) -> bool:
    """False where there is no compiler, of C++ for a CPU, of C for CUDA."""
    try:
        began = time.perf_counter()
        alone(model, work, "compiled")
    except TorchDynamoException as error:
        print(f"  not compiled: {str(error).splitlines()[0]}")
        return False
    print(f"  compiled, with the first answers, in {time.perf_counter() - began:.0f} s", flush=True)
    return True


def theirs(model: PreTrainedModel, work: Work) -> float:
    """transformers' continuous batching, sized like ours."""
    count, blocks = len(work.requests), blocks_for(len(prompt) + new for prompt, new in work.requests)
    own_choice = None if model.device.type == "cuda" else False
    manager = model.init_continuous_batching(  # type: ignore[operator]
        generation_config=GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0),
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=blocks, max_batch_tokens=512, max_requests_per_batch=count, allow_block_sharing=False,
            use_cuda_graph=own_choice, use_async_batching=own_choice,
        ),
    )  # fmt: skip
    manager.start()
    for _ in range(2 if own_choice is None else 1):  # the first time it may capture graphs, and is not counted
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


def rates(model: PreTrainedModel, mine: Model, work: Work, sides: list[str], repeat: int) -> dict[str, float]:
    """Median tokens a second of each side."""
    run: dict[str, Callable[[], float]] = {
        **{side: partial(alone, model, work, side) for side in ALONE},
        "static": lambda: work.new / static(model, work, STATIC),
        "transformers": lambda: work.new / theirs(model, work),
        "ours": lambda: work.new / ours(mine, work),
    }
    if "compiled" in sides and not compiles(model, work):
        del run["compiled"]
    return alternate({side: run[side] for side in run if side in sides}, repeat)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--shape", default="0.5b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rows", default="1,8,32")
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--mixed", action="store_true", help="32 prompts of 16-256 tokens, answers of 32-128")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    device, shapes = ("cuda", "7b") if wishes.gpu else ("cpu", wishes.shape)
    random.seed(0)
    torch.manual_seed(0)
    bench = Bench("throughput", device=device)
    table = bench.table(
        f"Tokens a second, prompts of 64 tokens, answers of {wishes.new}",
        ["shape", "dtype", "at once", "serial generate", "its static cache", "compiled", f"static batches of {STATIC}",
         "transformers' batching", "ours", "ours : transformers"],
        labels=3,
        ratio="ours : transformers",
    )  # fmt: skip
    for shape in shapes.split(","):
        for dtype in wishes.dtype.split(","):
            model = build(shape, getattr(torch, dtype), device)
            mine = merged(model)
            works = [
                Work(str(rows), [(random_ids(64), wishes.new) for _ in range(rows)])
                for rows in map(int, wishes.rows.split(","))
            ]
            if wishes.mixed:
                mixed = [(random_ids(random.randint(16, 256)), random.randint(32, 128)) for _ in range(32)]
                works.append(Work("32, mixed", mixed))
            for work in works:
                rate = rates(model, mine, work, wishes.sides.split(","), wishes.repeat)
                ratio = rate["ours"] / rate["transformers"] if {"ours", "transformers"} <= rate.keys() else None
                table.add(shape, dtype, work.name, *(rate.get(side) for side in SIDES), ratio)
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
