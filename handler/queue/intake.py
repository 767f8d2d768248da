"""Which jobs run: take, start, stop, drain. Every job taken is answered, unless the platform itself stopped it.

Knows jobs as dicts with an id, and the platform as a `Wire`; knows no HTTP, no SDK and nothing of what a job asks for.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from handler.errors import EngineFailed
from handler.queue.answer import Answers, Channel, Handler, Job
from handler.queue.delivery import Backoff
from handler.queue.encoding import encode, failure

T = TypeVar("T")

#: An empty reply that comes sooner than this was not held, and asking again at once would be a flood.
HELD_S = 0.5
#: A stop may arrive before the reply that hands out its job; one older than this is about another run of that job.
EARLY_STOP_S = 2.0
#: What a take that is held gets after a stop: longer than a reply takes to come here. One that is on its way when the
#: stop comes has jobs in it, which would be lost if the take were given up at once. This cannot save a job that is
#: handed out in the very moment in which the take is given up: HTTP has no way to give up that both sides agree on.
LAST_TAKE_S = 0.5
#: How often the engine is looked at while nothing else happens
WATCH_S = 0.5
#: What a broken engine's jobs get to end by themselves
BROKEN_GRACE_S = 1.0
#: What is left for the last messages of jobs that were not let to their end
FAREWELL_S = 5.0


class Reply(Protocol):
    """The platform's reply to a take, begun: from here on its jobs are ours."""

    async def jobs(self) -> list[Any]: ...


class Wire(Channel, Protocol):
    """The platform, as this module needs it. `take`, `jobs` and `stops` may raise whatever a network raises."""

    async def take(self, count: int) -> Reply:
        """Ask for up to so many jobs, held until there are some. Cancelling it leaves them in the queue."""
        ...

    async def stops(self) -> list[str]:
        """Ids of jobs that were cancelled or ran out of time; held until there are some."""
        ...

    def started(self, job_id: str) -> None:
        """The job is in progress here, say the heartbeats from now on."""
        ...

    def ended(self, job_id: str) -> None: ...


@dataclass(slots=True)
class Running:
    """A job that was taken and is not answered yet."""

    task: asyncio.Task[None]
    #: False once its answer is being delivered
    answering: bool = True


class Intake:
    """Takes up to `capacity` jobs for `handler`, at all times; a generator function streams."""

    def __init__(
        self,
        wire: Wire,
        handler: Handler,
        *,
        capacity: int,
        grace_s: float,
        broken: Callable[[], str | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`grace_s`: what running jobs get after a stop; `broken` says why the engine cannot go on, else None."""
        self._wire = wire
        self._answers = Answers(wire, handler)
        self._capacity = capacity
        self._grace_s = grace_s
        self._is_broken = broken
        self._clock = clock
        self._jobs: dict[str, Running] = {}
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()
        self._broke = asyncio.Event()
        self._early_stops: dict[str, float] = {}
        self._abandoning = False

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT (returns 0), or until the engine is broken (returns 1)."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stopping.set)
        helpers = [loop.create_task(self._listen_for_stops()), loop.create_task(self._watch())]
        taking = loop.create_task(self._take())
        for task in (taking, *helpers):
            task.add_done_callback(self._outlive)
        try:
            await self._stopping.wait()
            await asyncio.wait({taking}, timeout=self._grace_s)  # it ends by itself, with what it was handed
            await self._drain()
        finally:
            for task in (taking, *helpers):
                task.cancel()
            await asyncio.gather(taking, *helpers, return_exceptions=True)
        return int(self._broke.is_set())

    # -- taking ----------------------------------------------------------------------------------------------------

    async def _take(self) -> None:
        failed, empty = Backoff(0.2, 5.0), Backoff(0.02, 1.0)
        while not self._stopping.is_set() and not self._look():
            free = self._capacity - len(self._jobs)
            if free <= 0:
                self._room.clear()
                await self._unless_stopping(self._room.wait())
                continue
            asked = self._clock()
            try:
                reply = await self._unless_stopping(self._wire.take(free), linger_s=LAST_TAKE_S)
                offered = [] if reply is None else await reply.jobs()
            except Exception as error:
                pause_s = failed.pause()
                self._wire.warn(f"job-take failed ({describe(error)}); next try in {pause_s:.1f} s")
                await self._unless_stopping(asyncio.sleep(pause_s))
                continue
            failed.reset()
            if offered:
                empty.reset()
            elif self._clock() - asked < HELD_S:
                await self._unless_stopping(asyncio.sleep(empty.pause()))
            for job in offered:
                self._start(job)

    def _start(self, job: Any) -> None:
        """Start a job at once; an item that is none costs nobody else anything."""
        id_ = job.get("id") if isinstance(job, dict) else None
        if not isinstance(id_, str) or not id_:
            self._wire.warn("job-take handed out an item without an id; it is left out")
            return
        if id_ in self._jobs:
            self._wire.warn("handed out again while it runs; it runs once", id_)
            return
        if self._clock() - self._early_stops.pop(id_, -EARLY_STOP_S) < EARLY_STOP_S:
            return
        task = asyncio.get_running_loop().create_task(self._run(id_, job))
        self._jobs[id_] = Running(task)
        self._wire.started(id_)
        # Not `finally` in the job's own coroutine: a task that is cancelled before its first step runs none of it.
        task.add_done_callback(lambda task: self._forget(id_, task))

    def _forget(self, id_: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self._wire.warn(f"lost on a defect of the worker: {type(error).__name__}", id_)
        del self._jobs[id_]
        self._wire.ended(id_)
        self._room.set()

    # -- running ---------------------------------------------------------------------------------------------------

    async def _run(self, id_: str, job: Job) -> None:
        try:
            body = await self._answers.to(id_, job)
        except asyncio.CancelledError:
            if not self._abandoning:
                raise  # the platform stopped it, and wants nothing posted
            body = encode(failure(EngineFailed("the worker had to stop before it could finish this job")))
        self._jobs[id_].answering = False
        await self._answers.deliver(id_, body)

    # -- stopping --------------------------------------------------------------------------------------------------

    async def _listen_for_stops(self) -> None:
        """Until the very end: a job may be cancelled while the worker waits for it."""
        failed, empty = Backoff(0.2, 5.0), Backoff(0.02, 1.0)
        while True:
            asked = self._clock()
            try:
                ids = await self._wire.stops()
            except Exception as error:
                pause_s = failed.pause()
                self._wire.warn(f"job-stop failed ({describe(error)}); next try in {pause_s:.1f} s")
                await asyncio.sleep(pause_s)
                continue
            failed.reset()
            if ids:
                empty.reset()
            elif self._clock() - asked < HELD_S:
                await asyncio.sleep(empty.pause())
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
        while not self._look():  # noqa: ASYNC110  an engine's thread rings no bell when it hangs
            await asyncio.sleep(WATCH_S)

    def _look(self) -> bool:
        """True where the engine is broken: this worker takes no more, and is to be replaced."""
        if not self._broke.is_set() and (reason := self._is_broken()):
            self._give_up(reason)
        return self._broke.is_set()

    def _give_up(self, reason: str) -> None:
        self._wire.warn(f"the worker ends: {reason}")
        self._broke.set()
        self._stopping.set()

    def _outlive(self, task: asyncio.Task[None]) -> None:
        """Without one of its own tasks, a worker would hold its place and do nothing."""
        if not task.cancelled() and (error := task.exception()):
            self._give_up(f"a defect of its own, {type(error).__name__}")

    async def _drain(self) -> None:
        """Let what runs end within the grace period, then answer for what did not."""
        if await self._idle(self._grace_s, unless=self._broke) or await self._idle(
            BROKEN_GRACE_S if self._broke.is_set() else 0
        ):
            return
        self._abandoning = True
        await asyncio.sleep(0)  # every task takes its first step: one cancelled before it could not answer
        for running in self._jobs.values():
            if running.answering:
                running.task.cancel()
        if not await self._idle(FAREWELL_S):
            for id_ in self._jobs:
                self._wire.warn("not delivered before the worker had to go", id_)
            for running in self._jobs.values():
                running.task.cancel()

    async def _idle(self, timeout_s: float, *, unless: asyncio.Event | None = None) -> bool:
        """Wait until no job is left, so long at most, and not past the event."""
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
        """The result, or None where the worker was told to stop so long before it; then `what` is cancelled."""
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
    """What a log line says of a network's error: its kind, never its words, which may quote a body."""
    status = getattr(error, "status", None)
    return f"HTTP {status}" if status else type(error).__name__
