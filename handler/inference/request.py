"""A request on the engine thread: the events that its tokens become, and how it ends. Knows no row and no page."""

import asyncio
import math
import time
from array import array
from dataclasses import dataclass
from hashlib import blake2b

from handler.engine.protocol import MAX_TOP_LOGPROBS, Prompt
from handler.engine.sampling import Sampling
from handler.engine.stream import Delta, Finish, FinishReason, Logprob, Stream, Timing, Usage
from handler.engine.text import TextStream
from handler.errors import ContextLengthExceeded, InvalidRequest, WorkerError
from handler.inference.kv_cache import BlockTable
from handler.inference.lookup import Lookup
from handler.inference.step import Sequence
from handler.log import current_job

Event = Delta | Finish | WorkerError


def check(prompt: Prompt, sampling: Sampling, logprobs: int | None, vocab_size: int, max_model_len: int) -> list[int]:
    """The ids of the prompt, once the request is valid for the device.

    Raises:
        InvalidRequest, ContextLengthExceeded: see `Engine.stream`.
    """
    try:
        ids = array("q", prompt.token_ids).tolist()
    except (TypeError, OverflowError):
        raise InvalidRequest("a token id of the prompt is not a 64-bit integer") from None
    if not ids:
        raise InvalidRequest("the prompt has no token; it needs at least one")
    if min(ids) < 0 or max(ids) >= vocab_size:
        raise InvalidRequest(f"a token id of the prompt is outside [0, {vocab_size})")
    if sampling.max_tokens < 1:
        raise InvalidRequest("max_tokens must be at least 1", field="max_tokens")
    if logprobs is not None and not 0 <= logprobs <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}", field="top_logprobs")
    if len(ids) + sampling.max_tokens > max_model_len:
        raise ContextLengthExceeded(
            f"{len(ids)} prompt tokens and max_tokens {sampling.max_tokens} exceed the {max_model_len} tokens of the "
            "context; shorten the prompt or lower max_tokens"
        )
    return ids


def salt_of(prompt: Prompt, shared_prompt: int | None) -> bytes:
    """The salt of its pages: the prompt's own, and its length where its keys depend on that (see `ModelShape`)."""
    length = len(prompt.token_ids)
    if shared_prompt is None or length <= shared_prompt:
        return prompt.salt
    return blake2b(length.to_bytes(8, "big") + prompt.salt, digest_size=32, person=b"prompt length").digest()


@dataclass(slots=True, eq=False, kw_only=True)
class Request(Sequence):
    """A sequence and the stream of its caller. Times are of `time.monotonic`; without a deadline it is infinite."""

    stream: Stream
    loop: asyncio.AbstractEventLoop
    text: TextStream
    #: ids that end it
    end_ids: frozenset[int] = frozenset()
    #: the tokens that close its thought once it has as many tokens as it may; none where it may have any number
    closing: tuple[int, ...] = ()
    thought_closed: bool = False
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
        salt: bytes = b"",
        end_ids: frozenset[int] = frozenset(),
        closing: tuple[int, ...] = (),
    ) -> "Request":
        """A request that arrives now, on the running event loop; at most `guesses` tokens are guessed at a time.

        `salt`: the prompt's. `closing`: the tokens that close a thought of `max_thinking_tokens`.
        """
        return cls(
            tokens=token_ids,
            prompt_len=len(token_ids),
            full_length=len(token_ids) + sampling.max_tokens,
            length=len(token_ids),
            sampling=sampling,
            logprobs=logprobs,
            # A penalty depends on all earlier tokens, so a draw after a guess would have to count the guess.
            lookup=Lookup(guesses) if guesses and not sampling.penalises else None,
            table=BlockTable(salt=salt),
            stream=stream,
            loop=asyncio.get_running_loop(),
            text=text,
            end_ids=end_ids,
            closing=() if sampling.max_thinking_tokens is None else closing,
            deadline=math.inf if deadline is None else deadline,
            arrived=time.monotonic(),
            job_id=current_job.get(),
        )

    def take(self, token: int, logprobs: tuple[Logprob, ...], now: float) -> tuple[Delta, FinishReason | None]:
        """Add a drawn token; returns its event, and the finish reason where it was the last.

        An end token counts as a token of the answer but adds no text. Raises the errors of decoding.
        """
        self.tokens.append(token)
        if self.first_token is None:
            self.first_token = now
        text = self.text
        reason: FinishReason | None = None
        if token in self.end_ids:
            reasoning, answer = text.flush()
            reason = "stop"
        else:
            reasoning, answer = text.push(token)
            if text.stopped:
                reason = "stop"
            elif len(self.tokens) == self.full_length:
                held_reasoning, held_answer = text.flush(cut=True)
                reasoning, answer = reasoning + held_reasoning, answer + held_answer
                reason = "stop" if text.stopped else "length"
        return Delta(answer, (token,), logprobs, reasoning), reason

    @property
    def thought_is_full(self) -> bool:
        """True once the thought has as many tokens as it may, where there is room to close it and to answer."""
        limit = self.sampling.max_thinking_tokens
        return (
            limit is not None
            and not self.thought_closed
            and self.text.inside_thought
            and len(self.tokens) - self.prompt_len >= limit
            and len(self.tokens) + len(self.closing) < self.full_length
        )

    def close_thought(self) -> Delta:
        """The event of the tokens that close the thought; `Scheduler.put_in` adds them. Raises the errors of decoding.

        They were not drawn: a log-probability of 0 says that they had to come.
        """
        self.thought_closed = True
        self.text.drop_half_character()
        parts = [self.text.push(token) for token in self.closing]
        logprobs = () if self.logprobs is None else (Logprob(0.0, ()),) * len(self.closing)
        return Delta(
            "".join(answer for _, answer in parts), self.closing, logprobs, "".join(thought for thought, _ in parts)
        )

    def rest(self) -> Delta:
        """The text that is still held back, where the request is ended between two tokens."""
        reasoning, answer = self.text.flush(cut=True)
        return Delta(answer, (), (), reasoning)

    def finish(self, reason: FinishReason) -> Finish:
        now = time.monotonic()
        first = self.first_token
        timing = Timing(
            queue_s=(self.started or now) - self.arrived,
            ttft_s=None if first is None else first - self.arrived,
            total_s=now - self.arrived,
        )
        usage = Usage(self.prompt_len, self.cached_tokens or 0, len(self.tokens) - self.prompt_len)
        return Finish(reason, usage, timing, self.thought_closed if self.text.splits else None)


class Outbox:
    """Collects events for callers, and sends those of one step as one callback for each event loop."""

    def __init__(self) -> None:
        self._events: dict[asyncio.AbstractEventLoop, list[tuple[Stream, Event]]] = {}

    def put(self, request: Request, event: Event) -> None:
        self._events.setdefault(request.loop, []).append((request.stream, event))

    def send(self) -> list[asyncio.AbstractEventLoop]:
        """Returns the event loops that are closed: their callers will neither read nor cancel."""
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
