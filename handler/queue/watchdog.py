"""When an engine counts as broken: it has ended, or a step of it hangs. Knows an engine by its status alone."""

import time
from collections.abc import Callable

from handler.engine.protocol import Engine

#: Somebody who looks less often than this was not running either, as a worker that FlashBoot pauses.
AWAKE_S = 5.0


class Watchdog:
    """Call it every second or so: it says why the engine cannot go on, or None."""

    def __init__(self, engine: Engine, step_timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._step_timeout_s = step_timeout_s
        self._clock = clock
        self._awake_since = self._looked = clock()

    def __call__(self) -> str | None:
        now, last, self._looked = self._clock(), self._looked, self._clock()
        if now - last > AWAKE_S:
            self._awake_since = now
        status = self._engine.status()
        if not status.alive:
            return "the engine has failed"
        # What passed while the whole process slept is no fault of the engine's.
        silent_s = min(status.heartbeat_age_s, now - self._awake_since)
        if silent_s > self._step_timeout_s:
            return f"a step of the engine hangs (STEP_TIMEOUT_S is {self._step_timeout_s:g})"
        return None
