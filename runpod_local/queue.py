"""The queue: jobs from submission to their end, with the calls of a client in this process. Knows no HTTP."""

import asyncio
import json
import time
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from runpod_local.calls import Refused, milliseconds

State = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]
EXECUTION_TIMEOUT_MS = 600_000
TTL_MS = 24 * 3_600_000
#: seconds without a request after which a worker no longer counts in /health
WORKER_GONE_S = 30.0


class Notifier:
    """Wakes all tasks that wait for a condition, so that they look at it again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def until(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait for `condition`, evaluated now and after every `notify`; returns whether it came true in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._event.wait()
        return condition()


@dataclass(frozen=True, slots=True)
class Encoded:
    """An input as JSON text, encoded once for many jobs."""

    text: str


@dataclass(eq=False)
class Job:
    """A job and its history. Times are time.monotonic()."""

    id: str
    input: Any
    fields: str  # all but its id, as JSON text; made at submission, so that every queued job can be serialised
    submitted_at: float
    execution_timeout_s: float
    state: State = "IN_QUEUE"
    worker: str | None = None  # the last one it was handed to
    handed_out: int = 0  # times
    taken_at: float | None = None
    finished_at: float | None = None
    expired: bool = False  # past its ttl: clients get 404
    result: dict[str, Any] = field(default_factory=dict)  # `output` and `error`, each only when there is one
    chunks: list[Any] = field(default_factory=list)  # every output posted to job-stream while it ran, in order
    drained: int = 0  # how many of them clients have polled
    done_posts: int = 0  # final results received; only the first counts, and none after a cancel
    timers: list[asyncio.TimerHandle] = field(default_factory=list, repr=False)
    changed: Notifier = field(default_factory=Notifier, repr=False)

    @property
    def wire(self) -> str:
        """The JSON text that a worker gets."""
        return f'{{"id": {json.dumps(self.id)}, {self.fields}}}'

    @property
    def final(self) -> bool:
        return self.state not in ("IN_QUEUE", "IN_PROGRESS")

    def view(self) -> dict[str, Any]:
        """The reply of /status."""
        shown: dict[str, Any] = {"id": self.id, "status": self.state}
        if self.taken_at is not None:
            shown["delayTime"] = round((self.taken_at - self.submitted_at) * 1000)
            shown["workerId"] = self.worker
            if self.finished_at is not None:
                shown["executionTime"] = round((self.finished_at - self.taken_at) * 1000)
        return shown | self.result


@dataclass
class Seen:
    """A worker, by its own requests."""

    at: float = 0.0
    takes: int = 0
    unhealthy: str | None = None  # the reason of a failed fitness check of the SDK


class Queue:
    """The jobs of one endpoint, and its workers."""

    def __init__(self, max_jobs: int) -> None:
        self.max_jobs = max_jobs
        self.jobs: dict[str, Job] = {}
        self.workers: dict[str, Seen] = {}
        self._queue: deque[Job] = deque()
        self._stops: dict[str, list[str]] = {}  # worker id → ids of the jobs that it must stop
        self._queued = Notifier()
        self._stopping = Notifier()
        self._happened = Notifier()

    async def until(self, condition: Callable[[], bool], timeout_s: float | None = 30.0) -> None:
        """Wait for `condition`, evaluated whenever a request arrives or is answered, or a job ends.

        Raises:
            TimeoutError: it did not come true in time.
        """
        if not await self._happened.until(condition, timeout_s):
            raise TimeoutError("the condition did not come true in time")

    # The calls of a client, without HTTP

    async def run(self, input: Any, **extra: Any) -> str:
        """Queue a job and return its id; `extra` is the rest of the request, e.g. policy={"ttl": 10_000}.

        Args:
            input: a value, or `Encoded` JSON text.
        """
        return self._submit({"input": input, **extra}).id

    async def runsync(self, input: Any, *, wait_s: float = 90.0, **extra: Any) -> dict[str, Any]:
        """Queue a job, and return its status when it has ended or `wait_s` have passed."""
        job = self._submit({"input": input, **extra}, sync=True)
        await job.changed.until(lambda: job.final, wait_s)
        return job.view()

    async def status(self, id: str) -> dict[str, Any]:
        return self._find(id).view()

    async def wait(self, id: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait for a job to end; returns its status: TIMED_OUT also where its ttl ran out, which clients see as 404."""
        job = self.jobs[id]
        if not await job.changed.until(lambda: job.final, timeout_s):
            raise TimeoutError(f"job {id} is {job.state} after {timeout_s} s")
        return job.view()

    async def chunks(self, id: str, timeout_s: float = 30.0) -> AsyncIterator[Any]:
        """Every chunk of a job, from the first on, until the job ends. Clients' polls still get them all."""
        job, count = self.jobs[id], 0

        def ended_or_chunk() -> bool:
            return job.final or len(job.chunks) > count

        while True:
            for chunk in job.chunks[count:]:
                yield chunk
                count += 1
            if job.final and count == len(job.chunks):
                return
            if not await job.changed.until(ended_or_chunk, timeout_s):
                raise TimeoutError(f"job {id} posted nothing for {timeout_s} s")

    async def cancel(self, id: str) -> dict[str, Any]:
        """Cancel a job, unless it has ended."""
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
        # RunPod's minima are 5 s and 10 s; tests need shorter times.
        execution_timeout_s = milliseconds(policy, "executionTimeout", EXECUTION_TIMEOUT_MS)
        ttl_s = milliseconds(policy, "ttl", TTL_MS)
        self._make_room()
        id = f"{'sync-' if sync else ''}{uuid.uuid4()}-u1"
        passed_on = {name: request[name] for name in ("input", "webhook", "s3Config") if name in request}
        texts = ((name, one.text if isinstance(one, Encoded) else json.dumps(one)) for name, one in passed_on.items())
        job = Job(
            id=id,
            input=request["input"],
            fields=", ".join(f'"{name}": {text}' for name, text in texts),
            submitted_at=time.monotonic(),
            execution_timeout_s=execution_timeout_s,
        )
        job.timers.append(asyncio.get_running_loop().call_later(ttl_s, self._expire, job))
        self.jobs[id] = job
        self._queue.append(job)
        self._queued.notify()
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
            job.changed.notify()

    def _expire(self, job: Job) -> None:
        job.expired = True
        self._end(job, "TIMED_OUT")

    def _end(self, job: Job, state: State, **result: Any) -> None:
        """Move a job to a final state; where the worker did not end it, tell the worker to stop it."""
        if job.state == "IN_PROGRESS" and state in ("CANCELLED", "TIMED_OUT") and job.worker is not None:
            self._stops.setdefault(job.worker, []).append(job.id)
            self._stopping.notify()
        if job.state == "IN_QUEUE":
            self._queue.remove(job)
        job.state = state
        job.finished_at = time.monotonic()
        job.result = result
        self._disarm(job)
        job.changed.notify()
        self._happened.notify()

    def _disarm(self, job: Job) -> None:
        for timer in job.timers:
            timer.cancel()
        job.timers.clear()

    def _find(self, id: str | None) -> Job:
        job = self.jobs.get(id or "")
        if job is None or job.expired:
            raise Refused(404, "job not found")
        return job
