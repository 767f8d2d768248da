"""What a user of a loaded worker waits for: time to first token and between tokens, by load.

    python -m bench.load [--shape 50m] [--seconds 20] [--gpu] [--save]

`closed`: so many requests at all times, each followed by the next. `open`: requests come at random (Poisson), whether
the last are answered or not, at a share of the rate that the closed loop reached; what a queue does shows only there.
Traffic: `chat` sends 64 tokens and wants 64; `long` sends 2,000 one time in eight; `shared` begins with the same 600.
Random weights, greedy, nobody ends early.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

from bench.engines import GREEDY, build, engine_on, merged, random_ids
from bench.harness import Bench, Table, percentile
from handler.engine.protocol import Prompt
from handler.engine.sampling import Sampling
from handler.engine.stream import Delta
from handler.inference.loop import BatchingEngine

Ids = list[int]
NEW = 64
LONGEST = 2100
_SHARED = random_ids(600)
TRAFFIC: dict[str, Callable[[], Ids]] = {
    "chat": lambda: random_ids(64),
    "long": lambda: random_ids(2000 if random.random() < 1 / 8 else 64),
    "shared": lambda: _SHARED + random_ids(20),
}


@dataclass(frozen=True)
class Answer:
    """When a request was sent, and when its tokens came; seconds of one clock."""

    sent: float
    arrivals: list[float]

    @property
    def ttft(self) -> float:
        return self.arrivals[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in pairwise(self.arrivals)]


async def ask(engine: BatchingEngine, ids: Ids) -> Answer:
    sent, arrivals = time.perf_counter(), []
    async for event in engine.stream(Prompt(tuple(ids)), Sampling(max_tokens=NEW, **GREEDY)):
        if isinstance(event, Delta):
            arrivals += [time.perf_counter()] * len(event.token_ids)
    return Answer(sent, arrivals)


async def closed(engine: BatchingEngine, prompt: Callable[[], Ids], at_once: int, seconds: float) -> list[Answer]:
    """Answers of a loop that keeps so many requests going for so long."""
    until = time.perf_counter() + seconds

    async def one() -> list[Answer]:
        answers = []
        while time.perf_counter() < until:
            answers.append(await ask(engine, prompt()))
        return answers

    return [answer for answers in await asyncio.gather(*(one() for _ in range(at_once))) for answer in answers]


async def opened(engine: BatchingEngine, prompt: Callable[[], Ids], rate: float, seconds: float) -> list[Answer]:
    """Answers to requests that come at so many a second, whatever becomes of those before."""
    until = time.perf_counter() + seconds
    asked = []
    while time.perf_counter() < until:
        await asyncio.sleep(random.expovariate(rate))
        asked.append(asyncio.ensure_future(ask(engine, prompt())))
    return await asyncio.gather(*asked)


def rate_of(answers: list[Answer]) -> float:
    """Tokens a second, from the first request to the last token."""
    begin, end = min(answer.sent for answer in answers), max(answer.arrivals[-1] for answer in answers)
    return sum(len(answer.arrivals) for answer in answers) / (end - begin)


def tell(table: Table, labels: tuple[str | int, ...], answers: list[Answer]) -> float:
    """A row of milliseconds; returns tokens a second."""
    first = [answer.ttft * 1e3 for answer in answers]
    gaps = [gap * 1e3 for answer in answers for gap in answer.gaps]
    rate = rate_of(answers)
    waits = [percentile(values, percent) for values in (first, gaps) for percent in (50, 90, 99)]
    table.add(*labels, len(answers), rate, *waits)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="50m")
    parser.add_argument("--at-once", default="1,4,16,32")
    parser.add_argument("--seconds", type=float, default=8, help="of each row")
    parser.add_argument("--gpu", action="store_true", help="Qwen2.5-7B's shape on CUDA, up to 256 at once")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    device = "cuda" if wishes.gpu else "cpu"
    shape, at_once = ("7b", "1,8,64,256") if wishes.gpu else (wishes.shape, wishes.at_once)
    crowds = [int(count) for count in at_once.split(",")]
    random.seed(0)
    bench = Bench("load", device=device)
    figures = ["answers", "tok/s", *(f"{what} p{p} ms" for what in ("TTFT", "ITL") for p in (50, 90, 99))]
    model = merged(build(shape, torch.bfloat16, device))
    with engine_on(model, max(crowds), LONGEST) as engine:
        asyncio.run(closed(engine, TRAFFIC["chat"], max(crowds), 2))  # warm
        table = bench.table(f"Closed loop, {shape} bfloat16, chat", ["at once", *figures])
        for count in crowds:
            full = tell(table, (count,), asyncio.run(closed(engine, TRAFFIC["chat"], count, wishes.seconds)))
        table = bench.table(f"Open loop, {shape} bfloat16", ["traffic", "load %", *figures], labels=2)
        for name, prompt in TRAFFIC.items():
            for share in (25, 50, 75):
                rate = full / NEW * share / 100
                tell(table, (name, share), asyncio.run(opened(engine, prompt, rate, wishes.seconds)))
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
