"""The HTTP server: RunPod's routes to the queue, with declared faults and a record of every request."""

import asyncio
import json
import os
import random
import tempfile
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Self

from aiohttp import web

from runpod_local import openai
from runpod_local.calls import MAX_READ, Call, Refused, milliseconds, parse_call
from runpod_local.faults import Fault, Route, Stage
from runpod_local.queue import Queue, Seen
from runpod_local.worker import Worker

#: requests in the record; a worker that repeats a failing job-take sends thousands a second
KEPT_CALLS = 10_000
#: bytes of the largest body in the record
KEPT_BODY = 64_000
MAX_WAIT_MS = 300_000
Act = Callable[[Call], Awaitable[web.Response]]
#: seconds for which a request of /openai waits for its job; OpenAI's clients wait as long
MAX_OPENAI_S = 600.0


class Platform(Queue):
    """One endpoint of RunPod, with its queue and its workers. Use it as an async context manager.

    For assertions, `jobs`, `workers`, `counts` (requests by route, all of them), `calls` (the recorded requests) and
    `faults` (clear the list to end them) are public.

    Args:
        endpoint: its id, a part of every URL.
        port: 0 takes a free one.
        hold_s: seconds for which job-take or job-stop waits for something to send. RunPod's value is not known.
        max_jobs: above it the oldest finished job is forgotten; where none has finished, a new one is refused with 429.
        seed: of the faults that have a `chance`.
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
        super().__init__(max_jobs)
        self.counts: Counter[Route] = Counter()
        self.faults: list[Fault] = []
        self._port = port
        self._calls: deque[Call] = deque(maxlen=KEPT_CALLS)
        self._random = random.Random(seed)
        self._closed = asyncio.Event()
        self._started = 0

    # Lifetime

    async def __aenter__(self) -> Self:
        # Handlers are cancelled when their client disconnects: a job-take that was given up must not take a job.
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
        self._queued.notify()
        self._stopping.notify()
        for job in self.jobs.values():
            self._disarm(job)
            job.changed.notify()
        await self._runner.cleanup()
        self._logs.cleanup()

    @property
    def url(self) -> str:
        """Where clients send their requests, e.g. http://127.0.0.1:8600/v2/local."""
        return f"http://127.0.0.1:{self._port}/v2/{self.endpoint}"

    def environment(self, worker: str = "worker-1") -> dict[str, str]:
        """The environment that RunPod gives a worker. The SDK appends parameters with `&`, so every URL has a query."""
        gpu = "?gpu=NVIDIA+L40S"
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.url}/job-take/$ID{gpu}",  # only here, $ID is the worker's
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.url}/job-done/$RUNPOD_POD_ID/$ID{gpu}",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{self.url}/job-stream/$RUNPOD_POD_ID/$ID{gpu}",
            "RUNPOD_WEBHOOK_PING": f"{self.url}/ping/$RUNPOD_POD_ID{gpu}",
            "RUNPOD_PING_INTERVAL": "10000",
            "RUNPOD_AI_API_KEY": "loopback-key",
            "RUNPOD_POD_ID": worker,
            "RUNPOD_POD_HOSTNAME": f"{worker}.loopback",
            "RUNPOD_ENDPOINT_ID": self.endpoint,
            # These checks measure the host (8.8.8.8, free disk), not the worker.
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
        """Run `command` as a worker of this endpoint; at the end of the block send SIGTERM, after `grace_s` SIGKILL.

        Without `output` the worker writes to a log file, which `Worker.log` reads; its last lines are added to an
        exception that leaves the block. The worker's environment is this process's, overridden by `environment()` and
        then by `env`.
        """
        self._started += 1
        id = f"worker-{self._started}"
        environment = os.environ | self.environment(id) | dict(env or {})
        log_path = None if output else Path(self._logs.name, f"{id}.log")
        with ExitStack() as files:
            # A process group of its own, because the SDK's child for pings outlives a main process that is killed.
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

    # For tests

    def fault(self, route: Route, **how: Any) -> Fault:
        """Declare `Fault(route, **how)`; faults on one route happen in the order in which they were declared."""
        fault = Fault(route, **how)
        self.faults.append(fault)
        return fault

    def calls(self, route: Route, job: str | None = None) -> list[Call]:
        """The recorded requests of a route (the last 10,000 of all routes together), oldest first."""
        return [call for call in self._calls if call.route == route and job in (None, call.job)]

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
        application.router.add_route("*", base + "/openai/{path:.*}", self._openai)
        return application

    def _serve(self, route: Route, act: Act) -> Callable[[web.Request], Awaitable[web.Response]]:
        """The handler of a route: read, record, perhaps a fault, act, perhaps a fault."""

        async def handle(request: web.Request) -> web.Response:
            raw = await request.read()
            try:
                call = parse_call(route, request, raw)
            except Refused as refusal:
                self._record(parse_call(route, request, b"", size=len(raw)))
                return _refusal(refusal)
            self._record(call)
            try:
                if wrong := await self._apply(self._claim(call, "before"), request):
                    return wrong
                reply = await act(call)
                if reply.status == 204:  # nothing was handed out, so there is nothing to lose
                    return reply
                return await self._apply(self._claim(call, "after"), request) or reply
            except Refused as refusal:
                return _refusal(refusal)
            finally:
                self._happened.notify()

        return handle

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        """A request of OpenAI's API; apart, because its answer may be a stream."""
        raw = await request.read()
        try:
            call = parse_call("openai", request, raw)
        except Refused as refusal:
            self._record(parse_call("openai", request, b"", size=len(raw)))
            return _refusal(refusal)
        self._record(call)
        try:
            if wrong := await self._apply(self._claim(call, "before"), request):
                return wrong
            job = self._submit({"input": openai.job_input(request.method, request.match_info["path"], call)})
        except Refused as refusal:
            return _refusal(refusal)
        return await openai.answer(request, call, job, self.chunks(job.id, MAX_OPENAI_S))

    def _record(self, call: Call) -> None:
        self.counts[call.route] += 1
        self._calls.append(call if call.size <= KEPT_BODY else replace(call, body=None))
        if call.worker is not None:
            seen = self.workers.setdefault(call.worker, Seen())
            seen.at = call.at
            seen.takes += call.route == "take"
        self._happened.notify()

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

    async def _apply(self, fault: Fault | None, request: web.Request) -> web.Response | None:
        """The wrong reply; None where there is no fault, or one that only delays."""
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
            wanted -= 1  # for the fault's item: no worker gets more than it asked for
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
        job = self._find(call.job)  # RunPod's answer for an expired job is not known; here it is 404
        if not isinstance(call.body, dict) or "output" not in call.body:
            raise Refused(400, "a chunk must be an object with `output`")
        if job.state == "IN_PROGRESS":
            job.chunks.append(call.body["output"])
            job.changed.notify()
        return web.json_response({})

    async def _on_done(self, call: Call) -> web.Response:
        job = self._find(call.job)
        if not isinstance(call.body, dict):
            raise Refused(400, "a result must be an object")
        if call.route == "progress":
            if job.state == "IN_PROGRESS":
                job.result = {"output": call.body.get("output")}
                job.changed.notify()
            return web.json_response({})
        job.done_posts += 1
        # Whether RunPod accepts a second result, or one after a cancel, is not known; here the first end counts.
        if job.state == "IN_PROGRESS":
            error = call.body.get("error")
            if error and isinstance(error, str):
                self._end(job, "FAILED", error=error)
            elif error:
                # As users report: a job whose error is not a string is COMPLETED, without output.
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
        wait_s = milliseconds(dict(call.query), "wait", 90_000)
        if wait_s * 1000 > MAX_WAIT_MS:
            raise Refused(400, f"`wait` must be at most {MAX_WAIT_MS} ms")
        job = self._submit(call.body, sync=True)
        await job.changed.until(lambda: job.final or self._closed.is_set(), wait_s)
        return web.json_response(job.view())

    async def _on_status(self, call: Call) -> web.Response:
        return web.json_response(self._find(call.job).view())

    async def _on_poll(self, call: Call) -> web.Response:
        # No SSE: each poll returns at once with the chunks posted since the last poll.
        job = self._find(call.job)
        fresh, job.drained = job.chunks[job.drained :], len(job.chunks)
        return web.json_response({"status": job.state, "stream": [{"output": chunk} for chunk in fresh]})

    async def _on_cancel(self, call: Call) -> web.Response:
        return web.json_response(await self.cancel(call.job or ""))

    async def _on_health(self, _: Call) -> web.Response:
        return web.json_response(await self.health())


def _refusal(refusal: Refused) -> web.Response:
    return web.json_response({"error": str(refusal)}, status=refusal.status)
