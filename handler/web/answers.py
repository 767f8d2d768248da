"""Writes answers: whole ones, and streams of server-sent events. A client that reads nothing is not waited for long."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from aiohttp import web

from handler.queue.encoding import JsonObject, encode

#: seconds in which a client must read a part of its answer
STALL_S = 30.0
#: seconds without an event after which a comment is sent, because proxies close silent connections
SILENCE_S = 15.0
#: `x-accel-buffering`: a proxy must not hold events back
_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


async def answer(request: web.Request, response: web.Response) -> web.Response:
    """Send a whole answer, and close the connection where the client does not read it."""
    async with _patience(request):
        await response.prepare(request)
        await response.write_eof()
    return response


def json_response(body: JsonObject, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A whole answer.

    Raises:
        NotJson: a value of the body is none of JSON's.
    """
    return web.Response(body=encode(body), status=status, headers=headers, content_type="application/json")


class EventStream:
    """An answer as server-sent events. Its headers go out with the first of them, or with the first comment.

    Until then the request can still be answered with another status.
    """

    def __init__(self, request: web.Request, headers: Mapping[str, str] | None = None) -> None:
        self._request = request
        self._response = web.StreamResponse(headers={**_STREAM_HEADERS, **(headers or {})})
        self._writing = asyncio.Lock()
        self._wrote = asyncio.get_running_loop().time()
        self._comments: asyncio.Task[None] | None = None

    @property
    def begun(self) -> bool:
        """True once the headers are sent."""
        return self._response.prepared

    def add_headers(self, headers: Mapping[str, str]) -> None:
        """Add headers, where they are not sent yet."""
        if not self.begun:
            self._response.headers.update(headers)

    async def __aenter__(self) -> Self:
        self._comments = asyncio.get_running_loop().create_task(self._comment())
        self._comments.add_done_callback(_look_at_error)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._comments is not None:
            self._comments.cancel()

    async def send(self, data: bytes, event: str | None = None) -> None:
        """Send one event."""
        name = b"" if event is None else b"event: %b\n" % event.encode()
        await self.write(b"%bdata: %b\n\n" % (name, data))

    async def write(self, text: bytes) -> None:
        """Send text that is made of events already."""
        async with self._writing, _patience(self._request):
            if not self.begun:
                await self._response.prepare(self._request)
            await self._response.write(text)
            self._wrote = asyncio.get_running_loop().time()

    async def end(self) -> web.StreamResponse:
        """End the stream."""
        async with self._writing, _patience(self._request):
            if not self.begun:
                await self._response.prepare(self._request)
            await self._response.write_eof()
        return self._response

    async def _comment(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.0, self._wrote + SILENCE_S - loop.time()))
            if loop.time() - self._wrote >= SILENCE_S:
                await self.write(b": \n\n")


@asynccontextmanager
async def _patience(request: web.Request) -> AsyncIterator[None]:
    """End the connection where its client does not read within `STALL_S`."""
    try:
        async with asyncio.timeout(STALL_S):
            yield
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client reads nothing") from None


def _look_at_error(task: "asyncio.Task[None]") -> None:
    """A client that left is found by the request's own task, too."""
    if not task.cancelled():
        task.exception()
