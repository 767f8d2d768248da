"""The RunPod SDK, with its loop replaced by ours (`intake`). The only module that imports the SDK.

`runpod.serverless.start` still starts everything: arguments, fitness checks, the heartbeat process. Its loop loses a
result to one dropped connection, waits a second when it is full and drops jobs on SIGTERM; `bench/platform.py` measures
both loops, and `tests/queue/test_delivery.py` tests ours against each of these faults.
"""

import asyncio
import importlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from importlib.metadata import version
from types import ModuleType
from typing import Any, assert_never

import aiohttp

from handler import log
from handler.api.failure import Failure
from handler.errors import Unsupported
from handler.pool import Pool
from handler.queue.delivery import Post, Receipt, RetryPolicy
from handler.queue.encoding import JsonObject, decode
from handler.queue.intake import Health, Intake
from handler.queue.leaving import BoundedEnd
from handler.queue.output import Chunk, Failed, Handler, Job, Result, Way
from handler.queue.reading import Handout

#: The one version whose private names we know; another one gets its own loop back.
SDK_VERSION = "1.12.0"
#: What the SDK's `worker.main` starts; ours takes its place
REPLACED = ("runpod.serverless.modules.rp_scale", "JobScaler")
#: What ours uses of it: the platform's URLs, the session with its credentials, the list of jobs for the heartbeats
USED = (
    ("runpod.http_client", "AsyncClientSession"),
    ("runpod.serverless.modules.rp_http", "JOB_DONE_URL"),
    ("runpod.serverless.modules.rp_http", "JOB_STREAM_URL"),
    ("runpod.serverless.modules.rp_job", "_job_get_url"),
    ("runpod.serverless.modules.rp_job", "_job_stop_url"),
    ("runpod.serverless.modules.worker_state", "JobsProgress"),
)

#: The platform holds a take and a stop open while it has nothing; one held for longer counts as a dead connection.
HOLD = aiohttp.ClientTimeout(total=90, sock_connect=10)
#: The SDK's loop looks for more only once a second when it is full: with as many jobs as slots a fifth of the slots
#: idle (79 % busy at 1.0, 96 % at 1.5).
STOCK_OVERFETCH = 1.5
#: what a job that asks to be streamed gets of that loop
NO_STREAM = Unsupported(
    "stream: this worker runs with a version of the SDK that it does not know, and answers with one object; leave "
    "stream out",
    field="stream",
)


def serve(
    handler: Handler,
    *,
    slots: int,
    fault: Callable[[], str | None],
    settled: Callable[[float], bool],
    health: Health,
    grace_s: float = 30.0,
    policy: RetryPolicy | None = None,
) -> int:
    """Take jobs until the platform says stop; returns the exit status: 0, or 1 where the worker cannot go on.

    Args:
        slots: jobs that the engine runs at a time.
        fault: why the engine cannot go on; None while it can.
        settled: waits so many seconds until no CUDA graph is left to capture; False where one is.
        health: gets the state: ready, draining, or broken.
        grace_s: seconds that running jobs get after a stop.
        policy: how long a message is sent again.
    """
    runpod = load_sdk()
    status = 0

    class Loop:
        """The loop that the SDK makes of its config and starts."""

        def __init__(self, config: dict[str, Any]) -> None: ...

        def start(self) -> None:
            nonlocal status
            runner = asyncio.Runner()
            status = runner.run(self._run())
            runner.get_loop().close()  # not the runner, which would wait for threads: they may not end

        async def _run(self) -> int:
            async with importlib.import_module("runpod.http_client").AsyncClientSession() as session:
                health.ready()
                intake = Intake(
                    _Platform(session, policy or RetryPolicy()),
                    handler,
                    capacity=overfetched(slots),
                    grace_s=grace_s,
                    fault=fault,
                    health=BoundedEnd(health, grace_s),
                )
                return await intake.run()

    def engine_works() -> None:
        # The SDK's own checks, which come next, synchronise the device: in a capture that is an error for both.
        while not settled(1.0) and fault() is None:
            pass
        if reason := fault():
            raise RuntimeError(reason)

    runpod.serverless.register_fitness_check(engine_works)
    if missing := _unknown_sdk():
        log.warn(
            f"{missing}: the SDK's own loop serves, which may lose results and streams none: each job gets one object, "
            f"and stream: true is refused; install runpod {SDK_VERSION}"
        )
        health.ready()
    else:
        module, name = REPLACED
        setattr(importlib.import_module(module), name, Loop)
    stock = round(STOCK_OVERFETCH * slots)
    # Concurrency is a constant: whenever it changes, the stock loop waits for all jobs before it takes the next.
    runpod.serverless.start(
        {
            "handler": stock_handler(handler),
            "concurrency_modifier": lambda current: stock,
        }
    )
    return status


def stock_handler(handler: Handler) -> Callable[[Job], Any]:
    """The handler as the SDK's own loop and API server call it: one object for each job.

    They stream for a generator function alone, and then every job, so that a job that asks for it is refused here. They
    take any output with a key `error` for a failure, so that here a result with that key fails its job.
    """

    async def answer(job: Job) -> JsonObject:
        way = Way.of(job)
        if way.wants_pieces:
            *_, failed = way.failure(Failure.of(NO_STREAM))
            assert isinstance(failed, Failed)
            return {"error": failed.text}
        async with aclosing(handler(job)) as outputs:
            async for output in outputs:
                match output:
                    case Chunk():
                        continue
                    case Result():
                        assert isinstance(output.value, dict), "text is for those who asked to be streamed"
                        return output.value
                    case Failed():
                        return {"error": output.text}
                    case _:
                        assert_never(output)
        raise RuntimeError("the handler ended without a result")

    return answer


def load_sdk() -> Any:
    """Import the SDK: 0.3 s instead of the 1.4 s that it takes by itself."""
    # Below INFO the SDK logs whole inputs and outputs. Its logger reads the variable when it is imported.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", os.environ.get("RUNPOD_DEBUG_LEVEL", "INFO"))
    with _no_survey():
        return importlib.import_module("runpod")


@contextmanager
def _no_survey() -> Iterator[None]:
    """A stand-in for `cpuinfo`, which surveys the processor for a second.

    The SDK of `SDK_VERSION` does so on import, for a debugger that this worker never turns on (rp_debugger.py);
    another version gets the true module.
    """
    if version("runpod") != SDK_VERSION:
        yield
        return
    true = sys.modules.get("cpuinfo")
    stand_in: Any = ModuleType("cpuinfo")
    stand_in.get_cpu_info = lambda: {"brand_raw": platform.machine()}
    sys.modules["cpuinfo"] = stand_in
    try:
        yield
    finally:
        del sys.modules["cpuinfo"]
        if true is not None:
            sys.modules["cpuinfo"] = true


def overfetched(slots: int) -> int:
    """Jobs held for so many slots: a quarter more, which wait in the engine's queue while others are delivered.

    More would keep jobs from workers that are free, and their executionTimeout runs while they wait here.
    """
    return slots + max(1, slots // 4)


def _unknown_sdk() -> str | None:
    """How the SDK differs from the one that this module knows; None where it does not."""
    import runpod

    if runpod.__version__ != SDK_VERSION:
        return f"runpod {runpod.__version__} is not {SDK_VERSION}"
    for module, name in (REPLACED, *USED):
        try:
            getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            return f"runpod {runpod.__version__} has no {module}.{name}"
    return None


class _Reply:
    def __init__(self, response: aiohttp.ClientResponse, reading: Pool) -> None:
        self._response = response
        self._reading = reading

    async def jobs(self) -> Handout:
        async with self._response as response:
            # The platform answers 400 to a worker that FlashBoot is about to pause: there are no jobs.
            if response.status in (204, 400):
                return Handout.of(b"", self._reading)
            response.raise_for_status()
            return Handout.of(await response.read(), self._reading)


class _Platform:
    """`intake.Platform`, by the SDK's URLs and credentials."""

    def __init__(self, session: aiohttp.ClientSession, policy: RetryPolicy) -> None:
        from runpod.serverless.modules import rp_http, rp_job, worker_state

        self._session = session
        self._post = Post(session, policy)
        self._take_url: Callable[[int], str] = rp_job._job_get_url
        self._stop_url: str | None = rp_job._job_stop_url()
        self._chunk_url: str = f"{rp_http.JOB_STREAM_URL}&isStream=false"
        self._result_url: str = rp_http.JOB_DONE_URL
        self._progress = worker_state.JobsProgress()
        self._reading = Pool("reading", 1)

    async def take(self, count: int) -> _Reply:
        return _Reply(await self._session.get(self._take_url(count), timeout=HOLD), self._reading)

    async def stops(self) -> list[str]:
        if self._stop_url is None:
            log.warn("the platform gives no URL for stops: a cancelled job runs to its end")
            await asyncio.Event().wait()
        async with self._session.get(str(self._stop_url), timeout=HOLD) as response:
            if response.status == 204:
                return []
            response.raise_for_status()
            reply = decode(await response.read())
        return [id_ for id_ in reply["jobsToStop"] if isinstance(id_, str)]

    async def chunk(self, job_id: str, body: bytes, *, tries: int | None = None, once: bool = False) -> Receipt:
        return await self._post(self._chunk_url.replace("$ID", job_id), body, job_id, tries=tries, once=once)

    async def result(self, job_id: str, body: bytes, *, streamed: bool) -> Receipt:
        url = f"{self._result_url.replace('$ID', job_id)}&isStream={str(streamed).lower()}"
        return await self._post(url, body, job_id)

    def started(self, job_id: str) -> None:
        self._progress.add(job_id)

    def ended(self, job_id: str) -> None:
        self._progress.remove(job_id)
