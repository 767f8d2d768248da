"""Says when an engine is broken: it has ended, or a step of it hangs. Reads the engine's status, and no more."""

import time
from collections.abc import Callable

from handler.engine.protocol import Engine

#: The longest time between two checks of a process that runs; after a longer one it was paused, as FlashBoot does.
AWAKE_S = 5.0


class Watchdog:
    """Called every second or so, it returns why the engine cannot go on, or None."""

    def __init__(self, engine: Engine, step_timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._step_timeout_s = step_timeout_s
        self._clock = clock
        self._awake_since = self._checked = clock()

    def __call__(self) -> str | None:
        last, self._checked = self._checked, self._clock()
        now = self._checked
        if now - last > AWAKE_S:
            self._awake_since = now
        status = self._engine.status()
        if not status.alive:
            return "the engine has failed"
        # Time for which the whole process was paused does not count against the engine.
        silent_s = min(status.heartbeat_age_s, now - self._awake_since)
        if silent_s > self._step_timeout_s:
            return f"a step of the engine hangs (STEP_TIMEOUT_S is {self._step_timeout_s:g})"
        return None
