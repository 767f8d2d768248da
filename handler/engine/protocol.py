"""What an engine promises: token ids in, a stream of events out. Knows no operation, no template and no tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from handler.engine.sampling import Sampling
from handler.engine.stream import Stream

#: alternatives told with the log-probability of a token, at most
MAX_TOP_LOGPROBS = 5


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads, to the token."""

    token_ids: tuple[int, ...]


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
