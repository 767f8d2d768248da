"""The small RunPod behaves as RunPod does: an echo worker on the stock SDK, and clients, use it."""

import asyncio
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from runpod_local import Background, Fault, Platform, Route, Worker, eventually

ROOT = Path(__file__).parents[2]
ECHO = """
import asyncio, os, sys, types
# `import runpod` measures the CPU for a second, for a debug field.
sys.modules["cpuinfo"] = types.SimpleNamespace(get_cpu_info=lambda: {"brand_raw": ""})
import runpod

async def answer(job):
    given = job["input"]
    await asyncio.sleep(given.get("sleep", 0))
    if "raise" in given:
        raise ValueError(given["raise"])
    if "error" in given:
        return {"error": given["error"]}
    if "progress" in given:
        runpod.serverless.progress_update(job, given["progress"])
        await asyncio.sleep(60)
    return {"echo": given["say"]}

async def stream(job):
    for index in range(job["input"]["chunks"]):
        yield {"index": index}
        await asyncio.sleep(job["input"].get("pace", 0))

if __name__ == "__main__":
    runpod.serverless.start({
        "handler": stream if os.environ.get("STREAMING") else answer,
        "return_aggregate_stream": True,
        "concurrency_modifier": lambda _: 8,
    })
"""


@pytest.fixture
def echo(tmp_path: Path) -> list[str]:
    """The command that starts the echo worker."""
    script = tmp_path / "echo.py"
    script.write_text(ECHO)
    return [sys.executable, "-u", str(script)]


@asynccontextmanager
async def running(echo: list[str], **env: str) -> AsyncIterator[tuple[Platform, Worker]]:
    # The stock SDK waits for held requests before it exits, so they are short; our loop does not wait.
    async with Platform(hold_s=1.0) as platform, platform.worker(echo, env=env, grace_s=0.2) as worker:
        await worker.ready()
        yield platform, worker


def test_a_job_ends_as_its_handler_ends(echo: list[str]) -> None:
    async def scenario() -> None:
        async with running(echo) as (platform, worker):
            answered, raised, refused, objected = await asyncio.gather(
                platform.runsync({"say": "hé 🙂"}),
                platform.runsync({"raise": "boom"}),
                platform.runsync({"error": json.dumps({"code": "invalid_request"})}),
                platform.runsync({"error": {"code": "not a string"}}),
            )
            assert answered["status"] == "COMPLETED"
            assert answered["output"] == {"echo": "hé 🙂"}
            assert answered["workerId"] == worker.id
            assert answered["id"].startswith("sync-")
            assert answered["delayTime"] >= 0
            assert answered["executionTime"] >= 0
            assert raised["status"] == "FAILED"
            assert "boom" in raised["error"]
            assert refused["status"] == "FAILED"
            assert refused["error"] == '{"code": "invalid_request"}'
            assert objected["status"] == "COMPLETED"
            assert "output" not in objected
            assert "error" not in objected

            await platform.until(lambda: platform.counts["ping"] > 0)
            for route in ("take", "stop", "done"):
                assert all(call.headers["Authorization"] == "loopback-key" for call in platform.calls(route))
            assert all(call.query["gpu"] for call in platform.calls("take"))

            id = await platform.run({"say": "never", "progress": "half"})
            await platform.until(lambda: platform.counts["progress"] == 1)
            assert await platform.status(id) | {"delayTime": 0} == {
                "id": id, "status": "IN_PROGRESS", "output": "half", "workerId": worker.id, "delayTime": 0,
            }  # fmt: skip

    asyncio.run(scenario())


def test_chunks_arrive_in_order_and_each_is_polled_once(echo: list[str]) -> None:
    async def scenario() -> None:
        async with running(echo, STREAMING="1") as (platform, worker):
            id = await platform.run({"chunks": 5, "pace": 0.02})
            expected = [{"index": index} for index in range(5)]
            assert [chunk async for chunk in platform.chunks(id)] == expected
            assert (await platform.wait(id))["output"] == expected
            assert platform.calls("done", id)[0].query["isStream"] == "true"

            async with aiohttp.ClientSession() as client:
                polls = [await _json(client.get(f"{platform.url}/stream/{id}")) for _ in range(2)]
            assert polls == [
                {"status": "COMPLETED", "stream": [{"output": chunk} for chunk in expected]},
                {"status": "COMPLETED", "stream": []},
            ]

            stopped = await platform.run({"chunks": 1000, "pace": 0.05})
            await platform.until(lambda: len(platform.jobs[stopped].chunks) > 1)
            assert await platform.cancel(stopped) == {"id": stopped, "status": "CANCELLED"}
            await worker.logged("Job stopped.")
            posted = len(platform.calls("stream", stopped))
            await asyncio.sleep(0.5)
            assert len(platform.calls("stream", stopped)) == posted
            assert platform.calls("done", stopped) == []

    asyncio.run(scenario())


def test_a_job_that_is_cancelled_or_out_of_time_is_stopped_and_nothing_is_posted_for_it(echo: list[str]) -> None:
    async def scenario() -> None:
        async with running(echo) as (platform, worker):
            long = {"say": "never", "sleep": 60}
            cancelled = await platform.run(long)
            slow = await platform.run(long, policy={"executionTimeout": 1000})
            expired = await platform.run(long, policy={"ttl": 1500})
            sibling = await platform.run({"say": "unharmed", "sleep": 1.6})
            # The stock SDK ignores a stop for a job that it has taken and not started yet.
            await worker.logged("Started.", times=4)
            await platform.cancel(cancelled)

            assert (await platform.wait(cancelled))["status"] == "CANCELLED"
            assert (await platform.wait(slow))["status"] == "TIMED_OUT"
            assert (await platform.wait(expired))["status"] == "TIMED_OUT"
            async with aiohttp.ClientSession() as client, client.get(f"{platform.url}/status/{expired}") as reply:
                assert reply.status == 404
            assert (await platform.wait(sibling))["output"] == {"echo": "unharmed"}
            await worker.logged("Job stopped.", times=3)
            for id in (cancelled, slow, expired):
                assert platform.calls("done", id) == []

            # A job that no worker has taken is removed from the queue.
            worker.kill()
            assert await worker.exited() == -signal.SIGKILL
            waiting = await platform.run(long)
            hopeless = await platform.run(long, policy={"ttl": 50})
            assert (await platform.health())["jobs"]["inQueue"] == 2
            await platform.cancel(waiting)
            assert "workerId" not in await platform.wait(hopeless)
            assert (await platform.health())["jobs"] == {
                "completed": 1, "failed": 3, "inProgress": 0, "inQueue": 0, "retried": 0,
            }  # fmt: skip

    asyncio.run(scenario())


def test_each_fault_has_its_effect_on_the_stock_sdk(echo: list[str]) -> None:
    async def scenario() -> None:
        async with running(echo) as (platform, worker):
            hung = platform.fault("stop", hang=True)

            # The stock SDK loses a result that is refused once; our worker sends it again.
            refused = platform.fault("done", status=429)
            lost = await platform.run({"say": "lost"})
            await platform.until(lambda: refused.struck == 1)
            dropped = platform.fault("done", drop=True)
            dropped_job = await platform.run({"say": "lost too"})
            await platform.until(lambda: dropped.struck == 1)
            assert (await platform.runsync({"say": "fine"}))["status"] == "COMPLETED"
            assert [platform.jobs[id].done_posts for id in (lost, dropped_job)] == [0, 0]

            # The result was taken and only the reply was lost: the SDK posts again, to a job that has ended.
            platform.fault("done", status=502, after=True)
            again = await platform.runsync({"say": "twice"})
            assert again["output"] == {"echo": "twice"}

            # Garbage instead of jobs costs only time.
            garbage = platform.fault("take", body="<html>", content_type="text/html", times=2)
            broken = platform.fault("take", body='{"id": ')
            platform.fault("done", delay_s=0.3)
            begin = time.monotonic()
            assert (await platform.runsync({"say": "fine"}))["status"] == "COMPLETED"
            await platform.until(lambda: garbage.struck == 2 and broken.struck == 1)
            assert time.monotonic() - begin >= 0.3

            # A reply with a job is lost: the job stays assigned to a worker that never got it.
            reply_lost = platform.fault("take", drop=True, after=True)
            orphan = await platform.run({"say": "orphan"})
            await platform.until(lambda: reply_lost.struck == 1)
            assert (await platform.runsync({"say": "fine"}))["status"] == "COMPLETED"
            assert (await platform.status(orphan))["status"] == "IN_PROGRESS"

            # A job that is handed out twice runs twice.
            platform.fault("take", duplicate=True)
            twice = await platform.runsync({"say": "twins", "sleep": 0.2})
            await platform.until(lambda: platform.jobs[twice["id"]].done_posts == 2)
            assert platform.jobs[twice["id"]].handed_out == 2

            await platform.until(lambda: platform.jobs[again["id"]].done_posts == 2)
            await platform.until(lambda: hung.struck == 1)

            # One item without an id ends the worker.
            platform.fault("take", item={"input": {}})
            await platform.run({"say": "victim"})
            assert await worker.exited() == 1

    asyncio.run(scenario())


def test_the_error_for_a_worker_that_ends_early_shows_its_log() -> None:
    async def scenario() -> None:
        command = [sys.executable, "-c", "print('no weights'); raise SystemExit(3)"]
        async with Platform() as platform, platform.worker(command) as worker:
            await worker.ready()

    with pytest.raises(RuntimeError, match="exited with 3") as failure:
        asyncio.run(scenario())
    assert "no weights" in failure.value.__notes__[0]


def test_no_process_of_a_worker_outlives_its_block() -> None:
    async def scenario() -> None:
        stubborn = (
            "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
            "os.fork(); print(os.getpid(), flush=True); time.sleep(60)"
        )
        async with Platform() as platform, platform.worker([sys.executable, "-c", stubborn], grace_s=0.1) as worker:
            await worker.logged("\n", times=2)
            pids = {int(line) for line in worker.log.split()}
            assert len(pids) == 2
        assert worker.process.returncode == -signal.SIGKILL
        await eventually(lambda: not any(_alive(pid) for pid in pids))

    asyncio.run(scenario())


def test_requests_that_runpod_refuses_are_refused() -> None:
    async def scenario() -> None:
        async with Platform(max_jobs=1) as platform, aiohttp.ClientSession() as client:

            async def submit(body: bytes, path: str = "/run") -> tuple[int, Any]:
                async with client.post(platform.url + path, data=io.BytesIO(body)) as reply:
                    return reply.status, await reply.json()

            assert (await submit(b"[1]"))[0] == 400
            assert (await submit(b'{"prompt": "no input"}'))[0] == 400
            assert (await submit(b'{"input": NaN}'))[0] == 400
            assert (await submit(b"[" * 100_000))[0] == 400
            assert (await submit(b'{"input": {}, "policy": {"ttl": -1}}'))[0] == 400
            assert (await submit(b'{"input": {}}', "/runsync?wait=300001"))[0] == 400
            assert (await submit(json.dumps({"input": "x" * 10_000_000}).encode()))[0] == 413
            assert (await submit(b"", "/cancel/unknown"))[0] == 404
            assert platform.jobs == {}
            assert (await submit(b" " * 1_000_001, "/job-stream/worker-1/unknown"))[0] == 413
            assert (await submit(b" " * 20_000_001, "/job-done/worker-1/unknown"))[0] == 400

            status, job = await submit(b'{"input": {}}')
            assert (status, job["status"]) == (200, "IN_QUEUE")
            assert (await submit(b'{"input": {}}'))[0] == 429
            assert await submit(b"", f"/status/{job['id']}") == (200, job)
            await submit(b"", f"/cancel/{job['id']}")
            waited = await submit(b'{"input": {}}', "/runsync?wait=20")
            assert waited[1]["status"] == "IN_QUEUE"
            assert list(platform.jobs) == [waited[1]["id"]]

    asyncio.run(scenario())


def test_a_job_take_that_was_given_up_takes_no_job() -> None:
    async def scenario() -> None:
        async with Platform() as platform, aiohttp.ClientSession() as client:
            take = f"{platform.url}/job-take/worker-1?gpu=x"
            with pytest.raises(TimeoutError):
                await client.get(take, timeout=aiohttp.ClientTimeout(total=0.2))
            await asyncio.sleep(0.1)
            id = await platform.run("kept")
            assert (await platform.status(id))["status"] == "IN_QUEUE"
            assert await _json(client.get(take)) == {"id": id, "input": "kept"}

    asyncio.run(scenario())


def test_each_fault_has_its_effect_on_a_client() -> None:
    async def scenario() -> None:
        async with Platform() as platform, aiohttp.ClientSession() as client:

            async def submit(timeout_s: float = 20) -> tuple[int, str]:
                limit = aiohttp.ClientTimeout(total=timeout_s)
                async with client.post(f"{platform.url}/run", json={"input": 0}, timeout=limit) as reply:
                    return reply.status, await reply.text()

            platform.fault("run", status=503, body="later", times=2)
            assert [await submit() for _ in range(2)] == [(503, "later")] * 2
            platform.fault("run", drop=True)
            with pytest.raises(aiohttp.ClientError):
                await submit()
            platform.fault("run", hang=True)
            with pytest.raises(TimeoutError):
                await submit(timeout_s=0.3)
            assert platform.jobs == {}

            platform.fault("run", status=500, after=True)
            assert (await submit())[0] == 500
            platform.fault("run", drop=True, after=True)
            with pytest.raises(aiohttp.ClientError):
                await submit()
            assert len(platform.jobs) == 2

            platform.fault("run", delay_s=0.2)
            begin = time.monotonic()
            assert (await submit())[0] == 200
            assert time.monotonic() - begin >= 0.2
            assert (await submit())[0] == 200
            assert (len(platform.jobs), platform.counts["run"]) == (4, 8)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("route", "how", "reason"),
    [
        ("done", {}, "one thing that goes wrong"),
        ("take", {"duplicate": True, "drop": True}, "one thing that goes wrong"),
        ("done", {"duplicate": True}, "handed out on 'take'"),
        ("take", {"drop": True, "job": "some-id"}, "not about one job"),
    ],
)
def test_a_fault_that_could_never_happen_is_refused(route: Route, how: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Fault(route, **how)


def test_faults_by_chance_are_the_same_for_the_same_seed() -> None:
    async def strikes(seed: int) -> list[int]:
        async with Platform(seed=seed) as platform, aiohttp.ClientSession() as client:
            platform.fault("health", status=503, chance=0.5, times=None)
            statuses = []
            for _ in range(20):
                async with client.get(f"{platform.url}/health") as reply:
                    statuses.append(reply.status)
            return statuses

    first = asyncio.run(strikes(1))
    assert set(first) == {200, 503}
    assert asyncio.run(strikes(1)) == first
    assert asyncio.run(strikes(2)) != first


def test_code_that_is_not_asynchronous_uses_background() -> None:
    with Background() as background:
        assert background.do(background.platform.runsync("waiting", wait_s=0.01))["status"] == "IN_QUEUE"


def test_the_command_line_starts_it_with_a_worker() -> None:
    command = "import os; print(os.environ['RUNPOD_WEBHOOK_GET_JOB']); raise SystemExit(7)"
    done = subprocess.run(
        [sys.executable, "-m", "runpod_local", "--port", "0", "--", sys.executable, "-c", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 7, done.stderr
    assert "curl -s http://127.0.0.1:" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("/v2/local/job-take/$ID?gpu=NVIDIA+L40S")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_command_of_the_readme_serves_the_worker_and_prints_curl_lines_that_work(tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (line,) = (block.strip() for block in blocks if "runpod_local" in block)
    line = line.replace(".venv/bin/python", sys.executable).replace("runpod_local", "runpod_local --port 0")
    log = tmp_path / "log"

    def curls() -> list[str]:
        return [line for line in log.read_text(errors="replace").splitlines() if line.startswith("curl ")]

    async def curl(command: str) -> Any:
        process = await asyncio.create_subprocess_shell(command, stdout=asyncio.subprocess.PIPE)
        return json.loads((await process.communicate())[0])

    async def scenario() -> None:
        with log.open("wb") as out:
            served = await asyncio.create_subprocess_shell(f"exec env {line}", cwd=ROOT, stdout=out, stderr=out)
        try:
            await eventually(lambda: len(curls()) == 7)
            runsync, run, status, stream, cancel, health, openai = curls()
            done = await curl(runsync)
            assert (done["status"], done["output"]["success"]) == ("COMPLETED", True)
            queued = await curl(run)
            assert queued["status"] == "IN_QUEUE"
            of_job = [command.replace("JOB_ID", queued["id"]) for command in (status, stream, cancel)]
            state, chunks, cancelled = [await curl(command) for command in of_job]
            assert state["id"] == cancelled["id"] == queued["id"]
            assert chunks.keys() == {"status", "stream"}
            assert (await curl(health))["workers"]["unhealthy"] == 0
            asked = await asyncio.create_subprocess_shell(openai, stdout=asyncio.subprocess.PIPE)
            assert (await asked.communicate())[0].endswith(b"data: [DONE]\n\n")
        finally:
            served.terminate()
            await served.wait()

    asyncio.run(scenario())


async def _json(request: Any) -> Any:
    async with request as reply:
        return await reply.json()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
