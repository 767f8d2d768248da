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


@dataclass(slots=True)
class Cache(Generic[T]):
    """Answers by key; when there are too many, the oldest are removed together.

    Answers may be read and stored on any thread. A pending answer belongs to the event loop that it was started on.
    """

    #: answers kept, at most
    limit: int = 100
    #: answers that are removed together when there are more than `limit`
    evict: int = 20
    hits: int = 0
    misses: int = 0
    _answers: OrderedDict[str, T] = field(default_factory=OrderedDict)
    _pending: dict[Hashable, _Pending[T]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    async def get(
        self,
        key: str,
        ask: Callable[[], Awaitable[T]],
        *,
        use: CacheUse,
        keep: Callable[[T], bool],
        scope: Hashable = None,
    ) -> tuple[T, bool]:
        """The answer to a key, and whether it was in the cache. `off` asks for this caller alone.

        An answer is stored where `keep` says so. Callers with the same key, use and scope share a pending answer,
        which is cancelled when the last of them leaves. An error of `ask` reaches all of them, and nothing is stored.
        """
        if use == "off":
            return await ask(), False
        if use == "use":
            with self._lock:
                if key in self._answers:
                    self.hits += 1
                    return self._answers[key], True
                self.misses += 1
        return await self._shared((key, use, scope), key, ask, keep), False

    async def _shared(self, place: Hashable, key: str, ask: Callable[[], Awaitable[T]], keep: Callable[[T], bool]) -> T:
        async def make() -> T:
            try:
                answer = await ask()
            finally:
                if self._pending.get(place) is pending:
                    del self._pending[place]
            if keep(answer):
                self._store(key, answer)
            return answer

        pending = self._pending.get(place)
        if pending is None:
            pending = self._pending[place] = _Pending(asyncio.get_running_loop().create_task(make()))
        pending.waiting += 1
        try:
            return await asyncio.shield(pending.task)
        finally:
            pending.waiting -= 1
            if not pending.waiting and not pending.task.done():
                del self._pending[place]  # a caller that comes now must not get the cancelled task
                pending.task.cancel()

    def _store(self, key: str, answer: T) -> None:
        with self._lock:
            self._answers.pop(key, None)
            self._answers[key] = answer
            if len(self._answers) > self.limit:
                for _ in range(min(self.evict, self.limit)):  # at most `limit`, so that the new answer stays
                    self._answers.popitem(last=False)

    def clear(self) -> int:
        """Remove every answer; returns how many there were."""
        with self._lock:
            count = len(self._answers)
            self._answers.clear()
        return count

    @property
    def size(self) -> int:
        """Answers that are in the cache now."""
        return len(self._answers)

    @property
    def hit_rate(self) -> float | None:
        """The share of lookups that found an answer; None before the first."""
        lookups = self.hits + self.misses
        return round(self.hits / lookups, 4) if lookups else None
