"""A load-balancing endpoint of RunPod on loopback: polls workers for their health, and passes requests on to one.

Where RunPod's behaviour is not known, a comment says `assumed`. Knows no queue and no job.
"""

import asyncio
import os
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import aiohttp
from aiohttp import web

State = Literal["initialising", "healthy", "unhealthy"]
#: the header that names the worker of an answer; sent back, the same worker is preferred
AFFINITY = "X-Runpod-Worker-Id"
#: bytes of a body, both ways
MAX_BODY = 30_000_000
#: headers of one connection, which are not passed on
_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "content-length"}


@dataclass(eq=False)
class Target:
    """A worker of the endpoint."""

    id: str
    url: str
    health_url: str
    process: asyncio.subprocess.Process
    log_path: Path
    state: State = "initialising"
    running: int = 0

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")


class Balancer:
    """One endpoint, with its workers. Use it as an async context manager.

    Args:
        poll_s: seconds between two questions for a worker's health: 30 by the documents of a sister project.
        wait_s: seconds that a request waits for a worker, and then is answered with 400.
        limit_s: seconds that a request may take, and then is answered with 524, or cut.
        capacity: requests that a worker gets at a time. Assumed: there is such a number, and its value is not known.
    """

    def __init__(
        self, *, poll_s: float = 30.0, wait_s: float = 120.0, limit_s: float = 330.0, capacity: int = 100
    ) -> None:
        self.poll_s, self.wait_s, self.limit_s, self.capacity = poll_s, wait_s, limit_s, capacity
        self.workers: dict[str, Target] = {}
        #: answers by status
        self.statuses: Counter[int] = Counter()
        self._changed = asyncio.Event()
        self._started = 0

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=MAX_BODY)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
        )
        self._logs = tempfile.TemporaryDirectory(prefix="runpod-balancer-")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()
        self._logs.cleanup()

    @property
    def url(self) -> str:
        """Where clients send their requests: https://ENDPOINT.api.runpod.ai in production."""
        host, port, *_ = self._runner.addresses[0]
        return f"http://{host}:{port}"

    @asynccontextmanager
    async def worker(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, own_health_port: bool = True
    ) -> AsyncIterator[Target]:
        """Run a command as a worker; at the end of the block send SIGTERM, after 10 s SIGKILL.

        Its environment has PORT, and PORT_HEALTH where it has a port of its own for the health. Assumed: no variable of
        queue workers is set.
        """
        self._started += 1
        id_, port, health_port = f"lb-worker-{self._started}", _free_port(), _free_port()
        ports = {"PORT": str(port)} | ({"PORT_HEALTH": str(health_port)} if own_health_port else {})
        log_path = Path(self._logs.name, id_)
        with log_path.open("wb") as log:  # noqa: ASYNC230
            process = await asyncio.create_subprocess_exec(
                *command, env={**os.environ, "RUNPOD_POD_ID": id_, **ports, **(env or {})}, start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
        health = f"http://127.0.0.1:{health_port if own_health_port else port}"
        path = (env or {}).get("HEALTH_CHECK_PATH", "/ping")
        target = Target(id_, f"http://127.0.0.1:{port}", health + path, process, log_path)
        self.workers[id_] = target
        polling = asyncio.create_task(self._poll(target))
        try:
            yield target
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await process.wait()
            polling.cancel()
            del self.workers[id_]
            with suppress(ProcessLookupError):
                process.kill()

    async def until(self, id_: str, state: State, timeout_s: float = 60.0) -> None:
        """Wait until a worker is in a state."""
        async with asyncio.timeout(timeout_s):
            while self.workers[id_].state != state:
                await self._next_change()

    async def _poll(self, target: Target) -> None:
        while True:
            state: State = "unhealthy"
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.get(target.health_url, timeout=aiohttp.ClientTimeout(total=10)) as answer:
                    states: dict[int, State] = {200: "healthy", 204: "initialising"}
                    state = states.get(answer.status, "unhealthy")
            # Assumed: a worker whose port is not bound yet is one that starts, as RunPod gives it minutes.
            if state == "unhealthy" and target.state == "initialising" and target.process.returncode is None:
                state = "initialising"
            if state != target.state:
                target.state = state
                self._notify()
            await asyncio.sleep(self.poll_s)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        response = await self._answer(request)
        self.statuses[response.status] += 1
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        wish = request.headers.get(AFFINITY, "")
        strict = wish.startswith("strict ")
        if strict and wish.removeprefix("strict ") not in self.workers:
            return web.json_response({"error": "affinity_worker_gone"}, status=404)
        body = await request.read()
        target = await self._choose(wish.removeprefix("strict "), strict=strict)
        if target is None:
            return web.json_response({"error": "no workers available"}, status=400)
        target.running += 1
        begun = asyncio.Event()
        try:
            async with asyncio.timeout(self.limit_s) as limit:
                return await self._pass_on(request, body, target, begun)
        except TimeoutError:
            if not limit.expired():
                raise
            if request.transport is not None and begun.is_set():
                request.transport.abort()
            return web.Response(status=524)
        except aiohttp.ClientError:
            return web.Response(status=502)  # as for a port that no worker listens on
        finally:
            target.running -= 1
            self._notify()

    async def _choose(self, wish: str, *, strict: bool) -> Target | None:
        """The worker with the fewest requests, or the one wished for; None where there is none in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.wait_s):
                while True:
                    free = [one for one in self.workers.values() if one.state == "healthy"]
                    # Assumed: a request waits where all workers are at their capacity, as it does where there is none.
                    free = [one for one in free if one.running < self.capacity]
                    if wished := [one for one in free if one.id == wish]:
                        return wished[0]
                    if free and not strict:
                        return min(free, key=lambda one: one.running)
                    await self._next_change()
        return None

    async def _pass_on(
        self, request: web.Request, body: bytes, target: Target, begun: asyncio.Event
    ) -> web.StreamResponse:
        # Assumed: every header reaches the worker, Authorization too; and an error of the worker's, 503 among them, is
        # the caller's answer: it is not tried elsewhere.
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        url = target.url + request.path_qs
        async with self._session.request(request.method, url, data=body or None, headers=headers) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            response = web.StreamResponse(status=answer.status, headers={**kept, AFFINITY: target.id})
            await response.prepare(request)
            begun.set()
            async for part in answer.content.iter_any():
                await response.write(part)
            await response.write_eof()
            return response

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _next_change(self) -> None:
        await self._changed.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
