"""What a job costs beside its work: the stock SDK's loop and ours, against the control plane of the tests.

    python -m bench.platform [--quick] [--save]

An echo worker runs with each loop in turn, as a process of its own. `idle`: one job at a time with pauses, from submit
to done. `busy`: a backlog of jobs that take no time. The control plane runs in this process and shares the machine.
"""

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path

from bench.harness import Bench, percentile
from runpod_local import Platform

ROOT = Path(__file__).parents[1]
ECHO = [sys.executable, "-u", "-m", "tests.support.echo"]
CONCURRENCY = (1, 8, 64)


async def idle(platform: Platform, jobs: int) -> list[float]:
    """Milliseconds from submit to done, one job at a time."""
    took = []
    for _ in range(jobs):
        # A pause of no fixed phase: a loop that polls would be met at the same point of its cycle every time.
        await asyncio.sleep(random.uniform(0.02, 0.15))
        began = time.perf_counter()
        await platform.runsync({"say": "x"})
        took.append((time.perf_counter() - began) * 1000)
    return took


async def busy(platform: Platform, seconds: float, backlog: int) -> float:
    """Jobs a second, over a backlog that is never empty."""
    waiting: set[str] = set()
    done = 0
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        while len(waiting) < backlog:
            waiting.add(await platform.run({"say": "x"}))
        await asyncio.sleep(0.01)
        ended = {id_ for id_ in waiting if platform.jobs[id_].final}
        waiting -= ended
        done += len(ended)
    return done / (now - began)


async def measure(stock: bool, jobs: int, seconds: float) -> tuple[list[float], list[float]]:
    env = {"PYTHONPATH": str(ROOT), "EXACT": "true", "RUNPOD_LOG_LEVEL": "WARN"} | ({"STOCK": "true"} if stock else {})
    rates, latencies = [], []
    for slots in CONCURRENCY:
        async with (
            Platform() as platform,
            platform.worker(ECHO, env={**env, "SLOTS": str(slots)}) as worker,
        ):
            await worker.ready()
            await platform.runsync({"say": "warm"})
            if slots == CONCURRENCY[1]:
                latencies = await idle(platform, jobs)
            rates.append(await busy(platform, seconds, 4 * slots + 64))
    return latencies, rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds instead of half a minute a loop")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    jobs, seconds = (30, 3.0) if wishes.quick else (200, 10.0)
    bench = Bench("platform")
    table = bench.table(
        "From submit to done, and short jobs a second by concurrency",
        ["loop", "idle p50 ms", "idle p99 ms", *(f"jobs/s at {slots}" for slots in CONCURRENCY), "times the SDK's"],
        ratio="times the SDK's",
    )
    most = 0.0
    for name, stock in (("stock SDK", True), ("ours", False)):
        latencies, rates = asyncio.run(measure(stock, jobs, seconds))
        most = most or rates[-1]
        table.add(name, percentile(latencies, 50), percentile(latencies, 99), *rates, rates[-1] / most)
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
