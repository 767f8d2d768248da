"""The HTTP face over an engine that says what it is told to, and a client for it."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from handler.job import Jobs
from handler.operations.operations import Operations
from handler.report import Report
from handler.settings import Settings
from handler.web.face import Backend, Face
from handler.web.server import runner_of
from tests.support.fakes import ScriptedEngine

Json = dict[str, Any]


@dataclass
class Answer:
    """An answer that was read to its end."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def events(self) -> list[Any]:
        """The data of each server-sent event."""
        return [json.loads(line[6:]) for line in self.text.split("\n") if line.startswith("data: {")]


class Client:
    """Sends requests to one face."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def post(self, path: str, body: object = None, **more: Any) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send("POST", path, data=io.BytesIO(data) if len(data) > 1_000_000 else data, **more)

    async def get(self, path: str, **more: Any) -> Answer:
        return await self.send("GET", path, **more)

    async def send(self, method: str, path: str, **more: Any) -> Answer:
        async with self.session.request(method, self.url + path, **more) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, headers, (await response.read()).decode())


@asynccontextmanager
async def clients(url: str) -> AsyncIterator[Client]:
    """A client, closed at the end."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Client(session, url)


def faced(operations: Operations, *, slots: int = 8, **settings: Any) -> Face:
    """A face whose model is loaded."""
    report = Report()
    face = Face(Settings(face="http", **settings), report)
    face.backend = Backend(Jobs(operations, report), slots, lambda: None, operations.core.engine.status)
    face.line.capacity = slots
    report.ready()
    return face


@asynccontextmanager
async def serving(face: Face) -> AsyncIterator[Client]:
    """The face on a port of loopback."""
    runner = runner_of(face)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with clients(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
            yield client
    finally:
        await runner.cleanup()


async def until(condition: Any, timeout_s: float = 10.0) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def slow(pieces: int = 1000) -> ScriptedEngine:
    """An engine whose answers take long."""
    return ScriptedEngine(["x"] * pieces, step_s=0.005)
