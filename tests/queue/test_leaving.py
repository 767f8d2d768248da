"""The process ends soon after a stop, whatever its threads do."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runpod_local import Platform, eventually

COMMAND = [sys.executable, "-u", "-m", "tests.support.echo"]
ROOT = Path(__file__).parents[2]


def children_of(pid: int) -> list[str]:
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


@pytest.mark.parametrize("given", ["spin", "stuck"])
def test_sigterm_ends_a_worker_of_which_a_thread_never_ends(given: str) -> None:
    """`spin`: a thread beside the jobs; `stuck`: one that a job waits for."""

    async def scenario() -> None:
        env = {"PYTHONPATH": str(ROOT), "GRACE_S": "0.5"}
        async with Platform() as platform, platform.worker(COMMAND, env=env) as worker:
            await worker.ready()
            id_ = await platform.run({given: True, "note": True})
            await worker.logged(f"runs {id_}")
            if given == "spin":
                await platform.wait(id_)
            children = children_of(worker.process.pid)
            assert children  # the SDK's heartbeat, at least
            began = time.monotonic()
            worker.terminate()
            assert await worker.exited(10.5) == 0
            assert time.monotonic() - began < 10.5
            assert (await platform.wait(id_))["status"] == ("COMPLETED" if given == "spin" else "FAILED")
            await eventually(lambda: not any(os.path.exists(f"/proc/{child}") for child in children))

    asyncio.run(scenario())


#: ends in a thread of its own after half a second, although its loop hangs and Python's own exit would wait
HANGS = """
import sys, time
from handler.queue import leaving
from handler.report import Report
leaving.FAREWELL_S = 0.3
sys.stdout.write("written, and not flushed")
leaving.BoundedEnd(Report(), 0.2).{stop}()
while True:
    pass
"""


@pytest.mark.parametrize(("stop", "status"), [("draining", 0), ("broken", 1)])
def test_a_worker_that_does_not_drain_is_ended(stop: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS.format(stop=stop)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (status, "written, and not flushed")
    assert "it was not drained 0.5 s after the stop" in done.stderr
