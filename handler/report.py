"""The worker's own records: the ledger of its start, its state, its counters. `info` and the log report them.

Knows no request, no engine and no SDK: numbers and names come in, and none is a caller's content.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from handler import log

Clock = Callable[[], float]
#: `loading` until the worker asks for its first job; `draining` once it takes no more; `broken` where its engine failed
State = Literal["loading", "healthy", "draining", "broken"]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """The figures of one job that are counted and logged."""

    job_id: str
    #: None where the request could not be parsed
    operation: str | None
    #: `ok`, `degraded` (an enhancement that is not the model's), an error code, or `cancelled`
    outcome: str
    total_ms: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queue_ms: float | None = None
    ttft_ms: float | None = None
    finish_reason: str | None = None
    #: why it is degraded
    reason: str | None = None


class Report:
    """One for each process, used on the event loop's thread."""

    def __init__(self, clock: Clock = time.monotonic, *, age_s: float = 0.0) -> None:
        """`age_s`: seconds since the process started, as the interpreter's start belongs to the worker's."""
        self._clock = clock
        self._started = clock() - age_s
        self._state: State = "loading"
        #: seconds by phase
        self._phases: dict[str, float] = {"interpreter": age_s}
        #: results of phases (bytes read, graphs captured), by phase
        self._facts: dict[str, dict[str, JsonValue]] = {}
        self._ready: float | None = None
        self._first_job: dict[str, JsonValue] | None = None
        self._outcomes: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[dict[str, JsonValue]]:
        """Time one phase of the start and log it, with the facts that are put into the dict."""
        began = self._clock()
        facts: dict[str, JsonValue] = {}
        yield facts
        self._phases[name] = seconds = self._clock() - began
        if size := facts.get("bytes"):
            facts["gb_per_s"] = round(float(str(size)) / 1e9 / max(seconds, 1e-3), 2)
        if facts:
            self._facts[name] = facts
        log.info(f"{name} took {seconds:.2f} s", phase=name, seconds=round(seconds, 3), **facts)

    # -- state -----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._state

    def ready(self) -> None:
        """The worker asks for its first job now; logs the ledger as one line."""
        self._ready = self._clock() - self._started
        self._state = "healthy"
        log.info(f"ready in {self._ready:.2f} s", startup=self.startup())

    def draining(self) -> None:
        """The worker takes no more jobs."""
        if self._state != "broken":
            self._state = "draining"

    def broken(self) -> None:
        """The worker cannot go on, and is to be replaced."""
        self._state = "broken"

    # -- jobs ------------------------------------------------------------------------------------------------------

    def job_done(self, job: JobRecord) -> None:
        """Count a job and log it."""
        self._outcomes[job.outcome] += 1
        self._tokens["prompt"] += job.prompt_tokens
        self._tokens["completion"] += job.completion_tokens
        facts = {
            "operation": job.operation,
            "outcome": job.outcome,
            "prompt_tokens": job.prompt_tokens,
            "completion_tokens": job.completion_tokens,
            "queue_ms": job.queue_ms,
            "ttft_ms": job.ttft_ms,
            "total_ms": job.total_ms,
            "finish_reason": job.finish_reason,
            "reason": job.reason,
        }
        log.info(" ".join(f"{name}={value}" for name, value in facts.items() if value is not None), job.job_id)
        if self._ready is not None and self._first_job is None and job.ttft_ms is not None:
            done = self._clock() - self._started
            self._first_job = {"ttft_ms": job.ttft_ms, "total_ms": job.total_ms, "done_s": round(done, 3)}
            log.info(f"first job done in {done:.2f} s", job.job_id, first_job=self._first_job)

    # -- read by `info` --------------------------------------------------------------------------------------------

    def startup(self) -> dict[str, JsonValue]:
        """The ledger: seconds of each phase in order, their facts, when the worker was ready and first answered.

        `ready_s` and `done_s` are seconds since the start of the process; None where that has not happened yet.
        """
        return {
            "phases_s": {name: round(seconds, 3) for name, seconds in self._phases.items()},
            **self._facts,
            "ready_s": None if self._ready is None else round(self._ready, 3),
            "first_job": self._first_job,
        }

    @property
    def uptime_s(self) -> float:
        """Seconds since the process started."""
        return round(self._clock() - self._started, 1)

    @property
    def outcomes(self) -> dict[str, int]:
        """Jobs by outcome since the start."""
        return dict(self._outcomes)

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens by kind since the start."""
        return {kind: self._tokens[kind] for kind in ("prompt", "completion")}


def process_age() -> float:
    """Seconds since the kernel started this process; 0 on a system that does not tell."""
    try:
        # Field 22 in clock ticks since the machine started; the name before it may hold spaces (proc_pid_stat(5)).
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return 0.0
