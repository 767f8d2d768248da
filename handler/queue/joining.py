"""Joins texts that are ready at the same time: each chunk costs a post that is waited for. Knows no platform."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing

from handler.queue.output import Chunk, Output, Result


async def joined(outputs: AsyncGenerator[Output, None]) -> AsyncGenerator[Output, None]:
    """The same outputs, read ahead while the last ones are posted; texts that wait come as one.

    Closing it closes `outputs`, in whatever it waits for.
    """
    waiting: list[Output] = []
    came = asyncio.Event()

    async def read() -> None:
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    waiting.append(output)
                    came.set()
        finally:
            came.set()

    reading = asyncio.get_running_loop().create_task(read())
    try:
        while not reading.done() or waiting:
            await came.wait()
            came.clear()
            taken, waiting[:] = waiting[:], []
            for output in merged(taken):
                yield output
        reading.result()
    finally:
        reading.cancel()
        await asyncio.wait({reading})
        if not reading.cancelled():
            reading.exception()  # else asyncio reports one that was raised while `outputs` closed


def merged(outputs: Iterable[Output]) -> Iterator[Output]:
    """The outputs with texts that follow each other as one; a result's text takes those before it."""
    texts: list[str] = []
    for output in outputs:
        match output:
            case Chunk(str() as text):
                texts.append(text)
            case Result(str() as text):
                yield Result("".join((*texts, text)))
                texts.clear()
            case _:
                if texts:
                    yield Chunk("".join(texts))
                    texts.clear()
                yield output
    if texts:
        yield Chunk("".join(texts))
