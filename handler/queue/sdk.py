"""The RunPod SDK, with its loop replaced by ours (`intake`). The only module that imports the SDK.

`runpod.serverless.start` still starts everything: arguments, fitness checks, the heartbeat process. Its loop loses a
result to one dropped connection, waits a second when it is full and drops jobs on SIGTERM: `bench/platform.py` and
`tests/test_platform.py` show it.
"""

import asyncio
import importlib
import logging
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import ModuleType
from typing import Any, NoReturn

import aiohttp

from handler.queue.answer import Handler
from handler.queue.delivery import Patience, Post, Receipt
from handler.queue.encoding import decode
from handler.queue.intake import Intake

_log = logging.getLogger(__name__)

#: The one version whose private names we know; another one gets its own loop back.
SDK_VERSION = "1.12.0"
#: What the SDK's `worker.main` starts, and we put ours in the place of
REPLACED = ("runpod.serverless.modules.rp_scale", "JobScaler")
#: What ours builds on: where the platform is, how to log in, who is in progress (for the heartbeats), the log
USED = (
    ("runpod.http_client", "AsyncClientSession"),
    ("runpod.serverless.modules.rp_http", "JOB_DONE_URL"),
    ("runpod.serverless.modules.rp_http", "JOB_STREAM_URL"),
    ("runpod.serverless.modules.rp_job", "_job_get_url"),
    ("runpod.serverless.modules.rp_job", "_job_stop_url"),
    ("runpod.serverless.modules.rp_logger", "RunPodLogger"),
    ("runpod.serverless.modules.worker_state", "JobsProgress"),
)

#: The platform holds a take and a stop open while it has nothing; one held for longer is taken for a dead connection.
HOLD = aiohttp.ClientTimeout(total=90, sock_connect=10)
#: The SDK's loop looks for more only once a second when it is full: with as many jobs as slots a fifth of the slots
#: idle (79 % busy at 1.0, 96 % at 1.5).
STOCK_OVERFETCH = 1.5


def serve(
    handler: Handler,
    *,
    slots: int,
    grace_s: float = 30.0,
    broken: Callable[[], str | None] = lambda: None,
    ready: Callable[[], None] = lambda: None,
    patience: Patience | None = None,
) -> int:
    """Take jobs for an engine of so many slots until the platform says stop; a generator function streams.

    `broken` says why the engine cannot go on, or None; `ready` is called when the first job is about to be asked for.
    Returns the exit status: 0, or 1 where it was broken.
    """
    runpod = load_sdk()
    status = 0

    class Loop:
        """What the SDK makes of its config and starts."""

        def __init__(self, config: dict[str, Any]) -> None: ...

        def start(self) -> None:
            nonlocal status
            status = asyncio.run(self._run())

        async def _run(self) -> int:
            async with importlib.import_module("runpod.http_client").AsyncClientSession() as session:
                wire = _Platform(session, patience or Patience())
                ready()
                return await Intake(wire, handler, capacity=overfetched(slots), grace_s=grace_s, broken=broken).run()

    def engine_works() -> None:
        if reason := broken():
            raise RuntimeError(reason)

    runpod.serverless.register_fitness_check(engine_works)
    if missing := _unknown_sdk():
        _log.warning("%s: the SDK's own loop serves, which may lose results", missing)
        ready()
    else:
        module, name = REPLACED
        setattr(importlib.import_module(module), name, Loop)
    stock = round(STOCK_OVERFETCH * slots)
    # Concurrency is a constant: whenever it changes, the stock loop waits for all jobs before it takes the next.
    runpod.serverless.start(
        {"handler": handler, "concurrency_modifier": lambda current: stock, "return_aggregate_stream": True}
    )
    return status


def load_sdk() -> Any:
    """Import the SDK: 0.3 s instead of the 1.4 s that it takes by itself."""
    # Below INFO the SDK logs whole inputs and outputs. Its logger reads the variable when it is imported.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", os.environ.get("RUNPOD_DEBUG_LEVEL", "INFO"))
    with _no_survey():
        return importlib.import_module("runpod")


@contextmanager
def _no_survey() -> Iterator[None]:
    """A stand-in for `cpuinfo`, which surveys the processor for a second.

    The SDK that we know does so on import, for a field of a debugger that we never turn on (rp_debugger.py); another
    one gets the true module.
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


def leave(status: int) -> NoReturn:
    """End this process and its heartbeat, whatever its threads hang in."""
    for child in multiprocessing.active_children():
        child.kill()  # on its own, it would tell the platform for ever that its worker lives
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def overfetched(slots: int) -> int:
    """Jobs held for so many slots: a quarter more, which wait at the engine's door while others are being delivered.

    More would keep jobs from workers that are free, and let them wait on the clock of their executionTimeout.
    """
    return slots + max(1, slots // 4)


def _unknown_sdk() -> str | None:
    """Why the SDK is not the one that we know, if it is not."""
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
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def jobs(self) -> list[Any]:
        async with self._response as response:
            # 400 is how a worker that FlashBoot is about to pause is told that there is nothing.
            if response.status in (204, 400):
                return []
            response.raise_for_status()
            body = await response.read()
        match decode(body) if body else []:
            case list() as jobs:
                return jobs
            case dict() as job:
                return [job]
        raise ValueError("a reply that is neither a job nor a list of them")


class _Platform:
    """`intake.Wire`, by the SDK's URLs and credentials."""

    def __init__(self, session: aiohttp.ClientSession, patience: Patience) -> None:
        from runpod.serverless.modules import rp_http, rp_job, rp_logger, worker_state

        self._session = session
        self._post = Post(session, patience)
        self._take_url: Callable[[int], str] = rp_job._job_get_url
        self._stop_url: str | None = rp_job._job_stop_url()
        self._chunk_url: str = f"{rp_http.JOB_STREAM_URL}&isStream=false"
        self._result_url: str = rp_http.JOB_DONE_URL
        self._progress = worker_state.JobsProgress()
        self._log = rp_logger.RunPodLogger()

    async def take(self, count: int) -> _Reply:
        return _Reply(await self._session.get(self._take_url(count), timeout=HOLD))

    async def stops(self) -> list[str]:
        if self._stop_url is None:
            self.warn("the platform gives no URL for stops: a cancelled job runs to its end")
            await asyncio.Event().wait()
        async with self._session.get(str(self._stop_url), timeout=HOLD) as response:
            if response.status == 204:
                return []
            response.raise_for_status()
            told = decode(await response.read())
        return [id_ for id_ in told["jobsToStop"] if isinstance(id_, str)]

    async def chunk(self, job_id: str, body: bytes, *, tries: int | None = None) -> Receipt:
        return await self._post(self._chunk_url.replace("$ID", job_id), body, job_id, tries=tries)

    async def result(self, job_id: str, body: bytes, *, streamed: bool) -> Receipt:
        url = f"{self._result_url.replace('$ID', job_id)}&isStream={str(streamed).lower()}"
        return await self._post(url, body, job_id)

    def started(self, job_id: str) -> None:
        self._progress.add(job_id)

    def ended(self, job_id: str) -> None:
        self._progress.remove(job_id)

    def warn(self, message: str, job_id: str | None = None) -> None:
        self._log.warn(message, job_id)
