"""The real worker as a process that serves HTTP on loopback."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from handler.model.snapshot import DEMO
from tests.support.facing import Client, clients

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-u", "-m", "handler")


def endless(directory: Path) -> str:
    """The path of a demo model with no token that ends an answer."""
    model = shutil.copytree(DEMO, directory / "endless")
    for name in ("config.json", "generation_config.json"):
        text = (model / name).read_text(encoding="utf-8")
        (model / name).write_text(text.replace('"eos_token_id"', '"not_eos_token_id"'), encoding="utf-8")
    return str(model)


class HttpWorker:
    """A worker process; `client` sends it requests."""

    def __init__(self, process: asyncio.subprocess.Process, log_path: Path) -> None:
        self.process = process
        self.client: Client
        self._log_path = log_path

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    async def addresses(self, timeout_s: float = 30.0) -> list[str]:
        """Where it listens; waits until it does."""
        async with asyncio.timeout(timeout_s):
            while True:
                for line in self.log.splitlines():
                    if '"addresses"' in line:
                        found: list[str] = json.loads(line)["addresses"]
                        return found
                if self.process.returncode is not None:
                    raise RuntimeError(f"the worker ended with {self.process.returncode}:\n{self.log}")
                await asyncio.sleep(0.02)

    async def ready(self, timeout_s: float = 60.0) -> None:
        """Wait until it is healthy."""
        async with asyncio.timeout(timeout_s):
            while True:
                with suppress(aiohttp.ClientConnectionError):
                    if (await self.client.get("/ping")).status == 200:
                        return
                if self.process.returncode is not None:
                    raise RuntimeError(f"the worker ended with {self.process.returncode}:\n{self.log}")
                await asyncio.sleep(0.05)

    async def health(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.client.get("/health")).json
        return found

    async def at_rest(self, timeout_s: float = 30.0) -> dict[str, Any]:
        """The engine's counters, once no request is in it."""
        async with asyncio.timeout(timeout_s):
            while (health := await self.health())["active_jobs"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return health

    def rss(self) -> int:
        """Its resident memory, in bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    async def stop(self, timeout_s: float = 60.0) -> int:
        """Send SIGTERM; returns the exit status."""
        with suppress(ProcessLookupError):
            self.process.terminate()
        async with asyncio.timeout(timeout_s):
            return await self.process.wait()


@asynccontextmanager
async def http_worker(wait: bool = True, **env: str) -> AsyncIterator[HttpWorker]:
    """A worker on a free port of loopback; killed at the end."""
    settings = {"FACE": "http", "MODEL_PATH": "demo", "PORT": "0", "BIND_ADDRESS": "127.0.0.1", **env}
    with tempfile.TemporaryDirectory(prefix="http-worker-") as directory:
        log_path = Path(directory, "log")
        with log_path.open("wb") as log:  # noqa: ASYNC230
            process = await asyncio.create_subprocess_exec(
                *COMMAND, env={**os.environ, **settings}, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=log,
                stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
        worker = HttpWorker(process, log_path)
        try:
            async with clients((await worker.addresses())[0]) as client:
                worker.client = client
                if wait:
                    await worker.ready()
                yield worker
        except Exception as error:
            error.add_note(f"the worker (exit status {process.returncode}) logged last:\n{worker.log[-4000:]}")
            raise
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
