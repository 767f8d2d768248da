"""The interface of an engine: token ids in, a stream of events or a score out. Knows no operation and no tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from pydantic import JsonValue

from handler.engine.histogram import Latency
from handler.engine.sampling import Sampling
from handler.engine.scoring import Scored
from handler.engine.stream import Stream

#: likeliest tokens listed beside each drawn token, at most
MAX_TOP_LOGPROBS = 20
#: answers to one prompt that a job may ask for; all are requests of the engine at the same time
MAX_VARIANTS = 8
#: where a checkpoint says that a token ends an answer
EndSource = Literal["chat_template", "generation_config", "config"]


@dataclass(frozen=True, slots=True)
class Thought:
    """The think block that an answer may begin with."""

    #: the prompt ends inside it; else the model may open it
    opened: bool
    #: the tokens that close it at `max_thinking_tokens`
    closing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """The token ids that the model reads, and how an answer to them begins and ends."""

    token_ids: tuple[int, ...]
    #: prompts share what was computed of a common beginning only where their salts are equal; changes no answer. 64
    #: bytes at most
    salt: bytes = b""
    #: ids that end an answer to this prompt, beside the model's own: those that end a turn of its chat template
    end_ids: tuple[int, ...] = ()
    #: None where no think block is looked for: all text is answer
    thought: Thought | None = None


@dataclass(frozen=True, slots=True)
class EndToken:
    """A token that ends an answer, and the files of the checkpoint that say so."""

    token_id: int
    token: str
    sources: tuple[EndSource, ...]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that was loaded; replies and `info` quote it."""

    #: public name, never a path
    name: str
    #: commit of the snapshot; None where the directory does not say
    revision: str | None
    #: where the weights came from: `path`, `cache`, `baked`, `download` or `demo`
    source: str
    #: `qwen2` or `qwen3`
    architecture: str
    #: which code computes: our merged forward, or transformers' modules
    forward: Literal["merged", "modules"]
    #: False where the modules are in training mode, in which dropout would change answers
    eval_mode: bool
    dtype: str
    device: str
    parameters: int
    #: bytes of the weights as they lie in memory
    weight_bytes: int
    #: rows of the embedding; rows past the tokenizer's last id have no token
    vocab_size: int
    #: positions the model was made for
    context_length: int
    #: ids that end every answer: those of the configurations
    stop_token_ids: tuple[int, ...]
    #: the sampling of the model's own generation_config, by our field names
    sampling_defaults: Mapping[str, float | int]
    #: all tokens that end an answer; those of the chat template alone end answers to prompts that it rendered
    end_tokens: tuple[EndToken, ...] = ()

    @property
    def device_type(self) -> Literal["cpu", "cuda"]:
        """The kind of device."""
        return "cuda" if self.device.startswith("cuda") else "cpu"


@dataclass(frozen=True, slots=True)
class Status:
    """The state of an engine at this moment; reading it costs next to nothing."""

    alive: bool
    running: int
    waiting: int
    #: seconds since the engine's thread last showed life
    heartbeat_age_s: float
    #: this engine's own counters (steps, pages, preemptions …), by name
    details: Mapping[str, JsonValue] = field(default_factory=lambda: MappingProxyType({}))
    #: of all requests since the start; None where the engine does not measure it
    latency: Latency | None = None


class Engine(Protocol):
    """Runs prompts on a model: `stream` draws what follows one, `score` rates a given text after one.

    Both are called on the event loop, and `stream` returns at once.
    """

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
            InvalidRequest: an empty prompt, an id outside the vocabulary (a biased one too), or too many alternatives.
            ContextLengthExceeded: prompt and `max_tokens` do not fit `max_model_len`.
            Overloaded: the wait queue is full; it says when to try again.
            EngineFailed: the engine is closed or dead.
        """
        ...

    async def score(
        self, prompt: Prompt, text: tuple[int, ...], *, top: int = 0, deadline: float | None = None
    ) -> Scored:
        """Compute the log-probability of each token of `text` after the prompt and the tokens before it.

        No token is drawn: the request is the prefill of both, in the batch of all others, and shares their prefixes.
        Cancelling the call ends it within a step.

        Args:
            text: token ids, which need not be those that a tokenizer would make of prompt and text together.
            top: so many of the likeliest tokens are listed for each position (0 to MAX_TOP_LOGPROBS).
            deadline: on the clock of `time.monotonic`.

        Raises:
            InvalidRequest: an empty prompt or text, an id outside the vocabulary, or too many alternatives.
            ContextLengthExceeded: prompt and text do not fit `max_model_len`.
            DeadlineExceeded: the deadline passed before the last token was scored.
            Overloaded: the wait queue is full; it says when to try again.
            EngineFailed: the engine is closed or dead, or a log-probability is not finite.
        """
        ...

    def status(self) -> Status:
        """The state at this moment; takes no lock that a step holds."""
        ...

    def close(self) -> None:
        """Cancel what runs, join the thread, free the device. Idempotent, blocking."""
        ...
