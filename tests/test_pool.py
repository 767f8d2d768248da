"""Work in threads ends at its deadline, where its caller leaves, and never waits for work of another kind."""

import asyncio
import threading
import time

import pytest

from handler import log
from handler.errors import DeadlineExceeded
from handler.pool import Pool, check_stop


class Endless:
    """Work that ends only where it is stopped, or after so long that the test has failed."""

    def __init__(self) -> None:
        self.began, self.ended = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.began.set()
        until = time.monotonic() + 20
        try:
            while time.monotonic() < until:
                check_stop()
        finally:
            self.ended.set()


def test_the_result_and_the_error_of_work_are_its_callers() -> None:
    pool = Pool("test", 1)

    def fail() -> None:
        raise TimeoutError("of its own")

    assert asyncio.run(pool.run(sum, [1, 2])) == 3
    assert asyncio.run(pool.run_until(time.monotonic() + 60, sum, [1, 2])) == 3
    with pytest.raises(TimeoutError, match="of its own"):
        asyncio.run(pool.run_until(time.monotonic() + 60, fail))


def test_the_deadline_ends_the_caller_and_the_work() -> None:
    work = Endless()

    async def scenario() -> None:
        with pytest.raises(DeadlineExceeded):
            await Pool("test", 1).run_until(time.monotonic() + 0.05, work)
        assert await asyncio.to_thread(work.ended.wait, 10)

    asyncio.run(scenario())


def test_a_caller_that_leaves_ends_the_work() -> None:
    work = Endless()

    async def scenario() -> None:
        task = asyncio.create_task(Pool("test", 1).run(work))
        assert await asyncio.to_thread(work.began.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(work.ended.wait, 10)

    asyncio.run(scenario())


def test_the_deadline_counts_for_work_that_waits_for_a_thread() -> None:
    first, second = Endless(), Endless()

    async def scenario() -> None:
        pool = Pool("test", 1)
        task = asyncio.create_task(pool.run(first))
        assert await asyncio.to_thread(first.began.wait, 10)
        with pytest.raises(DeadlineExceeded):
            await pool.run_until(time.monotonic() + 0.05, second)
        task.cancel()
        assert await pool.run(sum, [1]) == 1
        assert not second.began.is_set()

    asyncio.run(scenario())


def test_one_pool_does_not_wait_for_another() -> None:
    work = Endless()

    async def scenario() -> None:
        busy, other = Pool("busy", 1), Pool("other", 1)
        task = asyncio.create_task(busy.run(work))
        assert await other.run(sum, [1]) == 1
        assert not busy.probe().done()
        other.probe().result(10)
        task.cancel()

    asyncio.run(scenario())


def test_work_logs_with_the_id_of_its_job() -> None:
    async def scenario() -> None:
        log.current_job.set("a-job")
        assert await Pool("test", 1).run(log.current_job.get) == "a-job"

    asyncio.run(scenario())


def test_outside_of_a_pool_nothing_stops() -> None:
    check_stop()
