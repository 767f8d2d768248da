"""The real worker when its model breaks: what can be answered is answered, what cannot go on is replaced."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runpod_local import Platform, Worker

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-u", "-m", "tests.support.breaking"]
#: for a model that never ends by itself
LONG: dict[str, Any] = {"operation": "generate", "prompt": "a", "max_tokens": 40, "temperature": 2.0, "stop": []}


@asynccontextmanager
async def worker(how: str, **env: str) -> AsyncIterator[tuple[Platform, Worker]]:
    env = {"PYTHONPATH": str(ROOT), "MODEL_PATH": "demo", "BREAK": how, **env}
    async with Platform() as platform, platform.worker(COMMAND, env=env) as started:
        await started.ready(120)
        yield platform, started


def errors(jobs: list[dict[str, Any]]) -> set[tuple[str, bool]]:
    return {((error := json.loads(job["error"]))["code"], error["retryable"]) for job in jobs if "error" in job}


def test_out_of_memory_once_in_a_while_costs_nobody_an_answer() -> None:
    async def scenario() -> None:
        async with worker("memory:1,5,50") as (platform, started):
            ids = [await platform.run({**LONG, "seed": seed}) for seed in range(8)]
            assert [(await platform.wait(id_))["status"] for id_ in ids] == ["COMPLETED"] * 8
            health = (await platform.runsync({"operation": "info", "sections": ["health"]}))["output"]["health"]
            assert (health["status"], health["engine"]["out_of_memory"]) == ("healthy", 3)
            assert started.process.returncode is None

    asyncio.run(scenario())


def test_a_step_that_fails_once_is_told_to_who_was_in_it_and_the_worker_serves_on() -> None:
    async def scenario() -> None:
        async with worker("raise:3") as (platform, started):
            ids = [await platform.run({**LONG, "seed": seed}) for seed in range(4)]
            assert errors([await platform.wait(id_) for id_ in ids]) == {("engine_failed", True)}
            assert (await platform.runsync(LONG))["status"] == "COMPLETED"
            assert started.process.returncode is None

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raise:3,4", "the engine has failed"),
        ("lost:3", "the engine has failed"),
        ("hang:3", "a step of the engine hangs"),
    ],
    ids=["a second failed step", "a lost device", "a step that hangs"],
)
def test_an_engine_that_cannot_go_on_answers_its_jobs_and_ends_the_worker(how: str, reason: str) -> None:
    async def scenario() -> None:
        async with worker(how, STEP_TIMEOUT_S="2") as (platform, started):
            ids = [await platform.run({**LONG, "seed": seed}) for seed in range(4)]
            more = []
            if how.startswith("raise"):
                assert errors([await platform.wait(id_) for id_ in ids]) == {("engine_failed", True)}
                more = [await platform.run({**LONG, "seed": seed}) for seed in range(40)]  # more than it holds
            assert await started.exited(30) == 1
            late = await platform.run(LONG)
            assert platform.jobs[late].state == "IN_QUEUE"
            ended = [platform.jobs[id_] for id_ in (*ids, *more)]
            assert errors([job.view() for job in ended]) == {("engine_failed", True)}
            assert {job.state for job in ended} <= {"FAILED", "IN_QUEUE"}  # nothing was taken and left
            assert f"the worker ends: {reason}" in started.log
            assert "a lost device was asked again" not in started.log

    asyncio.run(scenario())
