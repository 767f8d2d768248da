"""A small RunPod control plane on loopback, so that the real worker process can be started against it.

It speaks both sides of the queue: to the worker, the wire of runpod 1.12.0 as it was recorded (job-take, job-stop,
job-stream, job-done, ping); to clients, `/run`, `/runsync`, `/status`, `/stream`, `/cancel` and `/health`. Faults are
declared per route (`Fault`), and every request is recorded. Where RunPod's behaviour is not known, a comment says which
one was chosen. It knows nothing of our handler: any worker built on the SDK runs against it.

    async with Platform() as platform, platform.worker([sys.executable, "-u", "-m", "handler"]):
        platform.fault("done", status=429)
        print(await platform.runsync({"operation": "info"}))

`python -m tests.platform [--port 8600] [-- COMMAND …]` serves it to a developer and starts COMMAND as its worker.
Code that is not asynchronous wraps it in `Background`.
"""

import argparse
import asyncio
import json
import math
import os
import random
import shlex
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal, Self, TypeVar

from aiohttp import web

# Spelled as people say them: "take" is job-take and job-take-batch, "progress" is an IN_PROGRESS body on job-done, and
# "poll" is the client's /stream, because "stream" is what the worker posts.
Route = Literal[
    "take", "stop", "stream", "done", "progress", "ping",
    "run", "runsync", "status", "poll", "cancel", "health",
]  # fmt: skip
State = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]
ABOUT_A_JOB: frozenset[Route] = frozenset({"stream", "done", "progress", "status", "poll", "cancel"})
Stage = Literal["before", "handout", "after"]

MB = 1_000_000
# RunPod's documented payload limits; past them the answer is 413, but for job-done the 400 that users report. Larger
# bodies are read up to MAX_READ, so that a client sees that answer and not a broken connection.
LIMITS: dict[Route, int] = {"run": 10 * MB, "runsync": 20 * MB, "stream": 1 * MB, "done": 20 * MB}
MAX_BODY = 1 * MB
MAX_READ = 64 * MB
MAX_WAIT_MS = 300_000
EXECUTION_TIMEOUT_MS = 600_000
TTL_MS = 24 * 3_600_000

# The record of requests is bounded: a worker that spins on a broken job-take sends thousands a second.
KEPT_CALLS = 10_000
KEPT_BODY = 64_000
# A worker that has not been heard of for this long no longer counts in /health.
WORKER_GONE_S = 30.0

T = TypeVar("T")


@dataclass
class Fault:
    """What goes wrong on one route: `times` times (None: always), each with probability `chance`.

    By itself it strikes in place of the request's effect; with `after`, once the effect has happened, so that only the
    reply is lost or wrong. For job-take and job-stop, `after` waits for a reply that carries something.
    """

    route: Route
    status: int | None = None  # answer this status, with `body`
    body: str | None = None  # garbage: answer this text (with 200 unless `status` is set)
    content_type: str = "application/json"
    drop: bool = False  # close the connection without an answer
    hang: bool = False  # never answer
    delay_s: float = 0.0  # answer late; alone, the request is otherwise served as it should be
    duplicate: bool = False  # take: hand one job out twice, in the same batch or, for single takes, in the next reply
    item: object = None  # take: hand out this item too (a single take: instead), e.g. {"input": {}} for one without id
    after: bool = False
    job: str | None = None  # only for requests about this job
    times: int | None = 1
    chance: float = 1.0
    struck: int = field(default=0, init=False)  # how often it has struck so far

    def __post_init__(self) -> None:
        # One that could never strike would make a test pass for nothing.
        reply = bool(self.drop or self.hang or self.delay_s or self.status or self.body is not None)
        if reply == self._handout:
            raise ValueError("a fault is one thing that goes wrong: with the reply, or with what is handed out")
        if self._handout and self.route != "take":
            raise ValueError(f"jobs are handed out on 'take', not on {self.route!r}")
        if self.job is not None and self.route not in ABOUT_A_JOB:
            raise ValueError(f"a request on {self.route!r} is not about one job")

    @property
    def _handout(self) -> bool:
        return self.duplicate or self.item is not None

    @property
    def stage(self) -> Stage:
        if self._handout:
            return "handout"
        return "after" if self.after else "before"


@dataclass(frozen=True)
class Call:
    """One request as it arrived; `body` is the parsed JSON, dropped from the record when it is large (`size` stays)."""

    route: Route
    path: str
    worker: str | None
    job: str | None
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    size: int
    at: float  # time.monotonic()


Act = Callable[[Call], Awaitable[web.Response]]


class Bell:
    """Wakes everyone who waits on it now; who comes later waits for the next ring."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def until(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Whether `condition` came true in time; it is looked at now and after every ring."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._event.wait()
        return condition()


@dataclass(eq=False)
class Job:
    """A job and all that happened to it. Times are time.monotonic()."""

    id: str
    input: Any
    wire: str  # what a worker is handed, as JSON text: made at the door, so that nothing unserialisable is ever queued
    submitted_at: float
    execution_timeout_s: float
    state: State = "IN_QUEUE"
    worker: str | None = None  # the last one it was handed to
    handed_out: int = 0
    taken_at: float | None = None
    finished_at: float | None = None
    expired: bool = False  # past its ttl: clients get 404
    result: dict[str, Any] = field(default_factory=dict)  # `output` and `error`, each only when there is one
    chunks: list[Any] = field(default_factory=list)  # every output posted to job-stream while it ran, in order
    drained: int = 0  # how many of them clients have polled
    done_posts: int = 0  # final results received; those after the first, or after a cancel, change nothing
    timers: list[asyncio.TimerHandle] = field(default_factory=list, repr=False)
    bell: Bell = field(default_factory=Bell, repr=False)

    @property
    def final(self) -> bool:
        return self.state not in ("IN_QUEUE", "IN_PROGRESS")

    def view(self) -> dict[str, Any]:
        """What /status shows."""
        shown: dict[str, Any] = {"id": self.id, "status": self.state}
        if self.taken_at is not None:
            shown["delayTime"] = round((self.taken_at - self.submitted_at) * 1000)
            shown["workerId"] = self.worker
            if self.finished_at is not None:
                shown["executionTime"] = round((self.finished_at - self.taken_at) * 1000)
        return shown | self.result


@dataclass
class Seen:
    """What is known of a worker from its own requests."""

    at: float = 0.0
    takes: int = 0
    unhealthy: str | None = None  # the reason of a failed fitness check


class Refused(Exception):
    """A request that is answered with `status` and changes nothing."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Worker:
    """A worker process started by `Platform.worker`."""

    def __init__(self, id: str, process: asyncio.subprocess.Process, log_path: Path | None, platform: "Platform"):
        self.id = id
        self.process = process
        self.log_path = log_path
        self._platform = platform

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path else ""

    async def ready(self, timeout_s: float = 60.0) -> None:
        """Return at its first job-take; raise if it exits before, or does not get there in time."""
        async with asyncio.timeout(timeout_s):
            taking = asyncio.create_task(self._platform.until(lambda: self._seen.takes > 0, None))
            gone = asyncio.create_task(self.process.wait())
            try:
                await asyncio.wait((taking, gone), return_when=asyncio.FIRST_COMPLETED)
            finally:
                taking.cancel()
                gone.cancel()
        if not self._seen.takes:
            raise RuntimeError(f"{self.id} exited with {self.process.returncode} before it took a job")

    async def logged(self, text: str, times: int = 1, timeout_s: float = 30.0) -> None:
        """Return once its log holds `text` so many times."""
        await eventually(lambda: self.log.count(text) >= times, timeout_s)

    def terminate(self) -> None:
        """SIGTERM to the main process alone, as a container's stop sends it."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """SIGKILL to the worker and its children, as a host that goes away."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def exited(self, timeout_s: float = 30.0) -> int:
        """Its exit code (negative: the signal that killed it)."""
        async with asyncio.timeout(timeout_s):
            return await self.process.wait()

    @property
    def _seen(self) -> Seen:
        return self._platform.workers.get(self.id, Seen())


class Platform:
    """One endpoint's control plane; use it as an async context manager.

    Public for assertions: `jobs`, `workers`, `counts` (requests per route, exact), `calls` (the recorded requests) and
    `faults` (clear the list to stop them all). `hold_s` is how long an idle job-take or job-stop is held; RunPod's own
    value is not known. `seed` draws the faults that have a `chance`. Past `max_jobs` the oldest finished job is
    forgotten, and a submission is refused with 429 when none has finished.
    """

    def __init__(
        self,
        *,
        endpoint: str = "local",
        port: int = 0,
        hold_s: float = 20.0,
        max_jobs: int = 10_000,
        seed: int = 0,
    ) -> None:
        self.endpoint = endpoint
        self.hold_s = hold_s
        self.max_jobs = max_jobs
        self.jobs: dict[str, Job] = {}
        self.workers: dict[str, Seen] = {}
        self.counts: Counter[Route] = Counter()
        self.faults: list[Fault] = []
        self._port = port
        self._calls: deque[Call] = deque(maxlen=KEPT_CALLS)
        self._random = random.Random(seed)
        self._queue: deque[Job] = deque()
        self._stops: dict[str, list[str]] = {}  # worker id → jobs it is to stop
        self._queued = Bell()
        self._stopping = Bell()
        self._happened = Bell()
        self._closed = asyncio.Event()
        self._started = 0

    # Lifetime

    async def __aenter__(self) -> Self:
        # Handlers are cancelled when their client goes away: a held job-take that was given up must not swallow a job.
        self._runner = web.AppRunner(
            self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=2.0
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        self._logs = tempfile.TemporaryDirectory(prefix="runpod-platform-")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed.set()
        self._queued.ring()
        self._stopping.ring()
        for job in self.jobs.values():
            self._disarm(job)
            job.bell.ring()
        await self._runner.cleanup()
        self._logs.cleanup()

    @property
    def url(self) -> str:
        """Where clients send their requests, e.g. http://127.0.0.1:8600/v2/local."""
        return f"http://127.0.0.1:{self._port}/v2/{self.endpoint}"

    def environment(self, worker: str = "worker-1") -> dict[str, str]:
        """What RunPod sets for a worker. The SDK appends with `&`, so every URL already has a query."""
        gpu = "?gpu=NVIDIA+L40S"
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.url}/job-take/$ID{gpu}",  # here alone, $ID is the worker
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.url}/job-done/$RUNPOD_POD_ID/$ID{gpu}",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{self.url}/job-stream/$RUNPOD_POD_ID/$ID{gpu}",
            "RUNPOD_WEBHOOK_PING": f"{self.url}/ping/$RUNPOD_POD_ID{gpu}",
            "RUNPOD_PING_INTERVAL": "10000",
            "RUNPOD_AI_API_KEY": "loopback-key",
            "RUNPOD_POD_ID": worker,
            "RUNPOD_POD_HOSTNAME": f"{worker}.loopback",
            "RUNPOD_ENDPOINT_ID": self.endpoint,
            # They measure the host (8.8.8.8, free disk), not the worker.
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        }

    @asynccontextmanager
    async def worker(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        output: IO[bytes] | None = None,
        grace_s: float = 5.0,
    ) -> AsyncIterator[Worker]:
        """Run `command` as a worker of this endpoint; leaving ends it, by SIGTERM and after `grace_s` by SIGKILL.

        Without `output` it writes to a log file, which `Worker.log` reads and whose end is added to an exception that
        leaves the block. Its environment is the caller's, with `environment()` and then `env` over it.
        """
        self._started += 1
        id = f"worker-{self._started}"
        environment = os.environ | self.environment(id) | dict(env or {})
        log_path = None if output else Path(self._logs.name, f"{id}.log")
        with ExitStack() as files:
            # Its own process group, because the SDK's ping child outlives a main process that dies hard.
            process = await asyncio.create_subprocess_exec(
                *command, env=environment, cwd=cwd, start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.STDOUT,
                stdout=files.enter_context(log_path.open("wb")) if log_path else output,
            )  # fmt: skip
        worker = Worker(environment["RUNPOD_POD_ID"], process, log_path, self)
        try:
            yield worker
        except Exception as error:
            error.add_note(f"{worker.id} (exit code {process.returncode}) logged last:\n{worker.log[-4000:]}")
            raise
        finally:
            worker.terminate()
            with suppress(TimeoutError):
                await worker.exited(grace_s)
            worker.kill()
            await process.wait()

    # What tests look at and turn

    def fault(self, route: Route, **how: Any) -> Fault:
        """Arrange for `Fault(route, **how)`; faults on one route strike in the order they were arranged."""
        fault = Fault(route, **how)
        self.faults.append(fault)
        return fault

    def calls(self, route: Route, job: str | None = None) -> list[Call]:
        """The recorded requests of a route (the last 10,000 of all routes together), oldest first."""
        return [call for call in self._calls if call.route == route and job in (None, call.job)]

    async def until(self, condition: Callable[[], bool], timeout_s: float | None = 30.0) -> None:
        """Wait for `condition`, looked at whenever a request arrives, is answered, or a job changes by itself."""
        if not await self._happened.until(condition, timeout_s):
            raise TimeoutError("the condition did not come true in time")

    # The client side, in process: what a client would do over HTTP, without its cost

    async def run(self, input: Any, **extra: Any) -> str:
        """Queue a job and return its id; `extra` is the rest of the request, e.g. policy={"ttl": 10_000}."""
        return self._submit({"input": input, **extra}).id

    async def runsync(self, input: Any, *, wait_s: float = 90.0, **extra: Any) -> dict[str, Any]:
        """The job's status when it has ended, or after `wait_s` whatever it is then."""
        job = self._submit({"input": input, **extra}, sync=True)
        await job.bell.until(lambda: job.final, wait_s)
        return job.view()

    async def status(self, id: str) -> dict[str, Any]:
        return self._find(id).view()

    async def wait(self, id: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """The status of a job that has ended (TIMED_OUT where its ttl ran out, which clients see as 404)."""
        job = self.jobs[id]
        if not await job.bell.until(lambda: job.final, timeout_s):
            raise TimeoutError(f"job {id} is {job.state} after {timeout_s} s")
        return job.view()

    async def chunks(self, id: str, timeout_s: float = 30.0) -> AsyncIterator[Any]:
        """Every chunk from the first on, as it is posted, until the job ends; takes nothing from clients' polls."""
        job, count = self.jobs[id], 0

        def news() -> bool:
            return job.final or len(job.chunks) > count

        while True:
            for chunk in job.chunks[count:]:
                yield chunk
                count += 1
            if job.final and count == len(job.chunks):
                return
            if not await job.bell.until(news, timeout_s):
                raise TimeoutError(f"job {id} posted nothing for {timeout_s} s")

    async def cancel(self, id: str) -> dict[str, Any]:
        """Cancel a job that has not ended; one that has stays as it is."""
        job = self._find(id)
        if not job.final:
            self._end(job, "CANCELLED")
        return {"id": job.id, "status": job.state}

    async def health(self) -> dict[str, Any]:
        states = Counter(job.state for job in self.jobs.values())
        busy = {job.worker for job in self.jobs.values() if job.state == "IN_PROGRESS"}
        alive = {id: seen for id, seen in self.workers.items() if seen.at > time.monotonic() - WORKER_GONE_S}
        unhealthy = {id for id, seen in alive.items() if seen.unhealthy}
        running = alive.keys() & busy - unhealthy
        return {
            "jobs": {
                "completed": states["COMPLETED"],
                "failed": states["FAILED"] + states["TIMED_OUT"],
                "inProgress": states["IN_PROGRESS"],
                "inQueue": states["IN_QUEUE"],
                "retried": 0,
            },
            "workers": {
                "idle": len(alive) - len(running) - len(unhealthy),
                "running": len(running),
                "unhealthy": len(unhealthy),
            },
        }

    # A job's life

    def _submit(self, request: Any, *, sync: bool = False) -> Job:
        if not isinstance(request, dict) or "input" not in request:
            raise Refused(400, "the request must be a JSON object with `input`")
        policy = request.get("policy") or {}
        if not isinstance(policy, dict):
            raise Refused(400, "`policy` must be an object")
        # RunPod's own minima are 5 s and 10 s; here, tests must not take that long.
        execution_timeout_s = _milliseconds(policy, "executionTimeout", EXECUTION_TIMEOUT_MS)
        ttl_s = _milliseconds(policy, "ttl", TTL_MS)
        self._make_room()
        id = f"{'sync-' if sync else ''}{uuid.uuid4()}-u1"
        passed_on = {name: request[name] for name in ("input", "webhook", "s3Config") if name in request}
        job = Job(
            id=id,
            input=request["input"],
            wire=json.dumps({"id": id, **passed_on}),
            submitted_at=time.monotonic(),
            execution_timeout_s=execution_timeout_s,
        )
        job.timers.append(asyncio.get_running_loop().call_later(ttl_s, self._expire, job))
        self.jobs[id] = job
        self._queue.append(job)
        self._queued.ring()
        return job

    def _make_room(self) -> None:
        if len(self.jobs) >= self.max_jobs:
            finished = next((job.id for job in self.jobs.values() if job.final), None)
            if finished is None:
                raise Refused(429, f"{self.max_jobs} jobs are queued or running")
            del self.jobs[finished]

    def _hand_out(self, job: Job, worker: str) -> None:
        job.handed_out += 1
        job.worker = worker
        if job.state == "IN_QUEUE":
            job.state = "IN_PROGRESS"
            job.taken_at = time.monotonic()
            job.timers.append(
                asyncio.get_running_loop().call_later(job.execution_timeout_s, self._end, job, "TIMED_OUT")
            )
            job.bell.ring()

    def _expire(self, job: Job) -> None:
        job.expired = True
        self._end(job, "TIMED_OUT")

    def _end(self, job: Job, state: State, **result: Any) -> None:
        """Move a job to a final state; a worker that has it and did not end it itself is told to stop."""
        if job.state == "IN_PROGRESS" and state in ("CANCELLED", "TIMED_OUT") and job.worker is not None:
            self._stops.setdefault(job.worker, []).append(job.id)
            self._stopping.ring()
        if job.state == "IN_QUEUE":
            self._queue.remove(job)
        job.state = state
        job.finished_at = time.monotonic()
        job.result = result
        self._disarm(job)
        job.bell.ring()
        self._happened.ring()

    def _disarm(self, job: Job) -> None:
        for timer in job.timers:
            timer.cancel()
        job.timers.clear()

    def _find(self, id: str | None) -> Job:
        job = self.jobs.get(id or "")
        if job is None or job.expired:
            raise Refused(404, "job not found")
        return job

    # HTTP

    def _application(self) -> web.Application:
        base = f"/v2/{self.endpoint}"
        routes: list[tuple[str, str, Route, Act]] = [
            ("GET", "/job-take/{worker}", "take", self._on_take),
            ("GET", "/job-take-batch/{worker}", "take", self._on_take),
            ("GET", "/job-stop/{worker}", "stop", self._on_stop),
            ("POST", "/job-stream/{worker}/{job}", "stream", self._on_stream),
            ("POST", "/job-done/{worker}/{job}", "done", self._on_done),
            ("GET", "/ping/{worker}", "ping", self._on_ping),
            ("POST", "/run", "run", self._on_run),
            ("POST", "/runsync", "runsync", self._on_runsync),
            ("GET", "/status/{job}", "status", self._on_status),
            ("POST", "/status/{job}", "status", self._on_status),
            ("GET", "/stream/{job}", "poll", self._on_poll),
            ("POST", "/stream/{job}", "poll", self._on_poll),
            ("POST", "/cancel/{job}", "cancel", self._on_cancel),
            ("GET", "/health", "health", self._on_health),
        ]
        application = web.Application(client_max_size=MAX_READ)
        for method, path, route, act in routes:
            application.router.add_route(method, base + path, self._serve(route, act))
        return application

    def _serve(self, route: Route, act: Act) -> Callable[[web.Request], Awaitable[web.Response]]:
        """The path of every request: read, record, perhaps a fault, act, perhaps a fault."""

        async def handle(request: web.Request) -> web.Response:
            raw = await request.read()
            try:
                call = _call(route, request, raw)
            except Refused as refusal:
                self._record(_call(route, request, b"", size=len(raw)))
                return _refusal(refusal)
            self._record(call)
            try:
                if wrong := await self._strike(self._claim(call, "before"), request):
                    return wrong
                reply = await act(call)
                if reply.status == 204:  # nothing was handed out, so there is nothing to lose
                    return reply
                return await self._strike(self._claim(call, "after"), request) or reply
            except Refused as refusal:
                return _refusal(refusal)
            finally:
                self._happened.ring()

        return handle

    def _record(self, call: Call) -> None:
        self.counts[call.route] += 1
        self._calls.append(call if call.size <= KEPT_BODY else replace(call, body=None))
        if call.worker is not None:
            seen = self.workers.setdefault(call.worker, Seen())
            seen.at = call.at
            seen.takes += call.route == "take"
        self._happened.ring()

    def _claim(self, call: Call, stage: Stage) -> Fault | None:
        for fault in self.faults:
            if (
                fault.route == call.route
                and fault.stage == stage
                and fault.job in (None, call.job)
                and (fault.times is None or fault.struck < fault.times)
                and (fault.chance >= 1 or self._random.random() < fault.chance)
            ):
                fault.struck += 1
                return fault
        return None

    async def _strike(self, fault: Fault | None, request: web.Request) -> web.Response | None:
        """The wrong reply, or None to go on: no fault, or one that is nothing but a delay."""
        if fault is None:
            return None
        if fault.hang or fault.delay_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(None if fault.hang else fault.delay_s):
                    await self._closed.wait()
        if fault.drop or fault.hang:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()  # never sent
        if fault.status is not None or fault.body is not None:
            return web.Response(status=fault.status or 200, text=fault.body, content_type=fault.content_type)
        return None

    # The worker's side

    async def _on_take(self, call: Call) -> web.Response:
        await self._queued.until(lambda: bool(self._queue) or self._closed.is_set(), self.hold_s)
        if not self._queue or self._closed.is_set():
            return web.Response(status=204)
        batch = "/job-take-batch/" in call.path
        wanted = int(call.query.get("batch_size", "1")) if batch else 1
        fault = self._claim(call, "handout")
        if fault and fault.item is not None and not batch:
            return web.json_response(fault.item)  # in place of a job, which stays in the queue
        if fault and batch:
            wanted -= 1  # a place for what goes wrong: no worker is sent more than it asked for
        jobs = [self._queue.popleft() for _ in range(min(max(1, wanted), len(self._queue)))]
        if fault and fault.duplicate:
            if batch:
                jobs.append(jobs[0])
            else:
                self._queue.appendleft(jobs[0])
        for job in jobs:
            self._hand_out(job, call.worker or "")
        items = [job.wire for job in jobs]
        if fault and fault.item is not None:
            items.insert(0, json.dumps(fault.item))
        return web.json_response(text=f"[{','.join(items)}]" if batch else items[0])

    async def _on_stop(self, call: Call) -> web.Response:
        worker = call.worker or ""
        await self._stopping.until(lambda: worker in self._stops or self._closed.is_set(), self.hold_s)
        ids = self._stops.pop(worker, None)
        return web.json_response({"jobsToStop": ids}) if ids else web.Response(status=204)

    async def _on_stream(self, call: Call) -> web.Response:
        job = self._find(call.job)  # what RunPod answers about a job that has expired is not known; here, 404
        if not isinstance(call.body, dict) or "output" not in call.body:
            raise Refused(400, "a chunk must be an object with `output`")
        if job.state == "IN_PROGRESS":
            job.chunks.append(call.body["output"])
            job.bell.ring()
        return web.json_response({})

    async def _on_done(self, call: Call) -> web.Response:
        job = self._find(call.job)
        if not isinstance(call.body, dict):
            raise Refused(400, "a result must be an object")
        if call.route == "progress":
            if job.state == "IN_PROGRESS":
                job.result = {"output": call.body.get("output")}
                job.bell.ring()
            return web.json_response({})
        job.done_posts += 1
        # Whether RunPod takes a result after a cancel or a second one is not known; here the first end is the end.
        if job.state == "IN_PROGRESS":
            error = call.body.get("error")
            if error and isinstance(error, str):
                self._end(job, "FAILED", error=error)
            elif error:
                # As users report it: an error that is not a string comes back COMPLETED, without any output.
                self._end(job, "COMPLETED")
            else:
                self._end(job, "COMPLETED", **{key: call.body[key] for key in ("output",) if key in call.body})
        return web.json_response({})

    async def _on_ping(self, call: Call) -> web.Response:
        unhealthy = call.query.get("status") == "unhealthy"
        self.workers[call.worker or ""].unhealthy = call.query.get("reason", "") if unhealthy else None
        return web.json_response({})

    # The client's side

    async def _on_run(self, call: Call) -> web.Response:
        job = self._submit(call.body)
        return web.json_response({"id": job.id, "status": job.state})

    async def _on_runsync(self, call: Call) -> web.Response:
        wait_s = _milliseconds(dict(call.query), "wait", 90_000)
        if wait_s * 1000 > MAX_WAIT_MS:
            raise Refused(400, f"`wait` must be at most {MAX_WAIT_MS} ms")
        job = self._submit(call.body, sync=True)
        await job.bell.until(lambda: job.final or self._closed.is_set(), wait_s)
        return web.json_response(job.view())

    async def _on_status(self, call: Call) -> web.Response:
        return web.json_response(self._find(call.job).view())

    async def _on_poll(self, call: Call) -> web.Response:
        # Not SSE: each poll answers at once with what was posted since the last one, and takes it away.
        job = self._find(call.job)
        fresh, job.drained = job.chunks[job.drained :], len(job.chunks)
        return web.json_response({"status": job.state, "stream": [{"output": chunk} for chunk in fresh]})

    async def _on_cancel(self, call: Call) -> web.Response:
        return web.json_response(await self.cancel(call.job or ""))

    async def _on_health(self, _: Call) -> web.Response:
        return web.json_response(await self.health())


class Background:
    """A platform on a thread of its own, for code that is not asynchronous.

    with Background() as background:
        print(background.do(background.platform.runsync({"operation": "info"})))
    """

    def __init__(self, platform: Platform | None = None) -> None:
        self.platform = platform or Platform()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="platform")

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.do(self.platform.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.do(self.platform.__aexit__())
        finally:
            self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def eventually(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for something outside the event loop (a file, a process), which can only be looked at again and again."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def _call(route: Route, request: web.Request, raw: bytes, size: int | None = None) -> Call:
    if len(raw) > LIMITS.get(route, MAX_BODY):
        raise Refused(400 if route == "done" else 413, f"{len(raw)} bytes are too many")
    body = None
    if raw:
        try:
            body = json.loads(raw, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise Refused(400, "the body is not JSON") from error
    if route == "done" and isinstance(body, dict) and body.get("status") == "IN_PROGRESS":
        route = "progress"
    return Call(
        route=route,
        path=request.path,
        worker=request.match_info.get("worker"),
        job=request.match_info.get("job"),
        query=request.query,
        headers=request.headers,
        body=body,
        size=len(raw) if size is None else size,
        at=time.monotonic(),
    )


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is Python's, not JSON's")


def _milliseconds(given: Mapping[str, Any], name: str, default_ms: int) -> float:
    """Seconds, from a positive number of milliseconds."""
    try:
        value = float(given.get(name, default_ms))
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value < math.inf:
        raise Refused(400, f"`{name}` must be a positive number of milliseconds")
    return value / 1000


def _refusal(refusal: Refused) -> web.Response:
    return web.json_response({"error": str(refusal)}, status=refusal.status)


async def _serve_developer(port: int, command: Sequence[str]) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with Platform(port=port) as platform:
        sys.stdout.write(_instructions(platform, command))
        sys.stdout.flush()
        if not command:
            await asyncio.Event().wait()
        async with platform.worker(command, output=sys.stdout.buffer) as worker:
            return await worker.process.wait()


def _instructions(platform: Platform, command: Sequence[str]) -> str:
    url = platform.url
    lines = [f"RunPod control plane at {url} (this machine only; Ctrl-C ends it)", ""]
    if command:
        lines += [f"# Its worker: {shlex.join(command)}"]
    else:
        lines += ["# A worker's environment:"]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in platform.environment().items()]
    body = """-d '{"input": {"operation": "chat", "message": "Hello"}}'"""
    lines += [
        "",
        "# Requests; as on RunPod, and any authorization header is ignored:",
        f"curl -s '{url}/runsync?wait=60000' {body}",
        f"curl -s {url}/run {body}",
        f"curl -s {url}/status/JOB_ID",
        f"curl -s {url}/stream/JOB_ID",
        f"curl -s -X POST {url}/cancel/JOB_ID",
        f"curl -s {url}/health",
        "",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.platform", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8600)
    parser.add_argument("command", nargs="*", help="after --: the worker to start against it")
    options = parser.parse_args()
    try:
        return asyncio.run(_serve_developer(options.port, options.command))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


if __name__ == "__main__":
    sys.exit(main())
