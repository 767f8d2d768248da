"""Nothing is lost: a real worker process, a control plane that breaks, and what the client sees of it.

The worker is `tests.support.echo`, which serves as `python -m handler` does but has no model to load; one process
is shared by the tests of faults. The run with the model is in `test_mixed`.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from handler.queue.intake import LAST_TAKE_S
from handler.queue.sdk import SDK_VERSION
from runpod_local import Background, Platform, Worker, eventually

ROOT = Path(__file__).parents[2]
ECHO = [sys.executable, "-u", "-m", "tests.support.echo"]
ENV = {"PYTHONPATH": str(ROOT), "ANSWER_S": "1", "RUNPOD_PING_INTERVAL": "1000"}
SECRET = "what-a-user-sent"


class Face:
    """A platform and a worker that several tests share; faults end with the test."""

    def __init__(self, background: Background, worker: Worker) -> None:
        self.platform = background.platform
        self.worker = worker
        self.do = background.do


@pytest.fixture(scope="module")
def served() -> Iterator[Face]:
    with Background(Platform(hold_s=5.0)) as background:
        stack = AsyncExitStack()

        async def start() -> Worker:
            worker = await stack.enter_async_context(background.platform.worker(ECHO, env=ENV, grace_s=2))
            await worker.ready()
            return worker

        try:
            yield Face(background, background.do(start()))
        finally:
            background.do(stack.aclose())


@pytest.fixture
def face(served: Face) -> Iterator[Face]:
    yield served
    served.platform.faults.clear()


@asynccontextmanager
async def echo(**env: str) -> AsyncIterator[tuple[Platform, Worker]]:
    """A worker of a test's own."""
    async with Platform(hold_s=20) as platform, platform.worker(ECHO, env={**ENV, **env}) as worker:
        await worker.ready()
        yield platform, worker


async def running(platform: Platform, worker: Worker, given: dict[str, Any], count: int = 1) -> list[str]:
    """Submit jobs and wait until their handler runs; handed out, as the platform sees it, is a moment earlier."""
    ids = [await platform.run({**given, "note": 1}) for _ in range(count)]
    for id_ in ids:
        await worker.logged(f"runs {id_}")
    return ids


FAULTS: dict[str, dict[str, Any]] = {
    "500 three times": {"status": 500, "times": 3},
    "429 four times": {"status": 429, "times": 4},
    "a stray 400": {"status": 400},
    "404 for a second": {"status": 404, "times": 5},
    "a dropped connection, twice": {"drop": True, "times": 2},
    "a connection dropped after the effect": {"drop": True, "after": True},
    "502 after the effect": {"status": 502, "after": True},
    "no answer at all": {"hang": True},
    "a slow answer": {"delay_s": 0.3},
}


class TestResults:
    @pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
    def test_a_result_survives(self, face: Face, fault: dict[str, Any]) -> None:
        async def scenario(platform: Platform) -> None:
            struck = platform.fault("done", **fault)
            job = await platform.runsync({"say": SECRET})
            assert (job["status"], job["output"]) == ("COMPLETED", {"say": SECRET, "runs": 1})
            assert struck.struck == struck.times

        face.do(scenario(face.platform))

    def test_every_try_carries_its_own_jobs_id(self, face: Face) -> None:
        async def scenario(platform: Platform) -> None:
            platform.fault("done", status=503, times=20)
            ids = [await platform.run({"say": index}) for index in range(8)]
            for index, id_ in enumerate(ids):
                assert (await platform.wait(id_))["output"]["say"] == index
                assert {call.headers["X-Request-ID"] for call in platform.calls("done", id_)} == {id_}

        face.do(scenario(face.platform))

    def test_a_result_that_the_platform_refuses_fails_with_that_as_its_error(self, face: Face) -> None:
        async def scenario(platform: Platform) -> None:
            platform.fault("done", status=413)
            job = await platform.runsync({"say": SECRET})
            assert job["status"] == "FAILED"
            assert "HTTP 413" in json.loads(job["error"])["message"]

        face.do(scenario(face.platform))

    def test_what_is_refused_for_long_enough_fails_too(self) -> None:
        async def scenario() -> None:
            async with echo(REFUSED_S="0.5") as (platform, _):
                id_ = await platform.run({"say": SECRET})
                platform.fault("done", status=400, times=5, job=id_)
                job = await platform.wait(id_)
                assert (job["status"], "HTTP 400" in json.loads(job["error"])["message"]) == ("FAILED", True)

        asyncio.run(scenario())

    @pytest.mark.parametrize("odd", ["nan", "surrogate", "object"])
    def test_a_result_that_is_not_json_fails_and_does_not_hang(self, face: Face, odd: str) -> None:
        job = face.do(face.platform.runsync({"odd": odd}, wait_s=5))
        assert (job["status"], json.loads(job["error"])["code"]) == ("FAILED", "internal")
        assert len(face.platform.calls("done", job["id"])) == 1  # it was never sent

    @pytest.mark.parametrize("given", [{"raise": SECRET}, {"exit": 3}])
    def test_a_handler_that_breaks_fails_its_job_alone_and_quotes_nothing(
        self, face: Face, given: dict[str, Any]
    ) -> None:
        async def scenario(platform: Platform) -> None:
            sibling = await platform.run({"say": 1, "sleep": 0.5})
            job = await platform.runsync(given)
            assert (job["status"], json.loads(job["error"])["code"]) == ("FAILED", "internal")
            assert SECRET not in job["error"]
            assert (await platform.wait(sibling))["status"] == "COMPLETED"

        face.do(scenario(face.platform))

    def test_a_result_that_cannot_be_delivered_is_logged_by_id_and_size_and_delays_no_other(self) -> None:
        async def scenario() -> None:
            async with echo(GIVE_UP_S="1") as (platform, worker):
                lost = await platform.run({"say": SECRET})
                platform.fault("done", status=500, times=None, job=lost)
                await worker.logged("result of ")
                (line,) = (json.loads(line) for line in worker.log.splitlines() if "result of " in line)
                assert line["requestId"] == lost
                assert " bytes lost after " in line["message"]
                assert SECRET not in worker.log
                assert (await platform.runsync({"say": 1}))["status"] == "COMPLETED"

        asyncio.run(scenario())

    @pytest.mark.parametrize("streams", [False, True], ids=["object", "stream"])
    def test_a_reply_with_an_error_in_it_is_a_completed_job(self, face: Face, streams: bool) -> None:
        reply = {"say": "an error", "success": False, "error": "the model gave no prompt"}
        job = face.do(face.platform.runsync({"say": "an error", "reply": reply, "stream": streams}))
        wanted = {**reply, "runs": 1}
        assert (job["status"], job["output"]) == ("COMPLETED", [wanted] if streams else wanted)


class TestChunks:
    @pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
    def test_a_stream_survives(self, face: Face, fault: dict[str, Any]) -> None:
        async def scenario(platform: Platform) -> None:
            platform.fault("stream", **fault)
            id_ = await platform.run({"say": 1, "chunks": 5, "stream": True})
            job = await platform.wait(id_)
            whole = [*({"index": index, "delta": f"{index} "} for index in range(5)), {"say": 1, "runs": 1}]
            assert (job["status"], job["output"]) == ("COMPLETED", whole)
            # A client drops what it has by index; order is kept.
            posted = platform.jobs[id_].chunks
            once = [chunk for at, chunk in enumerate(posted) if chunk not in posted[:at]]
            assert once == whole

        face.do(scenario(face.platform))

    def test_a_chunk_that_is_refused_leaves_the_stream_and_not_the_result(self, face: Face) -> None:
        async def scenario(platform: Platform) -> None:
            platform.fault("stream", status=413)
            id_ = await platform.run({"chunks": 3, "stream": True})
            job = await platform.wait(id_)
            assert [chunk.get("index") for chunk in job["output"]] == [0, 1, 2, None]
            assert [chunk.get("index") for chunk in platform.jobs[id_].chunks] == [1, 2, None]

        face.do(scenario(face.platform))


class TestStops:
    def test_a_cancelled_job_is_left_at_once_and_posts_nothing(self, face: Face) -> None:
        async def scenario(platform: Platform) -> None:
            sibling = await platform.run({"sleep": 1, "say": 2})
            (id_,) = await running(platform, face.worker, {"sleep": 60})
            await platform.cancel(id_)
            await face.worker.logged(f"left {id_}", timeout_s=5)
            assert (await platform.wait(sibling))["output"]["say"] == 2
            assert platform.calls("done", id_) == []

        face.do(scenario(face.platform))

    @pytest.mark.parametrize("policy", [{"executionTimeout": 800}, {"ttl": 800}], ids=["executionTimeout", "ttl"])
    def test_a_job_out_of_time_is_left_at_once_and_posts_nothing(self, face: Face, policy: dict[str, int]) -> None:
        async def scenario(platform: Platform) -> None:
            id_ = await platform.run({"sleep": 60, "note": 1}, policy=policy)
            await face.worker.logged(f"left {id_}", timeout_s=5)
            assert platform.calls("done", id_) == []

        face.do(scenario(face.platform))

    def test_a_stream_that_is_cancelled_while_a_chunk_is_posted_is_left_at_once(self, face: Face) -> None:
        async def scenario(platform: Platform) -> None:
            platform.fault("stream", hang=True, times=None)
            id_ = await platform.run({"chunks": 3, "note": 1, "stream": True})
            await platform.until(lambda: bool(platform.calls("stream", id_)))
            await platform.cancel(id_)
            await face.worker.logged(f"left {id_}", timeout_s=5)
            assert platform.calls("done", id_) == []

        face.do(scenario(face.platform))

    @pytest.mark.parametrize("fault", [{"status": 500}, {"body": "<html>"}, {"status": 204}, {"body": "[]"}])
    def test_a_stop_channel_that_breaks_is_asked_gently_and_works_again(
        self, face: Face, fault: dict[str, Any]
    ) -> None:
        async def scenario(platform: Platform) -> None:
            broken = platform.fault("stop", times=None, **fault)
            await platform.cancel(*await running(platform, face.worker, {"sleep": 3}))
            await asyncio.sleep(1)
            assert 0 < broken.struck < 20
            platform.faults.clear()
            (id_,) = await running(platform, face.worker, {"sleep": 60})
            await platform.cancel(id_)
            await face.worker.logged(f"left {id_}", timeout_s=10)

        face.do(scenario(face.platform))


class TestTakes:
    @pytest.mark.parametrize(
        "fault",
        [
            {"status": 500},
            {"status": 404},
            {"status": 429},
            {"status": 204},
            {"status": 400},
            {"drop": True},
            {"body": "{"},
            {"body": "<html>", "content_type": "text/html"},
            {"body": "7"},
        ],
        ids=str,
    )
    def test_a_broken_take_is_asked_gently_and_works_again(self, face: Face, fault: dict[str, Any]) -> None:
        async def scenario(platform: Platform) -> None:
            await asyncio.sleep(0.2)  # until a take is held: the worker may still be asking
            broken = platform.fault("take", times=None, **fault)
            await platform.runsync({})  # ends the take that is held
            await asyncio.sleep(1)
            assert 0 < broken.struck < 20
            platform.faults.clear()
            assert (await platform.runsync({"say": 1}, wait_s=10))["status"] == "COMPLETED"

        face.do(scenario(face.platform))

    def test_a_job_that_python_cannot_parse_leaves_the_others_of_its_reply_alone(self, face: Face) -> None:
        async def scenario(platform: Platform) -> None:
            deep = '{"id": "deep", "input": ' + "[" * 50_000 + "]" * 50_000 + "}"
            platform.fault("take", body=f'[{deep}, {{"id": "sound", "input": {{"say": 1}}}}]')
            await platform.runsync({})
            await platform.until(lambda: all(platform.calls("done", id_) for id_ in ("deep", "sound")), 10)
            assert "error" in platform.calls("done", "deep")[0].body
            assert platform.calls("done", "sound")[0].body["output"]["say"] == 1

        face.do(scenario(face.platform))

    @pytest.mark.parametrize("item", [{"input": {}}, {"id": 7, "input": {}}, {"id": ""}, [], "job"], ids=str)
    def test_a_malformed_item_leaves_the_others_of_its_reply_alone(self, face: Face, item: Any) -> None:
        async def scenario(platform: Platform) -> None:
            first = await platform.run({"sleep": 0.5, "say": 1})
            platform.fault("take", item=item)
            ids = [first, *[await platform.run({"say": 2}) for _ in range(4)]]
            assert [(await platform.wait(id_))["status"] for id_ in ids] == ["COMPLETED"] * 5

        face.do(scenario(face.platform))

    def test_a_job_handed_out_twice_at_once_runs_once(self, face: Face) -> None:
        async def scenario(platform: Platform) -> None:
            platform.fault("take", duplicate=True)
            job = await platform.runsync({"say": 1, "sleep": 0.3})
            assert (platform.jobs[job["id"]].handed_out, job["output"]) == (2, {"say": 1, "runs": 1})
            assert platform.jobs[job["id"]].done_posts == 1

        face.do(scenario(face.platform))

    @pytest.mark.parametrize(("given", "runs"), [({}, 1), ({"fail": 1}, 2)], ids=["answered", "failed"])
    def test_an_answered_job_that_comes_again_is_answered_again_but_a_failed_one_runs_as_retry_wants_it(
        self, face: Face, given: dict[str, Any], runs: int
    ) -> None:
        async def scenario(platform: Platform) -> None:
            ended = platform.jobs[(await platform.runsync({**given, "say": 1, "note": 1}))["id"]]
            platform.fault("take", item=json.loads(ended.wire))
            assert (await platform.runsync({"say": 2}))["status"] == "COMPLETED"
            await platform.until(lambda: ended.done_posts == 2, 5)
            first, second = platform.calls("done", ended.id)
            assert first.body == second.body
            assert face.worker.log.count(f"left {ended.id}") == runs

        face.do(scenario(face.platform))

    def test_a_job_is_picked_up_without_a_wait_and_a_full_worker_takes_as_soon_as_it_has_room(self, face: Face) -> None:
        async def scenario(platform: Platform) -> None:
            began = time.monotonic()
            ids = [await platform.run({"sleep": 0.2}) for _ in range(40)]  # four rounds of what it holds at a time
            for id_ in ids:
                await platform.wait(id_)
            assert time.monotonic() - began < 2.0
            holding = [job for job in platform.jobs.values() if job.state == "IN_PROGRESS"]
            assert not holding

        face.do(scenario(face.platform))

    def test_pings_that_fail_leave_jobs_alone(self, face: Face) -> None:
        async def scenario(platform: Platform) -> None:
            platform.fault("ping", status=500, times=2)
            failed = platform.fault("ping", hang=True)
            await platform.until(lambda: failed.struck == 1)
            assert (await platform.runsync({"say": 1}))["status"] == "COMPLETED"

        face.do(scenario(face.platform))


class TestTheEnd:
    def test_an_idle_worker_leaves_at_once(self) -> None:
        async def scenario() -> None:
            async with echo() as (_, worker):
                began = time.monotonic()
                worker.terminate()
                assert await worker.exited() == 0
                assert time.monotonic() - began < 2.0

        asyncio.run(scenario())

    @pytest.mark.parametrize("streams", [False, True], ids=["object", "stream"])
    def test_what_runs_is_finished_and_what_is_offered_meanwhile_stays_in_the_queue(self, streams: bool) -> None:
        async def scenario() -> None:
            async with echo() as (platform, worker):
                ids = await running(platform, worker, {"sleep": 2, "chunks": 1, "stream": streams}, 4)
                began = time.monotonic()
                worker.terminate()
                await asyncio.sleep(2 * LAST_TAKE_S)
                late = await platform.run({})
                assert await worker.exited() == 0
                assert time.monotonic() - began < 4.0
                assert [platform.jobs[id_].state for id_ in ids] == ["COMPLETED"] * 4
                assert platform.jobs[late].state == "IN_QUEUE"

        asyncio.run(scenario())

    @pytest.mark.parametrize("streams", [False, True], ids=["object", "stream"])
    def test_a_job_that_is_on_its_way_when_the_worker_is_told_to_stop_is_answered(self, streams: bool) -> None:
        async def scenario() -> None:
            async with echo() as (platform, worker):
                platform.fault("take", delay_s=0.6 * LAST_TAKE_S, after=True)
                id_ = await platform.run({"say": 1, "stream": streams})
                await eventually(lambda: platform.jobs[id_].state == "IN_PROGRESS")  # handed out, not here yet
                worker.terminate()
                assert await worker.exited() == 0
                assert platform.jobs[id_].state == "COMPLETED"

        asyncio.run(scenario())

    def test_past_the_grace_period_the_rest_is_answered_as_worth_another_try(self) -> None:
        async def scenario() -> None:
            async with echo(GRACE_S="0.5") as (platform, worker):
                ids = await running(platform, worker, {"sleep": 60}, 3)
                began = time.monotonic()
                worker.terminate()
                assert await worker.exited() == 0
                assert time.monotonic() - began < 3.0
                errors = [json.loads((await platform.wait(id_))["error"]) for id_ in ids]
                assert {(error["code"], error["retryable"]) for error in errors} == {("engine_failed", True)}

        asyncio.run(scenario())

    def test_a_job_can_still_be_cancelled_while_the_worker_waits_for_it(self) -> None:
        async def scenario() -> None:
            async with echo() as (platform, worker):
                (id_,) = await running(platform, worker, {"sleep": 60})
                worker.terminate()
                await asyncio.sleep(0.3)
                await platform.cancel(id_)
                assert await worker.exited(5) == 0
                assert platform.calls("done", id_) == []

        asyncio.run(scenario())

    def test_a_worker_whose_engine_broke_answers_what_it_has_takes_no_more_and_leaves_with_an_error(self) -> None:
        async def scenario() -> None:
            async with echo() as (platform, worker):
                hung = await running(platform, worker, {"sleep": 60}, 3)
                broke = await platform.runsync({"broken": "a step of the engine hangs"})
                assert broke["status"] == "COMPLETED"
                await worker.logged("the worker ends")
                await asyncio.sleep(1.5 * LAST_TAKE_S)
                late = await platform.run({})
                assert await worker.exited(10) == 1
                errors = [json.loads((await platform.wait(id_))["error"]) for id_ in hung]
                assert {(error["code"], error["retryable"]) for error in errors} == {("engine_failed", True)}
                assert platform.jobs[late].state == "IN_QUEUE"
                assert "the worker ends: a step of the engine hangs" in worker.log
                pings = platform.counts["ping"]
                await asyncio.sleep(1.5)
                assert platform.counts["ping"] == pings, "the heartbeat outlived its worker"

        asyncio.run(scenario())

    def test_the_real_worker_leaves_while_it_loads(self) -> None:
        async def scenario() -> None:
            command = [sys.executable, "-u", "-m", "handler"]
            async with Platform() as platform, platform.worker(command, env={"MODEL_PATH": "demo"}) as worker:
                await worker.logged("imports")
                worker.terminate()
                # 143 is its own doing; as PID 1 it would otherwise not end at all.
                assert await worker.exited(20) == 143

        asyncio.run(scenario())


class TestTheSDK:
    def test_importing_it_surveys_no_processor_and_leaves_no_stand_in_behind(self) -> None:
        done = sdk("print(sdk.load_sdk().__version__, 'cpuinfo' in sys.modules)")
        assert done == f"{SDK_VERSION} False"

    def test_a_true_module_that_was_imported_before_stays(self) -> None:
        assert sdk("import cpuinfo; sdk.load_sdk(); print(sys.modules['cpuinfo'] is cpuinfo)") == "True"

    def test_another_version_of_the_sdk_gets_the_true_module(self) -> None:
        assert sdk("sdk.SDK_VERSION = 'x'; sdk.load_sdk(); print(sys.modules['cpuinfo'].__file__ != '')") == "True"

    def test_the_loop_is_ours(self, face: Face) -> None:
        assert "the SDK's own loop" not in face.worker.log

    def test_another_version_of_the_sdk_serves_objects_with_its_own_loop_and_says_so(self) -> None:
        async def scenario() -> None:
            async with echo(STOCK="true") as (platform, worker):
                output = (await platform.runsync({"say": 1, "chunks": 1}))["output"]
                assert output == {"say": 1, "runs": 1}
                call = {"openai_route": "/v1/chat/completions", "openai_input": {"say": 2}}
                assert (await platform.runsync(call))["output"] == {"say": 2, "runs": 1}
                failed = await platform.runsync({"fail": 1})
                assert (failed["status"], failed["error"]) == ("FAILED", "as told")
                assert worker.log.count("the SDK's own loop serves, which may lose results and streams none") == 1

        asyncio.run(scenario())

    def test_another_version_of_the_sdk_refuses_to_stream_in_the_callers_shape(self) -> None:
        async def scenario() -> None:
            async with echo(STOCK="true") as (platform, _):
                native = await platform.runsync({"say": 1, "stream": True})
                error = json.loads(native["error"])
                assert (native["status"], error["code"], error["field"]) == ("FAILED", "unsupported", "stream")
                call = {"openai_route": "/v1/chat/completions", "openai_input": {"stream": True}}
                openai = await platform.runsync(call)
                error = json.loads(openai["error"])["error"]
                assert (openai["status"], error["code"], error["param"]) == ("FAILED", "unsupported", "stream")

        asyncio.run(scenario())


def sdk(script: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", f"import sys; from handler.queue import sdk; {script}"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout.strip()
