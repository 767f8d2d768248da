"""The report: a ledger of the start, and counters."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handler.report import JobRecord, Report, process_age


def ticks() -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += 1.5


def logged(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_the_ledger_keeps_phases_in_order_from_the_start_of_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(clock=ticks().__next__, age_s=0.25)
    with report.phase("imports"):
        pass
    with report.phase("weights") as facts:
        facts |= {"bytes": 3_000_000_000}
    startup = report.startup()
    assert startup["phases_s"] == {"interpreter": 0.25, "imports": 1.5, "weights": 1.5}
    assert startup["weights"] == {"bytes": 3_000_000_000, "gb_per_s": 2.0}
    assert (startup["ready_s"], startup["first_job"]) == (None, None)
    assert logged(capsys) == [
        {"requestId": None, "message": "imports took 1.50 s", "level": "INFO", "phase": "imports", "seconds": 1.5},
        {
            "requestId": None,
            "message": "weights took 1.50 s",
            "level": "INFO",
            "phase": "weights",
            "seconds": 1.5,
            "bytes": 3_000_000_000,
            "gb_per_s": 2.0,
        },
    ]


def test_the_ledger_is_one_line_of_json_when_ready_and_one_more_comes_with_the_first_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report(clock=ticks().__next__, age_s=1.0)
    report.ready()
    assert [line["startup"]["ready_s"] for line in logged(capsys)] == [2.5]
    report.job_done(JobRecord("a", "info", "ok", 1.0))
    report.job_done(JobRecord("b", "chat", "ok", 9.0, ttft_ms=4.0))
    report.job_done(JobRecord("c", "chat", "ok", 9.0, ttft_ms=5.0))
    first = {"ttft_ms": 4.0, "total_ms": 9.0, "done_s": 4.0}
    assert [line["first_job"] for line in logged(capsys) if "first_job" in line] == [first]
    assert report.startup()["first_job"] == first


def test_the_state_is_loading_until_ready_then_healthy_and_draining_and_broken_for_good() -> None:
    report = Report()
    states = [report.state]
    for change in (report.ready, report.draining, report.broken, report.draining):
        change()
        states.append(report.state)
    assert states == ["loading", "healthy", "draining", "broken", "broken"]


def test_a_phase_that_fails_is_not_reported_as_done() -> None:
    report = Report()
    with pytest.raises(OSError, match="disk"), report.phase("weights"):
        raise OSError("disk")
    assert report.startup()["phases_s"] == {"interpreter": 0.0}


def test_jobs_and_tokens_are_summed_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(clock=ticks().__next__)
    report.job_done(JobRecord("a", "chat", "ok", 5.0, prompt_tokens=3, completion_tokens=4, finish_reason="stop"))
    report.job_done(JobRecord("b", None, "invalid_request", 1.0))
    assert report.outcomes == {"ok": 1, "invalid_request": 1}
    assert report.tokens == {"prompt": 3, "completion": 4}
    first, second = logged(capsys)
    assert (
        first["message"]
        == "operation=chat outcome=ok prompt_tokens=3 completion_tokens=4 total_ms=5.0 finish_reason=stop"
    )
    assert second["message"] == "outcome=invalid_request prompt_tokens=0 completion_tokens=0 total_ms=1.0"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the kernel does not tell when a process started")
def test_the_age_of_a_process_counts_from_its_start_and_not_from_the_first_import() -> None:
    """The child says how old it is between two looks at the clock from outside; ticks are 10 ms."""
    script = "import time; time.sleep(0.3); from handler.report import process_age; print(process_age())"
    began = time.monotonic()
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    age = float(subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, check=True).stdout)
    assert 0.29 <= age <= time.monotonic() - began + 0.02
    assert process_age() > 0
