"""A platform for code that is not asynchronous."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from runpod_local.plane import Platform

T = TypeVar("T")


class Background:
    """A platform on a thread of its own, for code that is not asynchronous.

    with Background() as background:
        print(background.do(background.platform.runsync({"operation": "info"})))
    """

    def __init__(self, platform: Platform | None = None) -> None:
        self.platform = platform or Platform()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="platform")

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

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
