"""A deadline, a cancellation and SIGTERM end each kind of work: encoding, texts before and after the model, generation.

The worker is the real one, with work that would go on for ever. A deadline and a cancellation have 0.25 s, SIGTERM has
the grace period and 10 s. A machine that is busy adds to that, and the tests allow for it; the figures are printed
(`pytest -rP`).
"""

import asyncio
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from handler.model.snapshot import DEMO
from runpod_local import Platform, Worker
from tests.support.held import MARK

ROOT = Path(__file__).parents[1]
DEADLINE_S, GRACE_S = 0.4, 0.5
#: for a machine that is busy
SLACK_S = 1.0
CHAT = {"operation": "chat", "message": "hi", "max_tokens": 5}
WORK: dict[str, dict[str, Any]] = {
    "encoding": {"operation": "chat", "message": MARK},
    "before": {"operation": "enhance", "prompt": MARK, "job_type": "sdxl_image_fast"},
    "after": {"operation": "enhance", "prompt": MARK, "job_type": "sdxl_image_fast", "max_tokens": 4},
    "generation": {"operation": "generate", "prompt": "a", "max_tokens": 2000, "temperature": 2.0},
}


def endless(directory: Path) -> Path:
    """The demo model, with no token that ends an answer."""
    path = directory / "endless"
    shutil.copytree(DEMO, path)
    for name in ("config.json", "generation_config.json"):
        config = json.loads((path / name).read_text(encoding="utf-8"))
        (path / name).write_text(json.dumps({**config, "eos_token_id": None}), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", WORK)
def test_a_deadline_a_cancellation_and_sigterm_end_it(kind: str, tmp_path: Path) -> None:
    held = kind != "generation"
    command = [sys.executable, "-u", "-m", *(("tests.support.held", kind) if held else ("handler",))]
    model = "demo" if held else str(endless(tmp_path))
    env = {
        "PYTHONPATH": str(ROOT),
        "MODEL_PATH": model,
        "SHUTDOWN_GRACE_S": str(GRACE_S),
        "MAX_CONCURRENT_REQUESTS": "8",
    }

    async def scenario() -> None:
        async with Platform() as platform, platform.worker(command, env=env) as worker:
            await worker.ready()
            await platform.runsync(CHAT)
            seconds = {
                "deadline": await deadline(platform, kind) - DEADLINE_S,
                "cancel": await cancel(platform, worker, kind),
                "SIGTERM": await sigterm(platform, worker, kind) - GRACE_S,
            }
            print(kind, {end: round(late, 3) for end, late in seconds.items()})  # noqa: T201
            assert 0 <= seconds["deadline"] < 0.25 + SLACK_S
            assert seconds["cancel"] < 0.25 + SLACK_S
            assert seconds["SIGTERM"] < 10

    asyncio.run(scenario())


async def deadline(platform: Platform, kind: str) -> float:
    """Seconds from the request to its end by a deadline."""
    began = time.monotonic()
    job = await platform.runsync({**WORK[kind], "deadline_ms": round(DEADLINE_S * 1000)})
    seconds = time.monotonic() - began
    if kind == "generation":
        assert job["output"]["finish_reason"] == "deadline"
    else:
        assert json.loads(job["error"])["code"] == "deadline_exceeded"
    return seconds


async def cancel(platform: Platform, worker: Worker, kind: str) -> float:
    """Seconds from a cancellation until the work is over, with as many jobs as enhancement has threads."""
    ids = [await begun(platform, worker, kind, jobs) for jobs in (1, 2)]
    # No other operation waits for them.
    assert (await platform.runsync(CHAT))["status"] == "COMPLETED"
    over = worker.log.count("work is over")
    began = time.monotonic()
    for id_ in ids:
        await platform.cancel(id_)
    if kind in ("before", "after"):
        await worker.logged("work is over", over + 2)
    else:
        await until_running(platform, 0)
    seconds = time.monotonic() - began
    assert [(await platform.wait(id_))["status"] for id_ in ids] == ["CANCELLED"] * 2
    return seconds


async def sigterm(platform: Platform, worker: Worker, kind: str) -> float:
    """Seconds from SIGTERM to the worker's end, while the work runs."""
    id_ = await begun(platform, worker, kind, 1)
    began = time.monotonic()
    worker.terminate()
    assert await worker.exited(GRACE_S + 20) == 0
    seconds = time.monotonic() - began
    error = json.loads((await platform.wait(id_))["error"])
    assert (error["code"], error["retryable"]) == ("engine_failed", True)
    return seconds


async def begun(platform: Platform, worker: Worker, kind: str, jobs: int) -> str:
    """A job that runs, as one of so many."""
    held = worker.log.count("work is held")
    id_ = await platform.run({**WORK[kind], "seed": jobs})  # a seed of its own, so that no two share an answer
    if kind == "generation":
        await until_running(platform, jobs)
    else:
        await worker.logged("work is held", held + 1)
    return id_


async def until_running(platform: Platform, count: int) -> None:
    async with asyncio.timeout(20):
        while True:
            info = await platform.runsync({"operation": "info", "sections": ["health"]})
            if info["output"]["health"]["active_jobs"] == count:
                return
