"""Requests: how one is parsed, limited in size, and recorded. Knows no job except by its id."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from runpod_local.faults import Route

MB = 1_000_000
#: RunPod's documented payload limits, in bytes. Above them the answer is 413, on job-done the 400 that users report.
LIMITS: dict[Route, int] = {"run": 10 * MB, "runsync": 20 * MB, "openai": 20 * MB, "stream": 1 * MB, "done": 20 * MB}
MAX_BODY = 1 * MB
#: larger bodies are read up to here, so that the client sees the answer and not a broken connection
MAX_READ = 64 * MB


@dataclass(frozen=True)
class Call:
    """One request. `body` is the parsed JSON; the record of a large one keeps only its `size`, in bytes."""

    route: Route
    path: str
    worker: str | None
    job: str | None
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    size: int
    at: float  # time.monotonic()


class Refused(Exception):
    """The request is answered with `status`, and changes nothing."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parse_call(route: Route, request: web.Request, raw: bytes, size: int | None = None) -> Call:
    """Parse a request with the body `raw`; `size` is given where the body was left out.

    Raises:
        Refused: the body is too large, or not JSON.
    """
    if len(raw) > LIMITS.get(route, MAX_BODY):
        raise Refused(400 if route == "done" else 413, f"{len(raw)} bytes are too many")
    body = None
    if raw:
        try:
            body = json.loads(raw, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise Refused(400, "the body is not JSON") from error
    if route == "done" and isinstance(body, dict) and body.get("status") == "IN_PROGRESS":
        route = "progress"
    return Call(
        route=route,
        path=request.path,
        worker=request.match_info.get("worker"),
        job=request.match_info.get("job"),
        query=request.query,
        headers=request.headers,
        body=body,
        size=len(raw) if size is None else size,
        at=time.monotonic(),
    )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is a constant of Python, not of JSON")


def milliseconds(given: Mapping[str, Any], name: str, default_ms: int) -> float:
    """Seconds, from a positive number of milliseconds."""
    try:
        value = float(given.get(name, default_ms))
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value < math.inf:
        raise Refused(400, f"`{name}` must be a positive number of milliseconds")
    return value / 1000
