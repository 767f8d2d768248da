"""Runs work in a few threads of its own, and ends it where its caller leaves or its time is over. Knows no job."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from math import inf
from typing import ParamSpec, TypeVar

from handler.errors import DeadlineExceeded

P = ParamSpec("P")
T = TypeVar("T")

LATE = "the deadline passed while the request was worked on"


class _Stop:
    """Says to the work in a thread when to end."""

    __slots__ = ("left", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        #: the caller waits no longer
        self.left = False


_stop: ContextVar[_Stop | None] = ContextVar("stop", default=None)


def check_stop() -> None:
    """End the work of this thread where its caller left or its time is over; outside of a pool, do nothing.

    Work on a text calls it in every loop, at least once in some milliseconds: a thread cannot be ended from outside.

    Raises:
        DeadlineExceeded: the work is to end.
    """
    stop = _stop.get()
    if stop is not None and (stop.left or time.monotonic() >= stop.until):
        raise DeadlineExceeded(LATE)


class Pool:
    """Threads for one kind of work, so that no other kind waits for it."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of work in a thread; cancelling this ends the work at its next `check_stop`."""
        return await self._run(None, lambda: work(*args, **kwargs))

    async def run_until(self, until: float | None, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, but for a limited time; None limits nothing.

        Args:
            until: on the clock of `time.monotonic`.

        Raises:
            DeadlineExceeded: at that time, also where the work has not begun.
        """
        return await self._run(until, lambda: work(*args, **kwargs))

    async def _run(self, until: float | None, work: Callable[[], T]) -> T:
        stop = _Stop(inf if until is None else until)
        context = copy_context()
        context.run(_stop.set, stop)
        future = self._executor.submit(context.run, work)
        try:
            async with asyncio.timeout_at(until) as limit:
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if limit.expired():
                raise DeadlineExceeded(LATE) from None
            raise
        finally:
            stop.left = True

    def probe(self) -> "Future[None]":
        """Work that does nothing: where it does not end, every thread is held."""
        return self._executor.submit(lambda: None)
