"""A request as it arrives, and what may go wrong with it. Knows no job but by its id."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

# Spelled as people say them: "take" is job-take and job-take-batch, "progress" is an IN_PROGRESS body on job-done, and
# "poll" is the client's /stream, because "stream" is what the worker posts.
Route = Literal[
    "take", "stop", "stream", "done", "progress", "ping",
    "run", "runsync", "status", "poll", "cancel", "health",
]  # fmt: skip
ABOUT_A_JOB: frozenset[Route] = frozenset({"stream", "done", "progress", "status", "poll", "cancel"})
Stage = Literal["before", "handout", "after"]

MB = 1_000_000
# RunPod's documented payload limits; past them the answer is 413, but for job-done the 400 that users report. Larger
# bodies are read up to MAX_READ, so that a client sees that answer and not a broken connection.
LIMITS: dict[Route, int] = {"run": 10 * MB, "runsync": 20 * MB, "stream": 1 * MB, "done": 20 * MB}
MAX_BODY = 1 * MB
MAX_READ = 64 * MB


@dataclass
class Fault:
    """What goes wrong on one route: `times` times (None: always), each with probability `chance`.

    By itself it strikes in place of the request's effect; with `after`, once the effect has happened, so that only the
    reply is lost or wrong. For job-take and job-stop, `after` waits for a reply that carries something.
    """

    route: Route
    status: int | None = None  # answer this status, with `body`
    body: str | None = None  # garbage: answer this text (with 200 unless `status` is set)
    content_type: str = "application/json"
    drop: bool = False  # close the connection without an answer
    hang: bool = False  # never answer
    delay_s: float = 0.0  # answer late; alone, the request is otherwise served as it should be
    duplicate: bool = False  # take: hand one job out twice, in the same batch or, for single takes, in the next reply
    item: object = None  # take: hand out this item too (a single take: instead), e.g. {"input": {}} for one without id
    after: bool = False
    job: str | None = None  # only for requests about this job
    times: int | None = 1
    chance: float = 1.0
    struck: int = field(default=0, init=False)  # how often it has struck so far

    def __post_init__(self) -> None:
        # One that could never strike would make a test pass for nothing.
        reply = bool(self.drop or self.hang or self.delay_s or self.status or self.body is not None)
        if reply == self._handout:
            raise ValueError("a fault is one thing that goes wrong: with the reply, or with what is handed out")
        if self._handout and self.route != "take":
            raise ValueError(f"jobs are handed out on 'take', not on {self.route!r}")
        if self.job is not None and self.route not in ABOUT_A_JOB:
            raise ValueError(f"a request on {self.route!r} is not about one job")

    @property
    def _handout(self) -> bool:
        return self.duplicate or self.item is not None

    @property
    def stage(self) -> Stage:
        if self._handout:
            return "handout"
        return "after" if self.after else "before"


@dataclass(frozen=True)
class Call:
    """One request as it arrived; `body` is the parsed JSON, dropped from the record when it is large (`size` stays)."""

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
    """A request that is answered with `status` and changes nothing."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def call_of(route: Route, request: web.Request, raw: bytes, size: int | None = None) -> Call:
    if len(raw) > LIMITS.get(route, MAX_BODY):
        raise Refused(400 if route == "done" else 413, f"{len(raw)} bytes are too many")
    body = None
    if raw:
        try:
            body = json.loads(raw, parse_constant=_no_constant)
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


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is Python's, not JSON's")


def milliseconds(given: Mapping[str, Any], name: str, default_ms: int) -> float:
    """Seconds, from a positive number of milliseconds."""
    try:
        value = float(given.get(name, default_ms))
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value < math.inf:
        raise Refused(400, f"`{name}` must be a positive number of milliseconds")
    return value / 1000
