"""The report: a ledger of the start, and counters."""

import json
from collections.abc import Iterator

import pytest

from handler.report import JobRecord, Report


def ticks() -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += 1.5


def test_the_ledger_keeps_phases_in_order_with_their_sum(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(clock=ticks().__next__)
    with report.phase("imports"):
        pass
    with report.phase("weights"):
        pass
    assert report.startup() == {"phases_s": {"imports": 1.5, "weights": 1.5}, "total_s": 3.0}
    assert [line.split() for line in capsys.readouterr().err.splitlines()] == [
        ["imports", "1.50", "s"],
        ["weights", "1.50", "s"],
    ]


def test_a_phase_that_fails_is_not_reported_as_done() -> None:
    report = Report()
    with pytest.raises(OSError, match="disk"), report.phase("weights"):
        raise OSError("disk")
    assert report.startup()["phases_s"] == {}


def test_jobs_and_tokens_are_summed_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(clock=ticks().__next__)
    report.job_done(JobRecord("a", "chat", "ok", 5.0, prompt_tokens=3, completion_tokens=4, finish_reason="stop"))
    report.job_done(JobRecord("b", None, "invalid_request", 1.0))
    counters = report.counters()
    assert counters["jobs"] == {"ok": 1, "invalid_request": 1}
    assert counters["tokens"] == {"prompt": 3, "completion": 4}
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (
        first["message"]
        == "operation=chat outcome=ok prompt_tokens=3 completion_tokens=4 total_ms=5.0 finish_reason=stop"
    )
    assert second["message"] == "outcome=invalid_request prompt_tokens=0 completion_tokens=0 total_ms=1.0"
