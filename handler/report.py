"""The start-up ledger, counters, and one log line a job: what `info` says and the operator reads. Never any content.

A leaf: knows no request, no engine and no SDK. Values come in, numbers go out.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What is remembered and logged of one job."""

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
    """Kept by the process, on the event loop's thread; handed to whoever has something to tell."""

    def __init__(self, clock: Clock = time.monotonic, *, age_s: float = 0.0) -> None:
        """`age_s`: seconds since the process started, for the interpreter's own start belongs to ours."""
        self._clock = clock
        self._started = clock() - age_s
        self._phases: dict[str, float] = {"interpreter": age_s}
        #: what phases did in their time, by the phase
        self._facts: dict[str, dict[str, JsonValue]] = {}
        self._ready: float | None = None
        self._first_job: dict[str, JsonValue] | None = None
        self._outcomes: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[dict[str, JsonValue]]:
        """Time one phase of the start, and say so on standard error, with the facts put into the dict."""
        began = self._clock()
        facts: dict[str, JsonValue] = {}
        yield facts
        self._phases[name] = seconds = self._clock() - began
        if size := facts.get("bytes"):
            facts["gb_per_s"] = round(float(str(size)) / 1e9 / max(seconds, 1e-3), 2)
        if facts:
            self._facts[name] = facts
        told = " ".join(f"{key}={value}" for key, value in facts.items())
        self.say(f"{name:<10} {seconds:6.2f} s  {told}".rstrip())

    def ready(self) -> None:
        """The first job is about to be asked for: the whole ledger as one line of JSON."""
        self._ready = self._clock() - self._started
        self._log(None, f"ready in {self._ready:.2f} s", startup=self.startup())

    def say(self, line: str) -> None:
        """One line for whoever watches the start."""
        print(line, file=sys.stderr, flush=True)

    def job_done(self, job: JobRecord) -> None:
        """Count a job and log it, in the shape that RunPod's console filters by `requestId`."""
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
        self._log(job.job_id, " ".join(f"{name}={value}" for name, value in facts.items() if value is not None))
        if self._ready is not None and self._first_job is None and job.ttft_ms is not None:
            done = self._clock() - self._started
            self._first_job = {"ttft_ms": job.ttft_ms, "total_ms": job.total_ms, "done_s": round(done, 3)}
            self._log(None, f"first job done in {done:.2f} s", first_job=self._first_job)

    def startup(self) -> dict[str, JsonValue]:
        """The ledger: seconds a phase in order, what they did, and when the worker was ready and answered first.

        `ready_s` and `done_s` count from the start of the process; None is what has not been yet.
        """
        return {
            "phases_s": {name: round(seconds, 3) for name, seconds in self._phases.items()},
            **self._facts,
            "ready_s": None if self._ready is None else round(self._ready, 3),
            "first_job": self._first_job,
        }

    @property
    def state(self) -> Literal["healthy", "loading", "draining", "broken"]:
        return "loading" if self._ready is None else "healthy"

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

    def _log(self, job_id: str | None, message: str, **facts: object) -> None:
        line = json.dumps({"requestId": job_id, "message": message, "level": "INFO", **facts})
        print(line, file=sys.stderr, flush=True)


def process_age() -> float:
    """Seconds since the kernel started this process; 0 where it does not tell."""
    try:
        # Field 22 in clock ticks since the machine started; the name before it may hold spaces (proc_pid_stat(5)).
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return 0.0
