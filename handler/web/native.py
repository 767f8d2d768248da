"""The native paths: a job's `input` as the body, and its reply as the answer, or as events where it is streamed."""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, assert_never

from aiohttp import web

from handler.api.failure import Failure
from handler.api.info import Section
from handler.api.reply import Reply, to_wire
from handler.engine.fold import Piece
from handler.errors import WorkerError
from handler.queue.encoding import encode
from handler.web.answers import EventStream, answer, json_response
from handler.web.bodies import Bodies
from handler.web.failures import body_of, headers_of, original_prompt, status_of
from handler.web.line import Line, cut_off_error
from handler.web.routes import Route

if TYPE_CHECKING:  # the port is bound before large libraries are imported
    from handler.job import Jobs

#: The deadline of requests that send none. The platform cuts a connection after 330 s, and with it the whole answer;
#: a deadline ends the answer with the text so far.
DEADLINE_MS = 320_000
REQUEST_ID = "x-request-id"


def new_id() -> str:
    """The id of a request, by which the log names it."""
    return uuid.uuid4().hex


async def run(
    route: Route, request: web.Request, ready: "Callable[[], Jobs]", line: Line, bodies: Bodies
) -> web.StreamResponse:
    """Answer a POST.

    Args:
        ready: the line of jobs; raises `Overloaded` while there is none.

    Raises:
        WorkerError: the request is not run.
        Refused: its body is not read.
    """
    if route.operation != "enhance":  # its callers get their prompt back, whatever happens, so that it is read
        ready()
    if route.operation in ("chat", "generate"):
        line.check()
    body = await bodies.read(request)
    original = original_prompt(body) if route.operation == "enhance" else None
    headers = {REQUEST_ID: new_id()}
    try:
        return await _answer(request, ready(), route.input(body), line, headers, original)
    except WorkerError as error:
        return await answer(request, whole(Failure.of(error), headers, original))


async def _answer(
    request: web.Request,
    jobs: "Jobs",
    given: dict[str, Any],
    line: Line,
    headers: dict[str, str],
    original: str | None,
) -> web.StreamResponse:
    id_ = headers[REQUEST_ID]
    if given["operation"] == "info":
        return await answer(request, whole(await jobs.answer({"id": id_, "input": given}), headers, original))
    if given.get("deadline_ms") is None:
        given["deadline_ms"] = DEADLINE_MS
    with line.enter():
        async with EventStream(request, headers) as stream:
            try:
                end = await _pieces(jobs, {"id": id_, "input": given}, stream)
            except asyncio.CancelledError:
                if not line.cut_off():
                    raise
                end = Failure.of(cut_off_error())
            # A request that asked to be streamed and failed before its first piece gets a status of its own.
            streams = given.get("stream") is True and not isinstance(end, Failure)
            if not streams and not stream.begun:
                return await answer(request, whole(end, headers, original))
            if isinstance(end, Failure):
                await stream.send(encode(body_of(end, original)), "error")
            else:
                await stream.send(encode(to_wire(end)))
            return await stream.end()


async def _pieces(jobs: "Jobs", job: dict[str, Any], stream: EventStream) -> Reply | Failure:
    """Send pieces as they come; returns the end."""
    index = 0
    async with aclosing(jobs.run(job)) as events:
        async for event in events:
            match event:
                case Piece():
                    name = "reasoning_delta" if event.reasoning else "delta"
                    await stream.send(encode({"index": index, name: event.text}))
                    index += 1
                case Reply() | Failure():
                    return event
                case _:
                    assert_never(event)
    raise RuntimeError("the job ended without a reply")


def whole(end: Reply | Failure, headers: dict[str, str], original: str | None = None) -> web.Response:
    """The answer of a request that is not streamed."""
    if isinstance(end, Failure):
        return json_response(body_of(end, original), status_of(end), {**headers, **headers_of(end)})
    return json_response(to_wire(end), headers=headers)


async def section(name: Section, jobs: "Jobs") -> web.Response:
    """The answer to a GET: a section of `info`, its fields at the top level."""
    id_ = new_id()
    end = await jobs.answer({"id": id_, "input": {"operation": "info", "sections": [name]}})
    headers = {REQUEST_ID: id_}
    if isinstance(end, Failure):
        return whole(end, headers)
    wire = to_wire(end)
    inner = wire.pop(name)
    assert isinstance(inner, dict)
    return json_response({**wire, **inner}, headers=headers)
