"""The `n` answers to one prompt: requests of the engine that run side by side, and their pieces in one stream.

They have the same prompt and the same salt, so that the engine computes the prompt's pages once.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import assert_never

from handler.api.text import TextRequest
from handler.engine.fold import Completion, Piece, fold
from handler.engine.spent import Spent
from handler.engine.stream import Stream, Timing
from handler.operations.core import Core
from handler.operations.prompt import Prepared

Event = Piece | Completion


async def completions(
    core: Core, request: TextRequest, prepared: Prepared, until: float | None
) -> AsyncGenerator[Piece | tuple[Completion, ...], None]:
    """Yield the pieces of all answers as they come, then the answers, by their places.

    At temperature 0, where no two could differ, there is one. Closing the iterator cancels all of them within a step.

    Raises:
        WorkerError: of the first answer that failed; the others are cancelled.
    """
    sampling = prepared.sampling
    done: dict[int, Completion] = {}
    streams: list[Stream] = []
    try:
        for variant in range(request.n if sampling.temperature else 1):
            streams.append(
                core.engine.stream(
                    prepared.rendered.prompt,
                    sampling.with_seed(sampling.seed + variant),
                    logprobs=(request.top_logprobs or 0) if request.logprobs else None,
                    deadline=until,
                )
            )
        async with aclosing(_alone(streams[0]) if len(streams) == 1 else _together(streams)) as events:
            async for variant, event in events:
                match event:
                    case Piece():
                        yield event if request.n == 1 else replace(event, variant=variant)
                    case Completion():
                        done[variant] = event
                    case _:
                        assert_never(event)
    finally:
        for stream in streams:
            stream.cancel()
    yield tuple(done[variant] for variant in range(len(streams)))


async def _alone(stream: Stream) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of one answer: without a task for each, which every token of most requests would pay for."""
    async with aclosing(fold(stream)) as events:
        async for event in events:
            yield 0, event


async def _together(streams: Sequence[Stream]) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of several answers as they come, each with its place; raises the first error of any."""
    folds = [fold(stream) for stream in streams]
    reads = {asyncio.create_task(_next(events)): variant for variant, events in enumerate(folds)}
    try:
        while reads:
            ready, _ = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
            for read in sorted(ready, key=reads.__getitem__):
                event, variant = read.result(), reads.pop(read)
                if event is None:
                    continue
                yield variant, event
                # Only now: while the reader takes its time, the stream gathers all that comes into one piece.
                reads[asyncio.create_task(_next(folds[variant]))] = variant
    finally:
        for read in reads:
            read.cancel()
        # Waited for, so that no error of another answer is reported as unseen.
        await asyncio.gather(*reads, return_exceptions=True)
        for events in folds:
            await events.aclose()


async def _next(events: AsyncGenerator[Event, None]) -> Event | None:
    """The next event; None after the last."""
    return await anext(events, None)


def spent_on(prepared: Prepared, answers: tuple[Completion, ...]) -> Spent:
    """Tokens and time of all answers; end and reasoning are those of the first one.

    The prompt counts once, as it is computed once; its `cached_tokens` are those of the first answer, which found what
    other requests had left.
    """
    first = Spent(prepared.sampling).plus(answers[0], prepared.rendered.sha256)
    completed = sum(answer.finish.usage.completion_tokens for answer in answers)
    return replace(
        first,
        usage=replace(first.usage, completion_tokens=completed),
        timing=Timing.of_all(answer.finish.timing for answer in answers),
    )
