"""Takes jobs, starts, stops and drains them. Every job taken is answered, unless the platform itself stopped it.

Knows the id and the size of a job and no more of it, and the platform as a protocol; knows no HTTP and no SDK.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from handler import log
from handler.api.size import characters
from handler.errors import EngineFailed
from handler.queue.answer import Answers, Channel
from handler.queue.delivery import Backoff
from handler.queue.output import Handler, Job
from handler.queue.reading import Handout, Unread

T = TypeVar("T")

#: An empty reply that comes sooner than this was not held; asking again at once would flood the platform.
HELD_S = 0.5
#: A stop may arrive before the reply that hands out its job; one older than this concerns another run of that job.
EARLY_STOP_S = 2.0
#: How long a take that is held goes on after a stop: longer than a reply travels. A reply that is on its way when the
#: stop comes holds jobs, which would be lost if the take were cancelled at once. A job that is handed out in the moment
#: of the cancellation can still be lost: HTTP has no way to cancel on which both sides agree.
LAST_TAKE_S = 0.5
#: How often the engine is checked while nothing else happens
WATCH_S = 0.5
#: How long jobs of a broken engine may take to end by themselves
BROKEN_GRACE_S = 1.0
#: Bytes of the jobs that run and of the replies that are read, above which no more jobs are taken. A job may have
#: 20,000,000.
LARGE_BYTES = 256_000_000
#: Jobs asked for at a time, at most: a take hands out as many, however large they are
TAKEN_AT_ONCE = 16
#: How long the last messages of jobs that were cut off may take
FAREWELL_S = 5.0


class Reply(Protocol):
    """The platform's reply to a take, whose headers have arrived: its jobs are this worker's now."""

    async def jobs(self) -> Handout:
        """Wait for the rest of the reply."""
        ...


class Platform(Channel, Protocol):
    """The platform, as this module needs it. `take`, `jobs` and `stops` may raise any error of a network."""

    async def take(self, count: int) -> Reply:
        """Ask for up to `count` jobs; waits until there are some. Cancelling it leaves them in the queue."""
        ...

    async def stops(self) -> list[str]:
        """Ids of jobs that were cancelled or ran out of time; waits until there are some."""
        ...

    def started(self, job_id: str) -> None:
        """From now on heartbeats list the job as in progress here."""
        ...

    def ended(self, job_id: str) -> None: ...


class Health(Protocol):
    """Keeps the worker's state."""

    def ready(self) -> None:
        """The first job is about to be asked for."""
        ...

    def draining(self) -> None:
        """No more jobs are taken."""
        ...

    def broken(self) -> None:
        """The engine, or the worker itself, cannot go on."""
        ...


@dataclass(slots=True)
class Running:
    """A job that was taken and is not answered yet."""

    task: asyncio.Task[None]
    #: characters of its texts, or bytes where it was not decoded when it began
    size: int
    #: False once its result is being delivered
    unanswered: bool = True


@dataclass(slots=True)
class Reading:
    """A reply whose jobs are being started."""

    #: in bytes
    size: int
    #: jobs that it may still hold
    left: int


class Intake:
    """Keeps up to `capacity` jobs running."""

    def __init__(
        self,
        platform: Platform,
        handler: Handler,
        *,
        capacity: int,
        grace_s: float,
        fault: Callable[[], str | None],
        health: Health,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            grace_s: seconds that running jobs get after a stop.
            fault: why the engine cannot go on; None while it can.
            health: gets the state: draining, or broken.
        """
        self._platform = platform
        self._answers = Answers(platform, handler)
        self._capacity = capacity
        self._grace_s = grace_s
        self._fault = fault
        self._health = health
        self._clock = clock
        self._jobs: dict[str, Running] = {}
        self._readings: dict[asyncio.Task[bool], Reading] = {}
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()
        self._broke = asyncio.Event()
        self._early_stops: dict[str, float] = {}
        self._abandoning = False

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT (returns 0), or until the engine is broken (returns 1)."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._drain_from_now)
        helpers: list[asyncio.Task[Any]] = [
            loop.create_task(self._listen_for_stops()),
            loop.create_task(self._watch()),
        ]
        taking = loop.create_task(self._take())
        for task in (taking, *helpers):
            task.add_done_callback(self._give_up_with)
        try:
            await self._stopping.wait()
            stopped = self._clock()
            await asyncio.wait({taking}, timeout=self._grace_s)  # it ends by itself, with what it was handed
            await self._end_jobs(max(0.0, self._grace_s - (self._clock() - stopped)))
        finally:
            tasks = (taking, *helpers, *self._readings)
            for one in tasks:
                one.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return int(self._broke.is_set())

    # -- taking ----------------------------------------------------------------------------------------------------

    async def _take(self) -> None:
        after_error, after_empty = Backoff(0.2, 5.0), Backoff(0.02, 1.0)
        while not self._stopping.is_set() and not self._engine_broke():
            free = self._free()
            if not free:
                self._room.clear()
                await self._unless_stopping(self._room.wait())
                continue
            asked = self._clock()
            try:
                reply = await self._unless_stopping(self._platform.take(free), linger_s=LAST_TAKE_S)
                handout = None if reply is None else await reply.jobs()
            except Exception as error:
                pause_s = after_error.pause()
                log.warn(f"job-take failed ({describe(error)}); next try in {pause_s:.1f} s")
                await self._unless_stopping(asyncio.sleep(pause_s))
                continue
            after_error.reset()
            if handout is not None and await self._start_all(handout, free):
                after_empty.reset()
            elif self._clock() - asked < HELD_S:
                await self._unless_stopping(asyncio.sleep(after_empty.pause()))
        await asyncio.gather(*self._readings, return_exceptions=True)

    def _free(self) -> int:
        """How many jobs to ask for: one at a time while large ones are here, none while they are too large together."""
        readings = self._readings.values()
        held = sum(running.size for running in self._jobs.values()) + sum(reading.size for reading in readings)
        free = max(0, self._capacity - len(self._jobs) - sum(reading.left for reading in readings))
        return min(free, TAKEN_AT_ONCE if 2 * held < LARGE_BYTES else 1 if held < LARGE_BYTES else 0)

    async def _start_all(self, handout: Handout, asked: int) -> bool:
        """Start the jobs of a reply, those of a large one while others are asked for; False where it has none."""
        reading = Reading(handout.size, asked)
        task = asyncio.get_running_loop().create_task(self._start_each(handout, reading))
        self._readings[task] = reading
        task.add_done_callback(self._end_reading)
        return handout.takes_a_while or await task

    async def _start_each(self, handout: Handout, reading: Reading) -> bool:
        any_came = False
        try:
            async for job in handout.jobs:
                self._start(job)
                reading.left -= 1
                any_came = True
        except ValueError:
            log.warn(f"a reply to job-take of {handout.size} bytes is not JSON")
        return any_came

    def _end_reading(self, task: asyncio.Task[bool]) -> None:
        del self._readings[task]
        self._room.set()
        self._give_up_with(task)

    def _start(self, job: Any) -> None:
        """Start a job at once. An item that is no job is left out, and the others of its reply run."""
        id_ = job.id if isinstance(job, Unread) else job.get("id") if isinstance(job, dict) else None
        if not isinstance(id_, str) or not id_:
            log.warn("job-take handed out an item without an id; it does not run")
            return
        if id_ in self._jobs:
            log.warn("the platform handed this job out again while it runs; it runs once", id_)
            return
        if self._clock() - self._early_stops.pop(id_, -EARLY_STOP_S) < EARLY_STOP_S:
            return
        task = asyncio.get_running_loop().create_task(self._run(id_, job))
        self._jobs[id_] = Running(task, len(job.raw) if isinstance(job, Unread) else characters(job))
        self._platform.started(id_)
        # Not `finally` in the job's own coroutine: a task that is cancelled before its first step runs none of it.
        task.add_done_callback(lambda task: self._forget(id_, task))

    def _forget(self, id_: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            log.defect(error, id_)
        del self._jobs[id_]
        self._platform.ended(id_)
        self._room.set()

    # -- running ---------------------------------------------------------------------------------------------------

    async def _run(self, id_: str, job: Job | Unread) -> None:
        answer = self._answers.begin(id_, job)
        try:
            body = await answer.run()
        except asyncio.CancelledError:
            if not self._abandoning:
                raise  # the platform stopped it, and takes no result of it
            body = await answer.fail(EngineFailed("the worker had to stop before it could finish this job"))
        self._jobs[id_].unanswered = False
        await answer.deliver(body)

    # -- stopping --------------------------------------------------------------------------------------------------

    async def _listen_for_stops(self) -> None:
        """Until the very end: a job may be cancelled while the worker waits for it."""
        after_error, after_empty = Backoff(0.2, 5.0), Backoff(0.02, 1.0)
        while True:
            asked = self._clock()
            try:
                ids = await self._platform.stops()
            except Exception as error:
                pause_s = after_error.pause()
                log.warn(f"job-stop failed ({describe(error)}); next try in {pause_s:.1f} s")
                await asyncio.sleep(pause_s)
                continue
            after_error.reset()
            if ids:
                after_empty.reset()
            elif self._clock() - asked < HELD_S:
                await asyncio.sleep(after_empty.pause())
            for id_ in ids:
                self._stop(id_)

    def _stop(self, id_: str) -> None:
        if running := self._jobs.get(id_):
            running.task.cancel()
            return
        now = self._clock()
        self._early_stops = {other: at for other, at in self._early_stops.items() if now - at < EARLY_STOP_S}
        self._early_stops[id_] = now

    async def _watch(self) -> None:
        while not self._engine_broke():  # noqa: ASYNC110  a thread that hangs sets no event
            await asyncio.sleep(WATCH_S)

    def _engine_broke(self) -> bool:
        """True where the engine is broken: this worker takes no more jobs, and is to be replaced."""
        if not self._broke.is_set() and (reason := self._fault()):
            self._give_up(reason)
        return self._broke.is_set()

    def _give_up(self, reason: str) -> None:
        log.error(f"the worker ends: {reason}")
        self._health.broken()
        self._broke.set()
        self._stopping.set()

    def _give_up_with(self, task: asyncio.Task[Any]) -> None:
        """End the worker where one of its own tasks failed: it would stay on and take no job."""
        if not task.cancelled() and (error := task.exception()):
            log.defect(error)
            self._give_up(f"a defect of its own, {type(error).__name__}")

    def _drain_from_now(self) -> None:
        self._health.draining()
        self._stopping.set()

    async def _end_jobs(self, grace_s: float) -> None:
        """Wait for running jobs, then fail those that have not ended."""
        if await self._idle(grace_s, unless=self._broke) or await self._idle(
            BROKEN_GRACE_S if self._broke.is_set() else 0
        ):
            return
        self._abandoning = True
        await asyncio.sleep(0)  # let each task take its first step: one that is cancelled before it cannot answer
        for running in self._jobs.values():
            if running.unanswered:
                running.task.cancel()
        if not await self._idle(FAREWELL_S):
            for id_ in self._jobs:
                log.warn("not delivered before the worker ended", id_)
            for running in self._jobs.values():
                running.task.cancel()

    async def _idle(self, timeout_s: float, *, unless: asyncio.Event | None = None) -> bool:
        """Wait until no job is left, `timeout_s` passed or the event `unless` came; True where none is left."""
        tasks = {running.task for running in self._jobs.values()}
        if not tasks:
            return True
        over = asyncio.gather(*tasks, return_exceptions=True)
        waited: set[asyncio.Future[Any]] = {over}
        event = asyncio.ensure_future(unless.wait()) if unless else None
        if event:
            waited.add(event)
        await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if event:
            event.cancel()
        return not self._jobs

    async def _unless_stopping(self, what: Coroutine[Any, Any, T], linger_s: float = 0) -> T | None:
        """The result, or None where it did not come within `linger_s` of a stop; then `what` is cancelled."""
        task, stop = asyncio.ensure_future(what), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=linger_s)
                task.cancel()
                await asyncio.wait({task})
            return None if task.cancelled() else task.result()
        finally:
            task.cancel()
            stop.cancel()


def describe(error: Exception) -> str:
    """A network's error for the log: its kind, and not its message, which may quote a body."""
    status = getattr(error, "status", None)
    return f"HTTP {status}" if status else type(error).__name__
