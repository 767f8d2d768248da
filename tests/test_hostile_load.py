"""Honest jobs are answered among hostile ones, and nothing of those stays; `make hostile` does it for eight minutes."""

import asyncio
import sys
from pathlib import Path

from bench.soak import Sample
from runpod_local import Platform
from tests.support.hostile import ATTACKS, at_rest, leaves, mixed

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-u", "-m", "handler"]
JOBS, SECONDS = 120, 12.0
#: A second is what `make hostile` asks for; here the machine may be busy with other tests.
P99_S = 4.0
#: to the platform: one for each job that a worker of 32 rows holds, kept open for a while after its result
CONNECTIONS = 40


def test_honest_jobs_are_answered_among_hostile_ones_of_which_nothing_stays() -> None:
    async def scenario() -> None:
        env = {"PYTHONPATH": str(ROOT), "MODEL_PATH": "demo", "RUNPOD_LOG_LEVEL": "DEBUG"}
        async with Platform() as platform, platform.worker(COMMAND, env=env) as worker:
            await worker.ready()
            await mixed(platform, 20, 1, seed=0)  # starts every thread
            before = Sample.of(worker.process.pid)
            told = await mixed(platform, JOBS, SECONDS, seed=1)
            health, after = await at_rest(platform), Sample.of(worker.process.pid)
            print(told.states, f"p50 {told.percentile(0.5):.3f} s, p99 {told.percentile(0.99):.3f} s", before, after)  # noqa: T201
            assert sum(told.states.values()) == JOBS
            assert not told.failed
            assert told.attacks_s.keys() == ATTACKS.keys()
            assert told.percentile(0.99) < P99_S
            assert health["engine"]["pages_used"] == 0
            assert after.descriptors <= before.descriptors + CONNECTIONS
            assert after.threads <= before.threads + 8  # those of the pools start one by one
            await leaves(platform, worker)

    asyncio.run(scenario())
