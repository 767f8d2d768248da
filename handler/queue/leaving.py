"""The end of the process: at once and whatever a thread does. Knows no job and no SDK."""

import multiprocessing
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from handler import log

if TYPE_CHECKING:
    from handler.queue.intake import Health

#: Seconds after the grace period in which the last messages of jobs that were cut off must have been sent
FAREWELL_S = 9.0


def leave(status: int) -> NoReturn:
    """End this process and its children, although a thread may run on: Python's own exit would wait for it."""
    for child in multiprocessing.active_children():
        child.kill()  # the SDK's heartbeat would go on telling the platform that its worker lives
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError):  # closed, its reader left, or a signal came inside a write
            stream.flush()
    os._exit(status)


class BoundedEnd:
    """Passes the worker's state on, and ends the process where draining takes longer than it may."""

    def __init__(self, health: "Health", grace_s: float) -> None:
        self._health = health
        self._limit_s = grace_s + FAREWELL_S
        self._timer: threading.Timer | None = None

    def ready(self) -> None:
        self._health.ready()

    def draining(self) -> None:
        self._end_in_time(0)
        self._health.draining()

    def broken(self) -> None:
        self._end_in_time(1)
        self._health.broken()

    def _end_in_time(self, status: int) -> None:
        """The first call counts; a timer's thread runs although the event loop hangs."""
        if self._timer is None:
            self._timer = threading.Timer(self._limit_s, self._end, (status,))
            self._timer.daemon = True
            self._timer.start()

    def _end(self, status: int) -> None:
        log.error(f"the worker ends: it was not drained {self._limit_s:g} s after the stop")
        leave(status)
