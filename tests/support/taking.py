"""Reads a reply to a take as the worker does."""

from typing import Any

from handler.pool import Pool
from handler.queue.reading import Handout, Unread


async def taken(raw: bytes) -> list[Any]:
    """The jobs of a reply, large ones decoded too."""
    jobs = Handout.of(raw, Pool("reading", 1)).jobs
    return [await job.read() if isinstance(job, Unread) else job async for job in jobs]
