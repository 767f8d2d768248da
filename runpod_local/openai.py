"""`/openai/*`: a request becomes a job, and what its worker posts becomes the HTTP answer. Knows no worker.

RunPod documents the route and not its inside. What is chosen here where that is not known says `Assumed`.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from runpod_local.calls import Call
from runpod_local.queue import Job


def job_input(method: str, path: str, call: Call) -> dict[str, Any]:
    """The input of a request's job: neither method nor headers reach the worker.

    Assumed: a GET has no `openai_input`. Official workers take a missing one and `{}` for a GET alike.
    """
    route = {"openai_route": f"/{path}"}
    return route if method == "GET" else {**route, "openai_input": call.body}


async def answer(request: web.Request, call: Call, job: Job, chunks: AsyncIterator[Any]) -> web.StreamResponse:
    """Wait for the job's first chunk or its end, and answer with it; text is written on as it comes.

    The client's going away ends this and not the job. Assumed: whether RunPod cancels the job then is not known.
    """
    async for chunk in chunks:
        if not isinstance(chunk, str):
            # A generator's one object comes as it is. Assumed: what it posts after that is dropped.
            return web.json_response(chunk)
        return await _text(request, call, chunk, chunks)
    if job.state == "COMPLETED":
        # Assumed: the output of a job without chunks comes bare, as the one object of a stream does.
        return web.json_response(job.result.get("output"))
    # A job that failed before its first chunk is a 500, as users report. Assumed: its body, and that a job which was
    # cancelled or ran out of time is answered in the same way.
    return web.json_response({"error": job.result.get("error", job.state)}, status=500)


async def _text(request: web.Request, call: Call, first: str, chunks: AsyncIterator[Any]) -> web.StreamResponse:
    """Texts one after the other. Assumed: the end of a job that fails later is the end of the body, without a mark."""
    streams = isinstance(call.body, dict) and call.body.get("stream") is True
    response = web.StreamResponse()
    response.content_type = "text/event-stream" if streams else "application/json"
    await response.prepare(request)
    await response.write(first.encode())
    async for chunk in chunks:
        # Objects in a stream come as their JSON alone, without `data:`: OpenAI's clients break on them.
        await response.write((chunk if isinstance(chunk, str) else json.dumps(chunk)).encode())
    await response.write_eof()
    return response
