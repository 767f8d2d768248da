"""Where the time of an engine step goes: schedule, build, forward, sample, read, deliver.

    python -m bench.step [--shape 50m] [--rows 1,8,32] [--gpu] [--save]

Medians over the decode steps with all rows running, in microseconds of the engine's thread by the clock, each phase
less what it calls of the others. On a GPU the host only launches: `read` then holds the wait for the device.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.engines import Work, build, engine_on, merged, random_ids, serve
from bench.harness import Bench
from handler.inference.loop import BatchingEngine

PROMPT, NEW = 64, 96
PHASES = ("schedule", "build", "forward", "sample", "read", "deliver")


class Stopwatch:
    """Seconds by phase of each turn; a phase called within another is not counted twice."""

    def __init__(self) -> None:
        self.turns: list[dict[str, float]] = []
        self._open: list[tuple[str, float]] = []
        self._now: dict[str, float] = {}

    def wrap(self, owner: Any, method: str, phase: str) -> None:
        call: Callable[..., object] = getattr(owner, method)

        def timed(*arguments: object, **named: object) -> object:
            began = time.perf_counter()
            if self._open:
                outer, since = self._open[-1]
                self._count(outer, began - since)
            self._open.append((phase, began))
            try:
                return call(*arguments, **named)
            finally:
                ended = time.perf_counter()
                _, since = self._open.pop()
                self._count(phase, ended - since)
                if self._open:
                    self._open[-1] = self._open[-1][0], ended

        setattr(owner, method, timed)

    def turn_ends(self) -> None:
        self.turns.append(self._now)
        self._now = {}

    def _count(self, phase: str, seconds: float) -> None:
        self._now[phase] = self._now.get(phase, 0.0) + seconds


def watch(engine: BatchingEngine) -> Stopwatch:
    """Puts a stopwatch into an engine: reaches into it, as only a bench may."""
    stopwatch, runner = Stopwatch(), engine._runner
    stopwatch.wrap(engine._scheduler, "schedule", "schedule")
    stopwatch.wrap(runner, "launch", "build")
    stopwatch.wrap(runner, "_forward", "forward")
    stopwatch.wrap(runner._sampler, "sample", "sample")
    stopwatch.wrap(engine, "_read", "read")
    stopwatch.wrap(engine, "_accept", "deliver")
    flush = engine._flush

    def deliver() -> None:
        flush()
        stopwatch.turn_ends()

    engine._flush = deliver  # type: ignore[method-assign]
    stopwatch.wrap(engine, "_flush", "deliver")
    return stopwatch


def phases(engine: BatchingEngine, rows: int) -> list[float]:
    """Microseconds of each phase."""
    stopwatch = watch(engine)
    serve(engine, Work("decode", [(random_ids(PROMPT), NEW) for _ in range(rows)]))
    # The first turns prefill, the last ones may run fewer rows.
    steady = [turn for turn in stopwatch.turns if "forward" in turn or "build" in turn][rows // 8 + 4 : -4]
    return [1e6 * statistics.median(turn.get(phase, 0.0) for turn in steady) for phase in PHASES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="50m")
    parser.add_argument("--rows", default="1,8,32")
    parser.add_argument("--gpu", action="store_true", help="Qwen2.5-7B's shape on CUDA")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    device = "cuda" if wishes.gpu else "cpu"
    shape = "7b" if wishes.gpu else wishes.shape
    random.seed(0)
    bench = Bench("step", device=device)
    table = bench.table(f"A decode step of {shape}, bfloat16, microseconds", ["rows", *PHASES, "sum"])
    model = merged(build(shape, torch.bfloat16, device))
    for rows in map(int, wishes.rows.split(",")):
        with engine_on(model, rows, PROMPT + NEW) as engine:
            serve(engine, Work("warm", [(random_ids(PROMPT), 4)]))
            spent = phases(engine, rows)
        table.add(rows, *spent, sum(spent))
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
