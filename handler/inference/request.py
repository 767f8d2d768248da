"""A request on the engine thread: the events that its tokens become, and how it ends. Knows no row and no page."""

import asyncio
import math
import time
from array import array
from collections.abc import Collection
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field

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
    if len(ids) + sampling.max_tokens > max_model_len:
        raise ContextLengthExceeded(
            f"{len(ids)} prompt tokens and max_tokens {sampling.max_tokens} exceed the {max_model_len} tokens of the "
            "context; shorten the prompt or lower max_tokens"
        )
    return ids


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
    deadline: float
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    first_token: float | None = None
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
    ) -> "Request":
        """A request whose answer is drawn; at most `guesses` tokens are guessed at a time.

        `salt`: the prompt's.
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
            deadline=math.inf if deadline is None else deadline,
        )

    @classmethod
    def to_score(
        cls, token_ids: list[int], prompt: Prompt, top: int, deadline: float | None, stream: Stream, text: TextStream
    ) -> "Request":
        """A request that draws nothing: those of `token_ids` after the prompt's are scored, with `top` alternatives."""
        size = len(prompt.token_ids)
        return cls(
            tokens=token_ids,
            prompt_len=size,
            full_length=len(token_ids),
            length=size,
            sampling=None,
            logprobs=top,
            table=BlockTable(salt=prompt.salt),
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

    def take(
        self, token: int, logprobs: tuple[Logprob, ...], end_ids: Collection[int], now: float
    ) -> tuple[Delta, FinishReason | None]:
        """Add a drawn token; returns its event, and the finish reason where it was the last.

        An end token counts as a token of the answer but adds no text. Raises the errors of decoding.
        """
        self.tokens.append(token)
        if self.first_token is None:
            self.first_token = now
        text = self.text
        if token in end_ids:
            return Delta(text.flush(), (token,), logprobs), "stop"
        new_text = text.push(token)
        if not text.stopped and len(self.tokens) < self.full_length:
            return Delta(new_text, (token,), logprobs), None
        new_text += text.flush()
        return Delta(new_text, (token,), logprobs), "stop" if text.stopped else "length"

    def finish(self, reason: FinishReason) -> Finish:
        now = time.monotonic()
        first = self.first_token
        timing = Timing(
            queue_s=(self.started or now) - self.arrived,
            ttft_s=None if first is None else first - self.arrived,
            total_s=now - self.arrived,
        )
        prompt = len(self.tokens) if self.sampling is None else self.prompt_len  # a given text is read, like a prompt
        return Finish(reason, Usage(prompt, self.cached_tokens or 0, len(self.tokens) - prompt), timing)


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
