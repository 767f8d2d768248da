"""Answers kept in this process, and equal questions asked once. Knows no question and no answer."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Lock
from typing import Generic, TypeVar

from pydantic import JsonValue

from handler.api.enhance import CacheUse

T = TypeVar("T")


def key_of(parts: Mapping[str, JsonValue]) -> str:
    """The hash of everything that can change an answer."""
    return sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


@dataclass(slots=True)
class _Flight(Generic[T]):
    """A question that is being answered, and how many wait for it."""

    task: "asyncio.Task[T]"
    waiting: int = 0


@dataclass(slots=True)
class Cache(Generic[T]):
    """Answers by key; on overflow the oldest leave together. The store is guarded for any thread, flights belong to
    the event loop they were started on."""

    #: answers kept, at most
    limit: int = 100
    #: how many of the oldest leave when one comes too many
    leave: int = 20
    hits: int = 0
    misses: int = 0
    _kept: OrderedDict[str, T] = field(default_factory=OrderedDict)
    _flights: dict[object, _Flight[T]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    async def get(
        self,
        key: str,
        ask: Callable[[], Awaitable[T]],
        *,
        use: CacheUse,
        clean: Callable[[T], bool],
        flight: object = None,
    ) -> tuple[T, bool]:
        """The answer to a key, and whether it was there already. `off` asks for this caller alone.

        An answer is kept where `clean` says so. Callers share a running question where `flight` is equal too; it is
        given up when the last of them leaves. What `ask` raises, all of them get, and nothing is kept.
        """
        if use == "off":
            return await ask(), False
        if use == "use":
            with self._lock:
                if key in self._kept:
                    self.hits += 1
                    return self._kept[key], True
                self.misses += 1
        return await self._shared((key, use, flight), key, ask, clean), False

    async def _shared(self, place: object, key: str, ask: Callable[[], Awaitable[T]], clean: Callable[[T], bool]) -> T:
        async def fly() -> T:
            try:
                answer = await ask()
            finally:
                if self._flights.get(place) is flight:
                    del self._flights[place]
            if clean(answer):
                self._keep(key, answer)
            return answer

        flight = self._flights.get(place)
        if flight is None:
            flight = self._flights[place] = _Flight(asyncio.get_running_loop().create_task(fly()))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                del self._flights[place]  # who comes now asks anew
                flight.task.cancel()

    def _keep(self, key: str, answer: T) -> None:
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = answer
            if len(self._kept) > self.limit:
                for _ in range(min(self.leave, self.limit)):  # never the one that came
                    self._kept.popitem(last=False)

    def clear(self) -> int:
        """Forget every answer; returns how many there were."""
        with self._lock:
            count = len(self._kept)
            self._kept.clear()
        return count

    @property
    def size(self) -> int:
        """Answers that are kept now."""
        return len(self._kept)

    @property
    def hit_rate(self) -> float | None:
        """The share of looks that found an answer; None before the first."""
        looks = self.hits + self.misses
        return round(self.hits / looks, 4) if looks else None
