"""An engine is given up when it is dead or hangs, and not because time passed for everybody."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from handler.engine.protocol import Status
from handler.pool import Pool
from handler.queue.watchdog import Watchdog
from tests.support.fakes import ScriptedEngine


@dataclass
class World:
    """A clock, and an engine that last showed life at `beat`."""

    now: float = 1000.0
    beat: float = 1000.0
    alive: bool = True

    def watchdog(self, step_timeout_s: float, *pools: Pool) -> Watchdog:
        world = self

        class Engine(ScriptedEngine):
            def status(self) -> Status:
                age = world.now - world.beat
                return replace(super().status(), alive=world.alive, heartbeat_age_s=age)

        return Watchdog(Engine(), step_timeout_s, lambda: world.now, pools=pools)


def test_an_engine_that_shows_life_goes_on_for_ever() -> None:
    world = World()
    watchdog = world.watchdog(10)
    for _ in range(1000):
        world.now += 1
        world.beat = world.now - 0.5
        assert watchdog() is None


def test_a_dead_engine_is_given_up_at_once() -> None:
    world = World(alive=False)
    assert world.watchdog(10)() == "the engine has failed"


def test_a_step_that_hangs_is_given_up_after_the_timeout_and_not_before() -> None:
    world = World()
    watchdog = world.watchdog(10)
    said = []
    for _ in range(12):
        world.now += 1
        said.append(watchdog())
    assert said[:10] == [None] * 10
    assert said[10] == "a step of the engine hangs (STEP_TIMEOUT_S is 10)"


def test_a_worker_that_was_paused_counts_from_when_it_woke() -> None:
    world = World()
    watchdog = world.watchdog(10)
    world.now += 3600
    assert watchdog() is None
    for _ in range(10):
        world.now += 1
        assert watchdog() is None
    world.now += 1
    assert watchdog() is not None


@contextmanager
def held(pool: Pool, threads: int) -> Iterator[None]:
    """So many threads of a pool hang."""
    together, go_on = threading.Barrier(threads + 1), threading.Event()

    def hang() -> None:
        together.wait(10)
        go_on.wait(60)

    with ThreadPoolExecutor() as callers:
        waits = [callers.submit(asyncio.run, pool.run(hang)) for _ in range(threads)]
        together.wait(10)
        try:
            yield
        finally:
            go_on.set()
        assert [wait.result(10) for wait in waits] == [None] * threads


def test_threads_that_all_hang_are_given_up_after_the_timeout_and_not_before() -> None:
    world, pool = World(), Pool("enhancement", 2)
    watchdog = world.watchdog(10, pool)

    def second() -> str | None:
        world.now += 1
        world.beat = world.now
        return watchdog()

    for _ in range(20):
        assert second() is None
        pool.probe().result(10)
    with held(pool, 2):
        said = [second() for _ in range(12)]
    assert said == [*[None] * 11, "every thread for enhancement hangs (STEP_TIMEOUT_S is 10)"]
    pool.probe().result(10)
    assert second() is None


def test_one_thread_that_hangs_leaves_the_others() -> None:
    world, pool = World(), Pool("enhancement", 2)
    watchdog = world.watchdog(1, pool)
    with held(pool, 1):
        for _ in range(5):
            world.now += 1
            world.beat = world.now
            assert watchdog() is None
            pool.probe().result(10)
