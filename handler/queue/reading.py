"""Reads the reply to a take: small jobs at once, each large one in its own turn, so that no other waits for it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from handler.pool import Pool
from handler.queue.encoding import SMALL_BYTES, decode, items


@dataclass(frozen=True, slots=True)
class Unread:
    """A large job that was handed out and is not decoded yet."""

    id: str | None
    raw: bytes
    #: decodes large jobs, one after the other
    pool: Pool

    async def read(self) -> Any:
        """The job.

        Raises:
            ValueError: it is not JSON.
        """
        return await self.pool.run(decode, self.raw)


@dataclass(frozen=True, slots=True)
class Handout:
    """The jobs of one reply."""

    #: bytes of the reply
    size: int
    #: each as soon as its end is found; raises ValueError where the reply is not JSON
    jobs: AsyncIterator[Any | Unread]

    @property
    def takes_a_while(self) -> bool:
        """Whether other jobs should be asked for meanwhile."""
        return self.size > SMALL_BYTES

    @classmethod
    def of(cls, raw: bytes, pool: Pool) -> "Handout":
        """The jobs of a reply.

        Raises:
            ValueError: it is neither a job nor a list of jobs.
        """
        if raw and not raw.lstrip().startswith((b"[", b"{")):
            raise ValueError("the reply is neither a job nor a list of jobs")
        return cls(len(raw), _each(raw, pool))


async def _each(raw: bytes, pool: Pool) -> AsyncIterator[Any | Unread]:
    if not raw:
        return
    found = _jobs(raw, pool)
    if len(raw) <= SMALL_BYTES:
        for job in found:
            yield job
        return
    end = object()
    while (job := await asyncio.to_thread(next, found, end)) is not end:
        yield job


def _jobs(raw: bytes, pool: Pool) -> Iterator[Any | Unread]:
    for item, id_ in items(raw):
        yield decode(item) if len(item) <= SMALL_BYTES else Unread(id_, item, pool)
