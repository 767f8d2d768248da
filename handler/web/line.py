"""The requests that are in the worker: how many may be, and how they end when the worker does. Knows no HTTP."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from handler.errors import EngineFailed, Overloaded
from handler.report import State

#: seconds after which a client tries again, where nothing better is known
RETRY_S = 1.0
#: the same while the model loads
LOADING_RETRY_S = 5.0


class Line:
    """Counts requests in, and ends those that are left at the end."""

    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state
        self._tasks: set[asyncio.Task[object]] = set()
        self._left = asyncio.Event()
        #: requests at a time, at most; none before the model is loaded
        self.capacity = 0
        #: requests that were turned away since the start
        self.refused = 0
        #: True once running requests are cut off
        self.abandoned = False

    @property
    def running(self) -> int:
        return len(self._tasks)

    def check(self) -> None:
        """Refuse a request that would not be run.

        Raises:
            Overloaded: the worker is full, loads, or is about to end; a balancer sends the request elsewhere.
        """
        match self._state():
            case "loading":
                error = Overloaded("the worker is loading its model; try again later", retry_after_s=LOADING_RETRY_S)
            case "draining" | "broken":
                error = Overloaded("the worker is about to end; try again, on another one", retry_after_s=RETRY_S)
            case _ if len(self._tasks) >= self.capacity:
                full = f"the worker has {len(self._tasks)} requests, as many as it takes"
                error = Overloaded(f"{full}; try again later", retry_after_s=RETRY_S)
            case _:
                return
        self.refused += 1
        raise error

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Run the current task's request.

        Raises:
            Overloaded: see `check`.
        """
        self.check()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)
            self._left.set()

    def cut_off(self) -> bool:
        """Whether a cancellation of the current task is the worker's own end, and the request is still to be answered.

        Its caller goes on, and answers.
        """
        task = asyncio.current_task()
        if task is None or not self.abandoned:
            return False
        task.uncancel()
        return True

    async def empty(self, timeout_s: float, *, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait until no request is left, or `unless` is true; False where some are left."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while self._tasks and not unless() and loop.time() < until:
            self._left.clear()
            try:
                async with asyncio.timeout(min(0.2, max(0.0, until - loop.time()))):
                    await self._left.wait()
            except TimeoutError:
                continue
        return not self._tasks

    def abandon(self) -> None:
        """End the requests that are left; each answers with `cut_off_error`."""
        self.abandoned = True
        for task in self._tasks:
            task.cancel()


def cut_off_error() -> EngineFailed:
    """The error of a request that the worker's end cut off."""
    return EngineFailed("the worker had to stop before it could finish this request", retry_after_s=RETRY_S)
