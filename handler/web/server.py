"""Serves the face: binds the port, loads the model beside it, and ends as a balancer expects it."""

import asyncio
import os
import signal
from collections.abc import Callable

from aiohttp import web

from handler import log
from handler.errors import StartError
from handler.queue.leaving import BoundedEnd, leave
from handler.queue.sdk import overfetched
from handler.report import Report
from handler.settings import Settings, on_runpod
from handler.web.face import Backend, Face

#: how often the engine is looked at
WATCH_S = 0.5
#: Seconds for which the port stays open after a stop: a balancer learns of it by an answer of 503, and a request that
#: is on its way is refused in words.
LINGER_S = 1.0
#: seconds that the requests of a broken engine may take to end by themselves
BROKEN_GRACE_S = 1.0
#: seconds for the last answers of requests that were cut off
FAREWELL_S = 5.0


def serve(settings: Settings, report: Report, load: Callable[[], Backend]) -> int:
    """Serve until SIGTERM or SIGINT (returns 0), or until the engine is broken (returns 1).

    Args:
        load: loads the model; runs in a thread, while the port is bound and says that the worker is loading.

    Raises:
        StartError: the port cannot be bound; or what `load` raises.
    """
    # Nothing is answered yet that could be lost. A handler of the event loop would wait for libraries that load.
    signal.signal(signal.SIGINT, lambda *_: leave(128 + signal.SIGINT))
    return asyncio.Runner().run(_Server(settings, report).run(load))


def runner_of(face: Face) -> web.AppRunner:
    """The library's server for a face.

    A client that leaves cancels its request, and with it the work. Bodies are read as they are sent: what a few
    compressed bytes would become is not bounded.
    """
    return web.AppRunner(
        face.application(), access_log=None, handler_cancellation=True, auto_decompress=False, shutdown_timeout=1.0
    )


class _Server:
    def __init__(self, settings: Settings, report: Report) -> None:
        self._settings = settings
        self._report = report
        self._face = Face(settings, report)
        self._end = BoundedEnd(report, settings.shutdown_grace_s)
        self._stopping = asyncio.Event()
        self._broke = False

    async def run(self, load: Callable[[], Backend]) -> int:
        runner = runner_of(self._face)
        await runner.setup()
        await self._bind(runner)
        backend = await asyncio.to_thread(load)
        try:
            return await self._serve(backend, runner)
        except Exception as error:
            log.defect(error)
            return 1

    async def _bind(self, runner: web.AppRunner) -> None:
        settings = self._settings
        ports = {"PORT": settings.port}
        if settings.port_health not in (None, settings.port):
            ports["PORT_HEALTH"] = settings.port_health
        for name, port in ports.items():
            try:
                await web.TCPSite(runner, settings.bind_address, port).start()
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else type(error).__name__
                raise StartError(
                    f"{name}={port} cannot be bound at BIND_ADDRESS={settings.bind_address} ({reason}): set another"
                ) from None
        bound = [f"http://{host}:{port}" for host, port, *_ in runner.addresses]
        log.info(f"listening on {', '.join(bound)}", addresses=bound)
        if settings.api_key is None and settings.bind_address not in ("127.0.0.1", "::1", "localhost"):
            edge = "RunPod's edge checks keys" if on_runpod(os.environ) else "outside of RunPod set API_KEY"
            log.warn(f"API_KEY is not set: whoever reaches the port is answered; {edge}")

    async def _serve(self, backend: Backend, runner: web.AppRunner) -> int:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._drain)
        self._face.backend = backend
        self._face.line.capacity = overfetched(backend.slots)
        self._report.ready()
        watch = loop.create_task(self._watch(backend.fault))
        watch.add_done_callback(self._give_up_with)
        await self._stopping.wait()
        stopped = loop.time()
        await self._end_requests()
        await asyncio.sleep(max(0.0, stopped + LINGER_S - loop.time()))
        await runner.cleanup()
        return int(self._broke)

    async def _watch(self, fault: Callable[[], str | None]) -> None:
        while (reason := fault()) is None:  # noqa: ASYNC110  a thread that hangs sets no event
            await asyncio.sleep(WATCH_S)
        self._give_up(reason)

    def _drain(self) -> None:
        self._end.draining()
        self._stopping.set()

    def _give_up(self, reason: str) -> None:
        log.error(f"the worker ends: {reason}")
        self._end.broken()
        self._broke = True
        self._stopping.set()

    def _give_up_with(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            log.defect(error)
            self._give_up(f"a defect of its own, {type(error).__name__}")

    async def _end_requests(self) -> None:
        """Wait for the requests that run, then cut off those that have not ended."""
        line = self._face.line
        if await line.empty(self._settings.shutdown_grace_s, unless=lambda: self._broke) or (
            self._broke and await line.empty(BROKEN_GRACE_S)
        ):
            return
        line.abandon()
        if not await line.empty(FAREWELL_S):
            log.warn(f"{line.running} requests were not answered before the worker ended")
