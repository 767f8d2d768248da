"""What a shared system prompt saves: time to first token with it in the cache, and without.

    python -m bench.prefix [--shape 50m] [--gpu] [--save]

One request, then ten more one after the other, then a hundred at once; prompts of 600 tokens that all share, or that
nobody does, with 20 of their own.
"""

import argparse
import random
import statistics
from collections.abc import Callable

import torch

from bench.engines import Work, build, engine_on, merged, random_ids, serve
from bench.harness import Bench

SHARED, OWN, CROWD = 600, 20, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="50m")
    parser.add_argument("--gpu", action="store_true", help="Qwen2.5-7B's shape on CUDA")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    device, shape = ("cuda", "7b") if wishes.gpu else ("cpu", wishes.shape)
    random.seed(0)
    bench = Bench("prefix", device=device)
    table = bench.table(
        f"Prompts of {SHARED + OWN} tokens, {shape} bfloat16, TTFT in ms",
        ["prompts", "first", "later, alone", f"{CROWD} at once", "seconds for all", "prompt tokens", "from the cache"],
    )
    model = merged(build(shape, torch.bfloat16, device))
    system = random_ids(SHARED)
    heads: dict[str, Callable[[], list[int]]] = {"shared": lambda: system, "of their own": lambda: random_ids(SHARED)}
    for name, head in heads.items():
        works = [Work(name, [(head() + random_ids(OWN), 4)]) for _ in range(11)]
        crowd = Work(name, [(head() + random_ids(OWN), 4) for _ in range(CROWD)])
        with engine_on(model, 32, 700) as engine:
            (_, [first]), *others = [serve(engine, work) for work in works]
            later = statistics.median(record.arrivals[0] for _, [record] in others)
            seconds, records = serve(engine, crowd)
        usages = [record.finish.usage for record in records]
        ttft = statistics.median(record.arrivals[0] for record in records)
        table.add(
            name, first.arrivals[0] * 1e3, later * 1e3, ttft * 1e3, seconds,
            sum(usage.prompt_tokens for usage in usages), sum(usage.cached_tokens for usage in usages),
        )  # fmt: skip
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
