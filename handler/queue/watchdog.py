"""Says when the worker is broken: its engine has ended, a step of it hangs, or all threads of a pool do.

Reads the engine's status, and sends each pool work that does nothing.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from handler.engine.protocol import Engine
from handler.pool import Pool

#: The longest time between two checks of a process that runs; after a longer one it was paused, as FlashBoot does.
AWAKE_S = 5.0


class Watchdog:
    """Called every second or so, it returns why the worker cannot go on, or None."""

    def __init__(
        self,
        engine: Engine,
        step_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        pools: Sequence[Pool] = (),
    ) -> None:
        self._engine = engine
        self._step_timeout_s = step_timeout_s
        self._clock = clock
        self._pools = pools
        #: by pool: the work that does nothing, and when it was sent
        self._probes: dict[Pool, tuple[Future[None], float]] = {}
        self._awake_since = self._checked = clock()

    def __call__(self) -> str | None:
        last, self._checked = self._checked, self._clock()
        if self._checked - last > AWAKE_S:
            self._awake_since = self._checked
        status = self._engine.status()
        if not status.alive:
            return "the engine has failed"
        if self._is_too_long(status.heartbeat_age_s):
            return f"a step of the engine hangs (STEP_TIMEOUT_S is {self._step_timeout_s:g})"
        for pool in self._pools:
            probe, sent = self._probes.get(pool, (None, 0.0))
            if probe is None or probe.done():
                self._probes[pool] = pool.probe(), self._checked
            elif self._is_too_long(self._checked - sent):
                return f"every thread for {pool.name} hangs (STEP_TIMEOUT_S is {self._step_timeout_s:g})"
        return None

    def _is_too_long(self, silent_s: float) -> bool:
        """Time for which the whole process was paused does not count."""
        return min(silent_s, self._checked - self._awake_since) > self._step_timeout_s
