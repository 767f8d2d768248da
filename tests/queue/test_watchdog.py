"""An engine is given up when it is dead or hangs, and not because time passed for everybody."""

from dataclasses import dataclass, replace

from handler.engine.protocol import Status
from handler.queue.watchdog import Watchdog
from tests.support.fakes import ScriptedEngine


@dataclass
class World:
    """A clock, and an engine that last showed life at `beat`."""

    now: float = 1000.0
    beat: float = 1000.0
    alive: bool = True

    def watchdog(self, step_timeout_s: float) -> Watchdog:
        world = self

        class Engine(ScriptedEngine):
            def status(self) -> Status:
                age = world.now - world.beat
                return replace(super().status(), alive=world.alive, heartbeat_age_s=age)

        return Watchdog(Engine(), step_timeout_s, lambda: world.now)


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
