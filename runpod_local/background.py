"""A `Platform` for code that is not asynchronous."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from runpod_local.server import Platform

T = TypeVar("T")


class Background:
    """Runs a `Platform` in a thread of its own.

    with Background() as background:
        print(background.do(background.platform.runsync({"operation": "info"})))
    """

    def __init__(self, platform: Platform | None = None) -> None:
        self.platform = platform or Platform()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="platform")

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the platform and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.do(self.platform.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.do(self.platform.__aexit__())
        finally:
            self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
