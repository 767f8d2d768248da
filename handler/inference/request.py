"""A request on the engine thread: the events that its tokens become, and how it ends. Knows no row and no page."""

import asyncio
import math
import time
from array import array
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
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
    ids = _ids(prompt.token_ids, "prompt", vocab_size)
    if sampling.max_tokens < 1:
        raise InvalidRequest("max_tokens must be at least 1", field="max_tokens")
    _check_alternatives(logprobs)
    if sampling.biases and sampling.biases[-1][0] >= vocab_size:
        field = f"logit_bias.{sampling.biases[-1][0]}"
        raise InvalidRequest(f"{field}: the id is outside [0, {vocab_size})", field=field)
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


def check_score(prompt: Prompt, text: Ids[int], top: int, vocab_size: int, max_model_len: int) -> list[int]:
    """The ids of the prompt and then of the text, once the request is valid for the device.

    Raises:
        InvalidRequest, ContextLengthExceeded: see `Engine.score`.
    """
    ids = _ids(prompt.token_ids, "prompt", vocab_size) + _ids(text, "text to score", vocab_size)
    _check_alternatives(top)
    if len(ids) > max_model_len:
        raise ContextLengthExceeded(
            f"{len(ids) - len(text)} prompt tokens and {len(text)} tokens to score exceed the {max_model_len} tokens "
            "of the context; shorten the prompt or the text"
        )
    return ids


def _ids(given: Ids[int], name: str, vocab_size: int) -> list[int]:
    try:
        ids = array("q", given).tolist()
    except (TypeError, OverflowError):
        raise InvalidRequest(f"a token id of the {name} is not a 64-bit integer") from None
    if not ids:
        raise InvalidRequest(f"the {name} has no token; it needs at least one")
    if min(ids) < 0 or max(ids) >= vocab_size:
        raise InvalidRequest(f"a token id of the {name} is outside [0, {vocab_size})")
    return ids


def _check_alternatives(asked: int | None) -> None:
    if asked is not None and not 0 <= asked <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}", field="top_logprobs")


@dataclass(slots=True, eq=False, kw_only=True)
class Request(Sequence):
    """A sequence and the stream of its caller. It arrives when it is made, on the running event loop.

    Times are of `time.monotonic`; without a deadline it is infinite.
    """

    stream: Stream
    text: TextStream
    #: ids that end it
    end_ids: frozenset[int] = frozenset()
    #: the tokens that close its thought once it has as many tokens as it may; none where it may have any number
    closing: tuple[int, ...] = ()
    thought_closed: bool = False
    deadline: float
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    ended: bool = False
    #: for the log, which the engine's thread writes as well
    job_id: str | None = field(default_factory=current_job.get)

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
        """A request whose answer is drawn; at most `guesses` tokens are guessed at a time.

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
            text=text,
            end_ids=end_ids,
            closing=() if sampling.max_thinking_tokens is None else closing,
            deadline=math.inf if deadline is None else deadline,
        )

    @classmethod
    def to_score(
        cls,
        token_ids: list[int],
        prompt_len: int,
        top: int,
        deadline: float | None,
        stream: Stream,
        text: TextStream,
        salt: bytes,
    ) -> "Request":
        """A request that draws nothing: `token_ids` after the prompt's are scored, with `top` alternatives."""
        return cls(
            tokens=token_ids,
            prompt_len=prompt_len,
            full_length=len(token_ids),
            length=prompt_len,
            sampling=None,
            logprobs=top,
            table=BlockTable(salt=salt),
            stream=stream,
            text=text,
            deadline=math.inf if deadline is None else deadline,
        )

    def score(self, logprobs: tuple[Logprob, ...]) -> tuple[Delta, FinishReason | None]:
        """Add the log-probabilities of the next given tokens; returns their event, and "length" after the last one."""
        begin = self.known
        self.scored += len(logprobs)
        event = Delta("", tuple(self.tokens[begin : self.known]), logprobs)
        return event, "length" if self.known == self.full_length else None

    def take(self, token: int, logprobs: tuple[Logprob, ...], now: float) -> tuple[Delta, FinishReason | None]:
        """Add a drawn token; returns its event, and the finish reason where it was the last.

        An end token counts as a token of the answer but adds no text. Raises the errors of decoding.
        """
        self.tokens.append(token)
        if self.first_token is None:
            self.first_token = now
        self.last_token = now
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
        limit = None if self.sampling is None else self.sampling.max_thinking_tokens
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
        prompt = len(self.tokens) if self.sampling is None else self.prompt_len  # a given text is read, like a prompt
        usage = Usage(prompt, self.cached_tokens or 0, len(self.tokens) - prompt)
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
