"""What we need of a model: token ids in, a stream of text out.

The values and the protocol that every engine shares. Knows no operation, no template and no tensor:
this module imports nothing heavier than asyncio.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from handler.errors import EngineFailed, WorkerError

#: Why a request ended: an end token or stop string, `max_tokens`, its deadline, or its caller.
FinishReason = Literal["stop", "length", "deadline", "cancelled"]
#: alternatives told with the log-probability of a token, at most
MAX_TOP_LOGPROBS = 5


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads, to the token."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. No field has a hidden default: neutral values do nothing, and this is what replies echo."""

    #: at most this many completion tokens, >= 1
    max_tokens: int
    #: 0 takes the most likely token (greedy), 1 leaves the distribution as it is
    temperature: float
    #: keep the smallest set of tokens whose probability reaches this; 1 is off
    top_p: float
    #: keep this many most likely tokens; 0 is off
    top_k: int
    #: drop tokens less likely than this share of the likeliest; 0 is off
    min_p: float
    #: divide (or multiply) logits of tokens in prompt or completion; 1 is off
    repetition_penalty: float
    #: subtract from logits of tokens already in the completion; 0 is off
    presence_penalty: float
    #: the same, per occurrence; 0 is off
    frequency_penalty: float
    #: the draw depends on this and the position alone, 0 <= seed < 2**63
    seed: int
    #: end before the first of these that completes
    stop: tuple[str, ...]

    @property
    def penalises(self) -> bool:
        """Whether what was said changes what is drawn."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Logprob:
    """How likely the model found a drawn token: of the log-softmax of its raw logits, before any option."""

    logprob: float
    #: (token id, log-probability) of the likeliest tokens in its place, best first; as many as were asked for
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """What came since the last event. Text may lag behind tokens: half a character and half a stop string wait."""

    text: str
    token_ids: tuple[int, ...]
    #: of each of `token_ids`, where the request asked for them
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request."""

    prompt_tokens: int
    #: prompt tokens whose keys and values were already in the cache
    cached_tokens: int
    #: tokens generated, an end token included
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds since the request was handed to the engine."""

    #: until its first step began
    queue_s: float
    #: until its first token (TTFT); None where there was none
    ttft_s: float | None
    #: until it ended
    total_s: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event of a stream that did not fail."""

    reason: FinishReason
    usage: Usage
    timing: Timing


class Stream:
    """The events of one request, buffered: the engine never waits for a consumer, a slow one gets larger deltas.

    Iterate on one event loop: it yields `Delta`s, then one `Finish`, or raises the `WorkerError` it failed with.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[Logprob] = []
        self._end: Finish | WorkerError | None = None
        self._drained = False
        self._ready = asyncio.Event()

    def put(self, event: Delta | Finish | WorkerError) -> None:
        """Called by the engine, on the event loop's thread. Whatever follows the end is ignored."""
        if self._end is not None:
            return
        if isinstance(event, Delta):
            self._text.append(event.text)
            self._token_ids.extend(event.token_ids)
            self._logprobs.extend(event.logprobs)
        else:
            self._end = event
            self._cancel = _nothing  # else stream and request would hold each other until a collection
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
            delta = Delta("".join(self._text), tuple(self._token_ids), tuple(self._logprobs))
            self._text.clear()
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
    """What is left to cancel at the end of a stream."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer: a folded stream."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...]
    finish: Finish


async def collect(stream: Stream) -> Completion:
    """Fold a stream into the whole answer; raises what the stream raises."""
    text: list[str] = []
    token_ids: list[int] = []
    logprobs: list[Logprob] = []
    async for event in stream:
        match event:
            case Delta():
                text.append(event.text)
                token_ids.extend(event.token_ids)
                logprobs.extend(event.logprobs)
            case Finish():
                return Completion("".join(text), tuple(token_ids), tuple(logprobs), event)
    raise EngineFailed("the stream ended without a finish")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What was loaded; replies and `info` quote it."""

    #: public name, never a path
    name: str
    #: commit of the snapshot; None where the directory does not say
    revision: str | None
    #: where the weights came from: `path` or `demo`
    source: str
    #: `qwen2` or `qwen3`
    architecture: str
    #: who computes: our merged forward, or transformers' modules
    forward: Literal["merged", "modules"]
    dtype: str
    device: str
    parameters: int
    #: rows of the embedding; rows past the tokenizer's last id have no token
    vocab_size: int
    #: positions the model was made for
    context_length: int
    #: ids that end an answer
    stop_token_ids: tuple[int, ...]
    #: the sampling of the model's own generation_config, by our field names
    sampling_defaults: Mapping[str, float | int]


@dataclass(frozen=True, slots=True)
class Status:
    """A glance at an engine, cheap enough for every `info`."""

    alive: bool
    running: int
    waiting: int
    #: seconds since the engine's thread last showed life
    heartbeat_age_s: float
    #: what else this engine counts (steps, pages, preemptions …), by name
    details: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


class Engine(Protocol):
    """Runs prompts on a model. `stream` is called on the event loop and returns at once."""

    @property
    def max_model_len(self) -> int:
        """Prompt and completion tokens of one request, at most."""
        ...

    def stream(
        self, prompt: Prompt, sampling: Sampling, *, logprobs: int | None = None, deadline: float | None = None
    ) -> Stream:
        """Queue one request.

        Args:
            logprobs: None for none; else deltas carry each token's, with so many alternatives (0 to MAX_TOP_LOGPROBS).
            deadline: on the clock of `time.monotonic`.

        Raises:
            InvalidRequest: an empty prompt, an id outside the vocabulary, or too many alternatives.
            ContextLengthExceeded: prompt and `max_tokens` do not fit `max_model_len`.
            Overloaded: the wait queue is full; it says when to try again.
            EngineFailed: the engine is closed or dead.
        """
        ...

    def status(self) -> Status:
        """A glance; takes no lock that a step holds."""
        ...

    def close(self) -> None:
        """Cancel what runs, join the thread, free the device. Idempotent, blocking."""
        ...
