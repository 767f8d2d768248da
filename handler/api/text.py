"""The common fields of chat, generate and enhance: of their requests, and at the end of each of their replies."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from handler.api.fields import LIST, CacheSalt, Content, Part, Sent, StopStrings, few_fields
from handler.api.reply import Reply
from handler.engine.protocol import MAX_TOP_LOGPROBS, MAX_VARIANTS
from handler.engine.sampling import (
    Distribution,
    LogitBias,
    MaxThinkingTokens,
    MaxTokens,
    Sampling,
    Seed,
    StopTokenIds,
    Temperature,
    TopP,
)
from handler.engine.stream import FinishReason
from handler.engine.values import Value
from handler.errors import InvalidRequest

#: turns of one conversation, at most
MAX_TURNS = 10_000
#: log-probabilities of one reply, at most; each takes about 90 bytes of JSON (75 in English, 85 in Chinese, 92 over the
#: whole vocabulary of Qwen2.5), and RunPod loses a result of more than 10 MB
MAX_LOGPROBS = 80_000


class Message(Value):
    """One turn, exactly as the model reads it."""

    role: Literal["system", "user", "assistant"]
    content: Content = Field(
        description="Text; control tokens typed in it stay text. May be empty. Text parts are joined as they are."
    )

    _few_fields = model_validator(mode="before")(few_fields)


Messages = Annotated[tuple[Message, ...], Field(min_length=1, max_length=MAX_TURNS, fail_fast=True), LIST]


class TextRequest(Sent, Distribution):
    """A request that runs the model: the conversation, how tokens are drawn, and how the request runs.

    The defaults are the worker's; `sampling_defaults: "model"` takes the model's own in their place.
    """

    #: fields of the other operations that callers send to this one by mistake -> the field that it has
    MEANT: ClassVar[Mapping[str, str]] = {}

    messages: Messages | None = Field(
        None,
        description="The whole conversation, as the model reads it.",
        examples=[[{"role": "user", "content": "hi"}]],
    )
    continue_final_message: bool = Field(
        False, description="With `messages`: the last one is the assistant's, and the model continues it."
    )

    truncate_history: bool = Field(
        False,
        description="Where the conversation is too long for the context with `max_tokens`: drop the oldest turns of "
        "the user with the answers to them. System turns and the last turn stay.",
    )

    #: fewer where the context ends before
    max_tokens: MaxTokens = 512
    temperature: Temperature = 0.7
    top_p: TopP = 0.9
    seed: Annotated[Seed | None, Field(description="Same request and seed, same draws; drawn where not sent.")] = None
    stop: StopStrings = Field(
        (),
        description="The answer ends before the first of these that completes; in a thought they end nothing.",
        examples=["\n\n"],
    )
    stop_token_ids: Annotated[StopTokenIds, LIST] = Field(
        (),
        description="The answer ends at the first of these, beside the model's own end tokens; it adds no text.",
        examples=[[151643]],
    )
    logit_bias: LogitBias = Field({})
    n: int = Field(
        1,
        ge=1,
        le=MAX_VARIANTS,
        description="Answers to the one prompt, each with a seed of its own: `seed`, `seed` + 1 and so on.",
    )
    logprobs: bool = Field(False, description="Return the log-probability of each token of the answer.")
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="With `logprobs`: return so many of the likeliest tokens at each position, too.",
        examples=[3],
    )
    stream: bool = Field(False, description="Send the text as it comes.")
    deadline_ms: int | None = Field(
        None,
        ge=1,
        le=604_800_000,
        description="Milliseconds in the worker after which the answer ends with the text so far. "
        "RunPod's queue is not counted.",
        examples=[20000],
    )
    cache_salt: CacheSalt | None = Field(
        None,
        description="Share computed prefixes and kept enhancements with requests of the same salt alone (security.md).",
        examples=["8c1f4a"],
    )
    enable_thinking: bool | None = Field(
        None,
        description="Let the model think first, or not; its thoughts come as `reasoning`. Not sent: it thinks only "
        "where its template always has it think.",
    )
    max_thinking_tokens: MaxThinkingTokens | None = Field(
        None,
        description="Tokens of the thought, at most, of the `max_tokens`: then the worker closes it, and the answer "
        "begins.",
        examples=[1024],
    )
    dry_run: bool = Field(False, description="Answer with the prompt that the model would read, without running it.")
    sampling_defaults: Literal["worker", "model"] = Field(
        "worker",
        description="Where values that were not sent come from: the worker's, or the model's generation_config.",
    )

    @property
    def sent_max_tokens(self) -> int | None:
        """`max_tokens` where the caller sent it."""
        return self.max_tokens if "max_tokens" in self.model_fields_set else None

    @property
    def most_with_logprobs(self) -> int | None:
        """Completion tokens of which a reply can carry the log-probabilities; None where they were not asked for."""
        answers = self.n if self.n == 1 else self.n + 1  # the first one stands at the top of the reply, too
        return MAX_LOGPROBS // ((1 + (self.top_logprobs or 0)) * answers) if self.logprobs else None

    @model_validator(mode="after")
    def _logprobs_fit_a_reply(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: true", field="top_logprobs")
        most, sent = self.most_with_logprobs, self.sent_max_tokens
        if most is not None and sent is not None and sent > most:
            raise InvalidRequest(
                f"logprobs: max_tokens is {sent}, and with this top_logprobs and n a reply carries the "
                f"log-probabilities of {most} tokens; send fewer, or leave max_tokens out",
                field="logprobs",
            )
        return self

    @model_validator(mode="after")
    def _last_turn_can_be_answered(self) -> Self:
        continues = self.continue_final_message
        if self.messages is None:
            if continues:
                raise InvalidRequest("continue_final_message needs messages", field="continue_final_message")
            return self
        last = self.messages[-1].role
        if continues and last != "assistant":
            raise InvalidRequest(
                f"continue_final_message: the last message has the role {last}, not assistant",
                field="continue_final_message",
            )
        if last == "assistant" and not continues:
            raise InvalidRequest(
                "the last message has the role assistant: there is nothing to answer; "
                "send continue_final_message: true to have it continued",
                field=f"messages.{len(self.messages) - 1}.role",
            )
        return self


def exactly_one(request: TextRequest, one: str, other: str) -> None:
    """Refuse a request that has both of two fields, or neither."""
    sent = request.model_fields_set & {one, other}
    if len(sent) == 2:
        raise InvalidRequest(f"send {one} or {other}, not both", field=other)
    if not sent:
        raise InvalidRequest(f"send {one} or {other}", field=one)


def none_of(request: TextRequest, given: str, *names: str) -> None:
    """Refuse a request that has one of the names beside `given`."""
    for name in names:
        if name in request.model_fields_set:
            raise InvalidRequest(f"{name} does not go with {given}", field=name)


class Usage(Value):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = Field(description="Prompt tokens that were already in the KV cache.")


class TokenLogprob(Value):
    """A token and its log-probability."""

    token: str = Field(description="Its text; U+FFFD for bytes that are no character, empty for a control token.")
    bytes: tuple[int, ...] = Field(
        description="Its bytes: those of tokens one after the other are the text, where a character is cut too."
    )
    token_id: int
    logprob: float = Field(description="Natural logarithm of its probability.")


class DrawnLogprob(TokenLogprob):
    """A token of the answer, beside the likeliest ones at its position."""

    top: tuple[TokenLogprob, ...] = Field(description="As many as `top_logprobs` says, the likeliest first.")


class Timing(Part):
    """Milliseconds in the engine."""

    queue_ms: float = Field(description="Until the first step of this request began.")
    ttft_ms: float | None = Field(None, description="Until its first token; absent where none came.")
    total_ms: float = Field(description="Until its end.")
    tokens_per_second: float | None = Field(
        None, description="Completion tokens over the time after the queue; absent where there are none."
    )


class ModelFacts(Part):
    """The model that answered."""

    model_name: str
    model_loaded: bool
    revision: str | None = None
    dtype: str
    max_model_len: int


class Run(Part):
    """The facts of one run of the model; they stand at the end of every reply that ran it."""

    finish_reason: FinishReason | None = Field(None, description="Absent where an enhance did not ask the model.")
    reasoning: str | None = Field(None, description="The think block, where the model was to think.")
    reasoning_cut: Literal[True] | None = Field(
        None, description="Where the thought was closed at `max_thinking_tokens`."
    )
    usage: Usage
    sampling: Sampling = Field(description="The sampling fields as they were applied.")
    logprobs: tuple[DrawnLogprob, ...] | None = Field(
        None, description="Where `logprobs` was sent: one for each completion token."
    )
    model_info: ModelFacts
    truncated_turns: int | None = Field(
        None, description="Where `truncate_history` was sent: the turns that the model did not read."
    )
    prompt_sha256: str | None = Field(
        None, description="Of the token ids that the model read (fidelity.md); absent where it read none."
    )
    timing: Timing
    generation_time: float = Field(description="Seconds in the engine.")
    processing_time: float = Field(description="Seconds in the worker, from job to reply.")


class TextReply(Reply):
    """A reply that ran the model."""

    FLAT: ClassVar[tuple[str, ...]] = ("run",)

    run: Run


class DryRunUsage(Value):
    """Token counts of a prompt that did not run."""

    prompt_tokens: int


class DryRunReply(Reply):
    """The prompt that the model would have read."""

    dry_run: Literal[True] = True
    messages: tuple[Message, ...] | None = Field(
        None, description="As built; absent for a raw prompt, and where the model would not be asked."
    )
    rendered: str
    token_ids: tuple[int, ...]
    truncated_turns: int | None = Field(
        None, description="Where `truncate_history` was sent: the turns that the model would not read."
    )
    scored_tokens: int | None = Field(
        None, description="With `score_text`: so many of `token_ids`, at their end, would be scored."
    )
    prompt_sha256: str | None = None
    usage: DryRunUsage
    sampling: Sampling | None = Field(None, description="Absent with `score_text`.")
    model_info: ModelFacts
    no_override_detected: bool = Field(description="True where this worker adds nothing to what callers send.")
    pure_inference_mode: bool = Field(description="The same, by the name that older callers read.")
    system_prompt_received: str | None = Field(None, description="Of a chat: the system turn as sent.")
    system_prompt_used: str | None = Field(None, description="Of a chat: the system turn that the model would read.")
    messages_built: tuple[Message, ...] | None = Field(
        None, description="Of a chat: `messages`, by the name that older callers read."
    )
