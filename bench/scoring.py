"""What it costs to score a given text, beside generating as many tokens.

    python -m bench.scoring [--shape 50m] [--gpu] [--save]

Texts of 100 tokens after prompts of 100: one alone, and 32 at once; the prompts of their own, or one for all.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Callable

import torch

from bench.engines import Work, engine_on, random_ids, random_model, serve
from bench.harness import Bench, alternate
from handler.engine.protocol import Prompt
from handler.inference.loop import BatchingEngine

PROMPT, TEXT, CROWD = 100, 100, 32


def scored(engine: BatchingEngine, pairs: list[tuple[list[int], list[int]]]) -> float:
    """Seconds until all texts are scored."""

    async def every() -> float:
        begin = time.perf_counter()
        await asyncio.gather(*(engine.score(Prompt(tuple(prompt)), tuple(text)) for prompt, text in pairs))
        return time.perf_counter() - begin

    return asyncio.run(every())


def generated(engine: BatchingEngine, prompts: list[list[int]]) -> float:
    """Seconds until each prompt has an answer as long as a text."""
    seconds, _ = serve(engine, Work("generate", [(prompt, TEXT) for prompt in prompts]))
    return seconds


def sides(engine: BatchingEngine, count: int, *, shared: bool) -> dict[str, Callable[[], float]]:
    """Each run has prompts that the cache does not know, of their own or one for all."""

    def prompts() -> list[list[int]]:
        return [random_ids(PROMPT)] * count if shared else [random_ids(PROMPT) for _ in range(count)]

    return {
        "score": lambda: scored(engine, [(prompt, random_ids(TEXT)) for prompt in prompts()]),
        "generate": lambda: generated(engine, prompts()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="50m")
    parser.add_argument("--gpu", action="store_true", help="Qwen2.5-7B's shape on CUDA")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    device, shape = ("cuda", "7b") if wishes.gpu else ("cpu", wishes.shape)
    random.seed(0)
    bench = Bench("scoring", device=device)
    table = bench.table(
        f"{TEXT} tokens after a prompt of {PROMPT}, {shape} bfloat16",
        ["prompts", "scoring, ms", "generating, ms", "generating : scoring"],
        ratio="generating : scoring",
    )
    with engine_on(random_model(shape, torch.bfloat16, torch.device(device)), CROWD, 512) as engine:
        cases = (("one", 1, False), (f"{CROWD}", CROWD, False), (f"{CROWD}, one prompt", CROWD, True))
        for name, count, shared in cases:
            both = sides(engine, count, shared=shared)
            for side in both.values():
                side()  # warm
            took = alternate(both, 3)
            table.add(name, 1e3 * took["score"], 1e3 * took["generate"], took["generate"] / took["score"])
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
