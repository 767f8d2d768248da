"""How soon a full queue has room: from the latest runs, within bounds."""

import pytest

from handler.engine.protocol import Status
from handler.inference.pace import FIRST_S, Pace


def status(running: int, waiting: int) -> Status:
    return Status(True, running, waiting, 0.0)


@pytest.mark.parametrize(
    ("running", "waiting", "seconds"),
    [(8, 64, 16), (4, 64, 32), (8, 63, 16), (8, 1, 1), (1, 10_000, 60), (0, 64, 16)],
    ids=["all rows", "fewer rows", "rounded up", "at least one", "at most sixty", "before the first step"],
)
def test_those_who_wait_begin_as_fast_as_those_who_run_end(running: int, waiting: int, seconds: int) -> None:
    pace = Pace(rows=8)
    for _ in range(200):
        pace.ended(1.999)
    assert pace.retry_after_s(status(running, waiting)) == seconds


def test_before_anything_has_ended_it_is_a_guess_that_the_latest_runs_replace() -> None:
    pace = Pace(rows=8)
    assert pace.retry_after_s(status(8, 32)) == 4 * FIRST_S
    estimates = []
    for _ in range(40):
        pace.ended(10.0)
        estimates.append(pace.retry_after_s(status(8, 32)))
    assert estimates == sorted(estimates)
    assert estimates[-1] == 40
