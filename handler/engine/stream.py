"""One request's events as the engine sends them. Knows no tensor; imports nothing heavier than asyncio."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from handler.errors import EngineFailed, WorkerError

#: the end of a request: by an end token or stop string, `max_tokens`, its deadline, or its caller
FinishReason = Literal["stop", "length", "deadline", "cancelled"]


@dataclass(frozen=True, slots=True)
class Logprob:
    """The log-probability of a drawn token: log-softmax of the raw logits, before any sampling option."""

    logprob: float
    #: (token id, log-probability) of the likeliest tokens at its position, likeliest first; as many as requested
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """Tokens and text since the last event. Text may lag behind: part of a character or of a stop string waits."""

    text: str
    token_ids: tuple[int, ...]
    #: one for each of `token_ids`, where the request asked for them
    logprobs: tuple[Logprob, ...] = ()
    #: text of the think block before the answer
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request."""

    prompt_tokens: int
    #: prompt tokens whose keys and values were already in the cache
    cached_tokens: int
    #: tokens generated, an end token included
    completion_tokens: int

    @classmethod
    def of_all(cls, usages: Iterable["Usage"]) -> "Usage":
        """The counts of several requests together."""
        each = list(usages)
        return cls(
            sum(one.prompt_tokens for one in each),
            sum(one.cached_tokens for one in each),
            sum(one.completion_tokens for one in each),
        )


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds since the request was handed to the engine."""

    #: until its first step began
    queue_s: float
    #: until its first token (TTFT); None where there was none
    ttft_s: float | None
    #: until it ended
    total_s: float

    @classmethod
    def of_all(cls, timings: Iterable["Timing"]) -> "Timing":
        """The times of several requests that ran side by side: from the first one's start to the last one's end."""
        each = list(timings)
        firsts = [one.ttft_s for one in each if one.ttft_s is not None]
        return cls(min(one.queue_s for one in each), min(firsts) if firsts else None, max(one.total_s for one in each))


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event of a stream that did not fail."""

    reason: FinishReason
    usage: Usage
    timing: Timing
    #: whether the thought was closed at `max_thinking_tokens`; None where no think block was looked for
    reasoning_cut: bool | None = None


class Stream:
    """The events of one request, buffered: the engine never waits for a consumer, a slow one gets larger deltas.

    Iterate on one event loop: it yields `Delta`s, then one `Finish`, or raises the `WorkerError` it failed with.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[Logprob] = []
        self._end: Finish | WorkerError | None = None
        self._drained = False
        self._ready = asyncio.Event()

    def put(self, event: Delta | Finish | WorkerError) -> None:
        """Called by the engine, on the event loop's thread. Events after the end are ignored."""
        if self._end is not None:
            return
        if isinstance(event, Delta):
            self._text.append(event.text)
            self._reasoning.append(event.reasoning)
            self._token_ids.extend(event.token_ids)
            self._logprobs.extend(event.logprobs)
        else:
            self._end = event
            self._cancel = _nothing  # else stream and request would keep each other alive until garbage collection
        self._ready.set()

    def cancel(self) -> None:
        """Ask the engine to stop; idempotent, any thread. The stream still ends, with reason `cancelled`."""
        self._cancel()

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Delta | Finish:
        if self._drained:
            raise StopAsyncIteration
        while not self._token_ids and not self._text and self._end is None:
            self._ready.clear()
            await self._ready.wait()
        if self._token_ids or self._text:
            delta = Delta("".join(self._text), tuple(self._token_ids), tuple(self._logprobs), "".join(self._reasoning))
            self._text.clear()
            self._reasoning.clear()
            self._token_ids.clear()
            self._logprobs.clear()
            return delta
        self._drained = True
        match self._end:
            case Finish():
                return self._end
            case WorkerError():
                raise self._end
            case None:  # unreachable: the loop above waits for an end
                raise EngineFailed("the stream ended without a reason")


def _nothing() -> None:
    """Cancelling a stream that has ended does nothing."""
