"""A cache of answers in this process, which also asks equal questions once. Knows no question and no answer."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
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
class _Pending(Generic[T]):
    """An answer that is being made, and the number of callers that wait for it."""

    task: "asyncio.Task[T]"
    waiting: int = 0
    #: one caller has got it, and it is that caller's own; it was shared with all others
    taken: bool = False


@dataclass(slots=True)
class Cache(Generic[T]):
    """Answers by owner and key; when there are too many, the oldest are removed together.

    Answers may be read and stored on any thread. A pending answer belongs to the event loop that it was started on.
    """

    #: answers kept, at most
    limit: int = 100
    #: answers that are removed together when there are more than `limit`
    evict: int = 20
    hits: int = 0
    misses: int = 0
    _answers: OrderedDict[tuple[Hashable, str], T] = field(default_factory=OrderedDict)
    _pending: dict[Hashable, _Pending[T]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    async def get(
        self,
        key: str,
        ask: Callable[[], Awaitable[T]],
        *,
        use: CacheUse,
        keep: Callable[[T], bool],
        owner: Hashable = None,
        alone: bool = False,
    ) -> tuple[T, bool]:
        """The owner's answer to a key, and whether it was made for another caller. `off` asks for this caller alone.

        An answer is stored where `keep` says so. Callers with the same owner, key and use share a pending answer, which
        is cancelled when the last of them leaves; a caller who is `alone` shares none. An error of `ask` reaches all of
        them, and nothing is stored.
        """
        if use == "off":
            return await ask(), False
        place = (owner, key)
        if use == "use":
            with self._lock:
                if place in self._answers:
                    self.hits += 1
                    return self._answers[place], True
                self.misses += 1

        async def make() -> T:
            answer = await ask()
            if keep(answer):
                self._store(place, answer)
            return answer

        return (await make(), False) if alone else await self._shared((place, use), make)

    async def _shared(self, flight: Hashable, make: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        async def fly() -> T:
            try:
                return await make()
            finally:
                if self._pending.get(flight) is pending:
                    del self._pending[flight]

        pending = self._pending.get(flight)
        if pending is None:
            pending = self._pending[flight] = _Pending(asyncio.get_running_loop().create_task(fly()))
        pending.waiting += 1
        try:
            answer = await asyncio.shield(pending.task)
            shared, pending.taken = pending.taken, True
            return answer, shared
        finally:
            pending.waiting -= 1
            if not pending.waiting and not pending.task.done():
                del self._pending[flight]  # a caller that comes now must not get the cancelled task
                pending.task.cancel()

    def _store(self, place: tuple[Hashable, str], answer: T) -> None:
        with self._lock:
            self._answers.pop(place, None)
            self._answers[place] = answer
            if len(self._answers) > self.limit:
                for _ in range(min(self.evict, self.limit)):  # at most `limit`, so that the new answer stays
                    self._answers.popitem(last=False)

    def clear(self, owner: Hashable) -> int:
        """Remove every answer of one owner, and of no other; returns how many there were."""
        with self._lock:
            places = [place for place in self._answers if place[0] == owner]
            for place in places:
                del self._answers[place]
        return len(places)

    @property
    def size(self) -> int:
        """Answers that are in the cache now."""
        return len(self._answers)

    @property
    def hit_rate(self) -> float | None:
        """The share of lookups that found an answer; None before the first."""
        lookups = self.hits + self.misses
        return round(self.hits / lookups, 4) if lookups else None
