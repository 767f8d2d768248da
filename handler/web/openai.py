"""OpenAI's paths, `/v1/…`: the translation is `handler/openai`'s, and this is its HTTP."""

import asyncio
import re
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from aiohttp import web

from handler.api.failure import Failure
from handler.api.reply import Reply
from handler.engine.fold import Piece
from handler.openai import errors, requests
from handler.openai.call import Call
from handler.openai.served import Served
from handler.web.answers import EventStream, answer, json_response
from handler.web.bodies import Bodies
from handler.web.failures import Refused, sendable, status_of
from handler.web.line import Line, cut_off_error
from handler.web.native import DEADLINE_MS, REQUEST_ID, new_id

if TYPE_CHECKING:  # the port is bound before large libraries are imported
    from handler.job import Jobs

PREFIX = "/v1/"
IGNORED = "x-worker-ignored"
#: names that a header can hold; a caller chooses some of them
_NAME = re.compile(r"[\w.\[\]-]{1,100}", re.ASCII)


def failed(failure: Failure) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of a failure in OpenAI's shape."""
    # Failures of HTTP itself have statuses that only this face knows, and the body's `type` has to agree with them.
    _, body = errors.body(sendable(failure))
    status = status_of(failure)
    body["error"] = {
        **_object(body["error"]),
        "type": "invalid_request_error" if status < 500 else "server_error",
    }
    return status, body, errors.headers(failure)


def _object(value: Any) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value


async def run(request: web.Request, jobs: "Jobs", served: Served, line: Line, bodies: Bodies) -> web.StreamResponse:
    """Answer a request to one of OpenAI's paths.

    Raises:
        WorkerError: the request is not run.
        Refused: there is no such path, or its body is not read.
    """
    method = "GET" if requests.route_of(request.path) in ("models", "model") else "POST"
    if request.method != method:
        raise Refused("method_not_allowed", f"this path takes {method}", headers={"allow": method})
    if method == "GET":
        return await _end(request, Call(request.path, None, served), jobs, {REQUEST_ID: new_id()})
    line.check()  # before the body is read
    body = await bodies.read(request)
    if body.get("deadline_ms") is None:
        body["deadline_ms"] = DEADLINE_MS
    call, headers = Call(request.path, body, served), {REQUEST_ID: new_id()}
    with line.enter():
        if not call.streamed:
            return await _end(request, call, jobs, headers, line)
        return await _stream(request, call, jobs, headers, line)


async def _end(
    request: web.Request, call: Call, jobs: "Jobs", headers: dict[str, str], line: Line | None = None
) -> web.StreamResponse:
    end: Reply | Failure | None = None
    try:
        async with aclosing(jobs.events(headers[REQUEST_ID], call.read)) as events:
            async for event in events:
                if not isinstance(event, Piece):
                    end = event
    except asyncio.CancelledError:
        if line is None or not line.cut_off():
            raise
        end = Failure.of(cut_off_error())
    if end is None:
        raise RuntimeError("the job ended without a reply")
    if isinstance(end, Failure):
        return await _fail(request, call, end, headers)
    return await answer(request, json_response(call.whole(end), headers={**headers, **_ignored(call)}))


async def _stream(
    request: web.Request, call: Call, jobs: "Jobs", headers: dict[str, str], line: Line
) -> web.StreamResponse:
    async with EventStream(request, headers) as stream:
        try:
            async with aclosing(jobs.events(headers[REQUEST_ID], call.read)) as events:
                async for event in events:
                    if isinstance(event, Failure) and not stream.begun:
                        return await _fail(request, call, event, headers)
                    stream.add_headers(_ignored(call))
                    await stream.write(call.chunk(event).encode())
        except asyncio.CancelledError:
            if not line.cut_off():
                raise
            failure = Failure.of(cut_off_error())
            if not stream.begun:
                return await _fail(request, call, failure, headers)
            await stream.write(call.chunk(failure).encode())
        return await stream.end()


async def _fail(request: web.Request, call: Call, failure: Failure, headers: dict[str, str]) -> web.StreamResponse:
    status, body, more = failed(call.named(failure))
    return await answer(request, json_response(body, status, {**headers, **more}))


def _ignored(call: Call) -> dict[str, str]:
    """The header that names fields without effect; the reply's `worker.ignored` names all of them."""
    names = [name for name in call.ignored if _NAME.fullmatch(name)][:50]
    return {IGNORED: ", ".join(names)} if names else {}
