"""A worker process, for tests to watch and to end. Knows no HTTP."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from runpod_local.queue import Queue, Seen


class Worker:
    """A worker process started by `Platform.worker`."""

    def __init__(self, id: str, process: asyncio.subprocess.Process, log_path: Path | None, platform: Queue):
        self.id = id
        self.process = process
        self.log_path = log_path
        self._platform = platform

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path else ""

    async def ready(self, timeout_s: float = 60.0) -> None:
        """Wait for its first job-take.

        Raises:
            RuntimeError: it exited before.
            TimeoutError: it did not send one in time.
        """
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
        """Wait until its log contains `text` so many times."""
        await eventually(lambda: self.log.count(text) >= times, timeout_s)

    def terminate(self) -> None:
        """Send SIGTERM to the main process alone, as the stop of a container does."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """Send SIGKILL to the worker and its children, as the loss of a host does."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def exited(self, timeout_s: float = 30.0) -> int:
        """Wait for its end; returns the exit code, negative for the signal that killed it."""
        async with asyncio.timeout(timeout_s):
            return await self.process.wait()

    @property
    def _seen(self) -> Seen:
        return self._platform.workers.get(self.id, Seen())


async def eventually(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for a condition outside the event loop (a file, a process), which has to be polled."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
