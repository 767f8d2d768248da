"""How often the same request and seed give the same answer, alone and among others, in the checkpoint's own dtype.

    python -m bench.identical [--model demo] [--requests 200] [--save]

In float32 the tests hold that share to 100 %. In bfloat16 the rounding of a logit depends on the shape of the matrix
products, and so on who else is in the batch: docs/decisions/0005 says what it takes to end that. On a GPU, name a true
checkpoint.
"""

import argparse
import asyncio
import random
from typing import Any

from bench.harness import Bench
from handler.api.generate import GenerateReply
from handler.job import Jobs
from handler.report import Report
from handler.settings import Settings
from handler.start import start

THINGS = ("a red fox", "two old sailors", "a glass tower", "a child with a kite", "an iron bridge", "a bowl of plums")
PLACES = ("in the snow", "at dawn", "under neon lights", "by the sea", "in heavy rain", "seen from above")
SAMPLINGS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "temperature 0.7, top_p 0.9": {"temperature": 0.7, "top_p": 0.9},
    "temperature 1.2, top_k 40, penalties": {
        "temperature": 1.2, "top_k": 40, "repetition_penalty": 1.1, "presence_penalty": 0.2,
    },
}  # fmt: skip


def requests(count: int, sampling: dict[str, float]) -> list[dict[str, Any]]:
    prompts = [f"{random.choice(THINGS)} {random.choice(PLACES)}, number {index}" for index in range(count)]
    system = "Rewrite the prompt for SDXL, an image model. Keep every word. Answer with the prompt alone."
    return [
        {"operation": "generate", "max_tokens": 128, "seed": seed, **sampling,
         "messages": [{"role": "system", "content": system}, {"role": "user", "content": prompt}]}
        for seed, prompt in enumerate(prompts)
    ]  # fmt: skip


async def answers(jobs: Jobs, asked: list[dict[str, Any]], at_once: int) -> list[str]:
    """The text of each; as many run together as `at_once` says."""
    free = asyncio.Semaphore(at_once)

    async def one(index: int, request: dict[str, Any]) -> str:
        async with free:
            reply = await jobs.answer({"id": str(index), "input": request})
            assert isinstance(reply, GenerateReply), reply
            return reply.text

    return await asyncio.gather(*(one(index, request) for index, request in enumerate(asked)))


def shared(first: str, second: str) -> int:
    """Characters until two texts part."""
    return next((at for at, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), len(first))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    random.seed(0)
    worker = start(Settings.from_environment({"MODEL_PATH": wishes.model}), Report())
    model = worker.jobs.operations.core.model
    bench = Bench("identical", device="cpu" if model.device == "cpu" else "cuda")
    table = bench.table(
        f"Identical answers, {model.name} in {model.dtype}", ["sampling", "against", "same %", "part after"]
    )
    for name, sampling in SAMPLINGS.items():
        asked = requests(wishes.requests, sampling)
        alone = asyncio.run(answers(worker.jobs, asked, 1))
        for against, at_once in (("alone again", 1), ("8 at once", 8), ("32 at once", 32)):
            again = asyncio.run(answers(worker.jobs, asked, at_once))
            parted = [shared(*pair) for pair in zip(alone, again, strict=True) if pair[0] != pair[1]]
            share = 100 * (1 - len(parted) / len(asked))
            table.add(name, against, share, sorted(parted)[len(parted) // 2] if parted else None)
    worker.engine.close()
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
