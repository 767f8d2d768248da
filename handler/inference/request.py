"""A request on the engine's thread: what its caller gets of each token, and how it ends. Knows no row, no page."""

import asyncio
import math
import time
from array import array
from collections.abc import Collection
from dataclasses import dataclass

from handler.engine.protocol import MAX_TOP_LOGPROBS, Prompt
from handler.engine.sampling import Sampling
from handler.engine.stream import Delta, Finish, FinishReason, Logprob, Stream, Timing, Usage
from handler.engine.text import TextStream
from handler.errors import ContextLengthExceeded, InvalidRequest, WorkerError
from handler.inference.lookup import Lookup
from handler.inference.step import Sequence
from handler.log import current_job

Event = Delta | Finish | WorkerError


def check(prompt: Prompt, sampling: Sampling, logprobs: int | None, vocab_size: int, max_model_len: int) -> list[int]:
    """The prompt's ids, if nothing about the request can go wrong on the device; raises as `Engine.stream` does."""
    try:
        ids = array("q", prompt.token_ids).tolist()
    except (TypeError, OverflowError):
        raise InvalidRequest("a token id of the prompt is no integer") from None
    if not ids:
        raise InvalidRequest("the prompt has no token")
    if min(ids) < 0 or max(ids) >= vocab_size:
        raise InvalidRequest(f"a token id of the prompt is outside [0, {vocab_size})")
    if sampling.max_tokens < 1:
        raise InvalidRequest("max_tokens must be at least 1", field="max_tokens")
    if logprobs is not None and not 0 <= logprobs <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}", field="top_logprobs")
    if len(ids) + sampling.max_tokens > max_model_len:
        raise ContextLengthExceeded(
            f"{len(ids)} prompt tokens and {sampling.max_tokens} for the answer exceed {max_model_len}"
        )
    return ids


@dataclass(slots=True, eq=False, kw_only=True)
class Request(Sequence):
    """A sequence and the caller who waits for it. Times are of `time.monotonic`; no deadline is infinitely far."""

    stream: Stream
    loop: asyncio.AbstractEventLoop
    text: TextStream
    deadline: float
    arrived: float
    started: float | None = None
    first_token: float | None = None
    ended: bool = False
    #: for the log, which the engine's thread writes as well
    job_id: str | None = None

    @classmethod
    def of(
        cls,
        token_ids: list[int],
        sampling: Sampling,
        logprobs: int | None,
        deadline: float | None,
        stream: Stream,
        text: TextStream,
        guesses: int,
    ) -> "Request":
        """A request that arrives now, on the running event loop; so many of its tokens may be guessed at a time."""
        return cls(
            tokens=token_ids,
            prompt_len=len(token_ids),
            full_length=len(token_ids) + sampling.max_tokens,
            length=len(token_ids),
            sampling=sampling,
            logprobs=logprobs,
            # A penalty depends on all that was said: a guess would have to count for what is drawn after it.
            lookup=Lookup(guesses) if guesses and not sampling.penalises else None,
            stream=stream,
            loop=asyncio.get_running_loop(),
            text=text,
            deadline=math.inf if deadline is None else deadline,
            arrived=time.monotonic(),
            job_id=current_job.get(),
        )

    def take(
        self, token: int, logprobs: tuple[Logprob, ...], end_ids: Collection[int], now: float
    ) -> tuple[Delta, FinishReason | None]:
        """Add a drawn token; returns what came of it, and the reason where it was the last.

        An end token is a token of the answer but not of its text. Raises what decoding raises.
        """
        self.tokens.append(token)
        if self.first_token is None:
            self.first_token = now
        text = self.text
        if token in end_ids:
            return Delta(text.flush(), (token,), logprobs), "stop"
        piece = text.push(token)
        if not text.stopped and len(self.tokens) < self.full_length:
            return Delta(piece, (token,), logprobs), None
        piece += text.flush()
        return Delta(piece, (token,), logprobs), "stop" if text.stopped else "length"

    def finish(self, reason: FinishReason) -> Finish:
        now = time.monotonic()
        first = self.first_token
        timing = Timing(
            queue_s=(self.started or now) - self.arrived,
            ttft_s=None if first is None else first - self.arrived,
            total_s=now - self.arrived,
        )
        return Finish(
            reason, Usage(self.prompt_len, self.cached_tokens or 0, len(self.tokens) - self.prompt_len), timing
        )


class Outbox:
    """Events on their way to callers: all of a step leave as one callback for each event loop."""

    def __init__(self) -> None:
        self._events: dict[asyncio.AbstractEventLoop, list[tuple[Stream, Event]]] = {}

    def put(self, request: Request, event: Event) -> None:
        self._events.setdefault(request.loop, []).append((request.stream, event))

    def send(self) -> list[asyncio.AbstractEventLoop]:
        """Returns the event loops that are closed: nobody will read there, or cancel."""
        events, self._events = self._events, {}
        closed = []
        for loop, batch in events.items():
            try:
                loop.call_soon_threadsafe(_deliver, batch)
            except RuntimeError:
                closed.append(loop)
        return closed


def _deliver(batch: list[tuple[Stream, Event]]) -> None:
    for stream, event in batch:
        stream.put(event)
