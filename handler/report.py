"""The start-up ledger, counters, and one log line a job: what `info` says and the operator reads. Never any content.

A leaf: knows no request, no engine and no SDK. Values come in, numbers go out.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What is remembered and logged of one job."""

    job_id: str
    #: None where the request could not be parsed
    operation: str | None
    #: `ok`, an error code, or `cancelled`
    outcome: str
    total_ms: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queue_ms: float | None = None
    ttft_ms: float | None = None
    finish_reason: str | None = None


class Report:
    """Kept by the process, on the event loop's thread; handed to whoever has something to tell."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._phases: list[tuple[str, float]] = []
        self._outcomes: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one phase of the start, and say so on standard error."""
        began = self._clock()
        yield
        seconds = self._clock() - began
        self._phases.append((name, seconds))
        self.say(f"{name:<10} {seconds:6.2f} s")

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
        }
        message = " ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
        print(json.dumps({"requestId": job.job_id, "message": message, "level": "INFO"}), file=sys.stderr, flush=True)

    def startup(self) -> dict[str, object]:
        """The ledger: seconds a phase, in order, and their sum."""
        phases = {name: round(seconds, 3) for name, seconds in self._phases}
        return {"phases_s": phases, "total_s": round(sum(phases.values()), 3)}

    def counters(self) -> dict[str, object]:
        """Jobs by outcome and tokens by kind since the start."""
        return {
            "uptime_s": round(self._clock() - self._started, 1),
            "jobs": dict(self._outcomes),
            "tokens": {kind: self._tokens[kind] for kind in ("prompt", "completion")},
        }
