"""Faults that a test declares: what goes wrong on which route, how often. Knows no job except by its id."""

from dataclasses import dataclass, field
from typing import Literal

#: "take" is job-take and job-take-batch, "progress" is an IN_PROGRESS body on job-done, "stream" is the worker's
#: job-stream and "poll" the client's /stream.
Route = Literal[
    "take", "stop", "stream", "done", "progress", "ping",
    "run", "runsync", "status", "poll", "cancel", "health", "openai",
]  # fmt: skip
#: routes whose path names a job
ABOUT_A_JOB: frozenset[Route] = frozenset({"stream", "done", "progress", "status", "poll", "cancel"})
#: when a fault acts: before the request has its effect, on the jobs that are handed out, or after the effect
Stage = Literal["before", "handout", "after"]


@dataclass
class Fault:
    """One thing that goes wrong on one route: `times` times (None: always), each time with probability `chance`.

    It replaces the request's effect, or, with `after`, comes when the request has had its effect, so that only the
    reply is lost or wrong. On job-take and job-stop, `after` waits for a reply that is not empty.

    Raises:
        ValueError: the combination can never occur.
    """

    route: Route
    status: int | None = None  # answer this status, with `body`
    body: str | None = None  # answer this text (with 200 unless `status` is set)
    content_type: str = "application/json"
    drop: bool = False  # close the connection without an answer
    hang: bool = False  # never answer
    delay_s: float = 0.0  # answer so much later; without other fields the answer is the right one
    duplicate: bool = False  # take: hand out one job twice, in one batch or, for single takes, in the next reply
    item: object = None  # take: hand out this item too (single take: instead), e.g. {"input": {}}, which has no id
    after: bool = False
    job: str | None = None  # only for requests about this job
    times: int | None = 1
    chance: float = 1.0
    struck: int = field(default=0, init=False)  # how often it has happened

    def __post_init__(self) -> None:
        # A test with a fault that never happens would pass without testing anything.
        reply = bool(self.drop or self.hang or self.delay_s or self.status or self.body is not None)
        if reply == self._handout:
            raise ValueError(
                "a fault is one thing that goes wrong: with the reply, or with the jobs that are handed out"
            )
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
