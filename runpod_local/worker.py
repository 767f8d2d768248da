"""A worker process, as a test starts and watches it. Knows no HTTP."""

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


async def eventually(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for something outside the event loop (a file, a process), which can only be looked at again and again."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
