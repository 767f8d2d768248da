"""What callers send: frozen values, tagged by `operation`.

Knows no model: whether a prompt fits its context is told where the tokens are counted.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from handler.api.fields import (
    LIST,
    MAX_ECHO_BYTES,
    Contract,
    Echo,
    Flag,
    NonBlank,
    StopStrings,
    Text,
    json_within,
    null_is,
)
from handler.engine.protocol import MAX_TOP_LOGPROBS
from handler.errors import InvalidRequest

#: turns of one conversation
MAX_TURNS = 10_000
#: log-probabilities of one reply, at 60 bytes of JSON each: RunPod loses a result of more than 10 MB
MAX_LOGPROBS = 100_000


class Message(Contract):
    """One turn, exactly as the model reads it."""

    role: Literal["system", "user", "assistant"]
    content: Text = Field(description="Text; control tokens typed in it stay text. May be empty.")


Messages = Annotated[tuple[Message, ...], Field(min_length=1, max_length=MAX_TURNS, fail_fast=True), LIST]


class TextRequest(Contract):
    """What chat, generate and enhance share: the conversation, how tokens are drawn and how the request runs."""

    messages: Messages | None = Field(
        None,
        description="The whole conversation, as the model reads it.",
        examples=[[{"role": "user", "content": "hi"}]],
    )
    continue_final_message: Flag = Field(
        False, description="With `messages`: the last one is the assistant's, and the model writes on where it ends."
    )

    max_tokens: int | None = Field(None, ge=1, le=1_000_000, description="Completion tokens, at most.", examples=[256])
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.", examples=[0.7])
    top_p: float | None = Field(None, gt=0, le=1, description="1 is off.", examples=[0.9])
    top_k: int | None = Field(None, ge=0, le=1_000_000, description="0 is off.", examples=[20])
    min_p: float | None = Field(None, ge=0, le=1, description="0 is off.", examples=[0.05])
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="1 is off.", examples=[1.05])
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="0 is off.", examples=[0.5])
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="0 is off.", examples=[0.5])
    seed: int | None = Field(None, ge=0, lt=2**63, description="Same request and seed, same answer.", examples=[7])
    stop: StopStrings | None = Field(
        None, description="The answer ends before the first of these that completes.", examples=["\n\n"]
    )
    logprobs: Flag = Field(False, description="Tell how likely the model found each token of its answer.")
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="With `logprobs`: tell so many of the likeliest tokens in each place, too.",
        examples=[3],
    )
    stream: Flag = Field(False, description="Send the text as it comes; needs a worker with `STREAMING=true`.")
    deadline_ms: int | None = Field(
        None,
        ge=1,
        le=604_800_000,
        description="Answer with what there is after this time in the worker; RunPod's queue comes before it.",
        examples=[20000],
    )
    enable_thinking: Flag = Field(
        False, description="Let the model think first, where its template knows how; its thoughts come as `reasoning`."
    )
    dry_run: Flag = Field(False, description="Answer what the model would read, without running it.")
    sampling_defaults: Annotated[Literal["worker", "model"], null_is("worker")] = Field(
        "worker",
        description="Where values that were not sent come from: the worker's, or the model's generation_config.",
    )

    @model_validator(mode="after")
    def _alternatives(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs goes with logprobs: true", field="top_logprobs")
        if self.logprobs and (self.max_tokens or 0) * (1 + (self.top_logprobs or 0)) > MAX_LOGPROBS:
            raise InvalidRequest(
                f"logprobs: max_tokens * (1 + top_logprobs) is at most {MAX_LOGPROBS}: RunPod carries no larger reply",
                field="logprobs",
            )
        return self


class Turn(Contract):
    """One turn of a conversation as chat applications store it."""

    sender: Literal["user", "assistant"]
    content: Text
    created_at: Text | None = Field(None, description="Passed back untouched.", examples=["2026-11-20T12:00:00+00:00"])


History = Annotated[tuple[Turn, ...], Field(max_length=MAX_TURNS, fail_fast=True), LIST]


class ChatRequest(TextRequest):
    """A conversation to continue: `messages`, or `message` with what belongs to it."""

    operation: Literal["chat"]
    message: NonBlank | None = Field(None, description="The new turn of the user.", examples=["hi"])
    system_prompt: Text | None = Field(
        None, description="With `message`: the system turn.", examples=["Answer in verse."]
    )
    conversation_history: History | None = Field(None, description="With `message`: the turns before it, oldest first.")
    conversation_id: Echo = Field(None, description="Passed back untouched.", examples=["c-1"])
    context_type: Echo = Field(None, description="Passed back untouched.", examples=["support"])
    project_id: Echo = Field(None, description="Passed back untouched.", examples=["p-1"])

    @model_validator(mode="after")
    def _one_form(self) -> "ChatRequest":
        _exactly_one(self, "messages", "message")
        if self.messages is not None:
            _none_of(self, "messages", "system_prompt", "conversation_history")
        _conversation(self)
        return self


class GenerateRequest(TextRequest):
    """Text to continue: `messages` through the model's template, or a raw `prompt` without one."""

    operation: Literal["generate"]
    prompt: Text | None = Field(
        None, min_length=1, description="Read by the model as it stands.", examples=["Once upon a time"]
    )
    special_tokens: Flag = Field(False, description="With `prompt`: control tokens typed in it are control tokens.")

    @model_validator(mode="after")
    def _one_form(self) -> "GenerateRequest":
        _exactly_one(self, "messages", "prompt")
        if self.special_tokens and self.prompt is None:
            raise InvalidRequest("special_tokens goes with prompt alone", field="special_tokens")
        if self.enable_thinking and self.prompt is not None:
            raise InvalidRequest(
                "enable_thinking goes with messages: a raw prompt has no template", field="enable_thinking"
            )
        _conversation(self)
        return self


#: characters of a prompt to enhance; forty times what the largest text encoder reads
MAX_PROMPT = 20_000
#: bytes of JSON of a pack that a request brings
MAX_PACK_BYTES = 262_144

EncoderName = Literal["clip", "umt5", "t5", "qwen"]
Quality = Literal["fast", "high"]
Mode = Literal["rewrite", "append"]
CacheUse = Literal["use", "refresh", "off"]
#: languages that can be asked for; they are told apart by their script
Language = Literal[
    "same", "en", "de", "fr", "es", "it", "pt", "nl", "pl", "tr", "vi", "id",
    "zh", "ja", "ko", "ru", "uk", "el", "ar", "he", "hi", "th",
]  # fmt: skip


class Target(Contract):
    """What the result is measured for."""

    encoder: EncoderName = Field(description="The text encoder that will read the result.")
    max_tokens: int = Field(ge=1, le=100_000, description="Its budget, in content tokens.", examples=[75])
    fit: bool | None = Field(None, description="Trim the result to the budget. Not sent: true with a pack, else false.")


class EnhanceRequest(TextRequest):
    """A short prompt to rewrite: `messages`, or `prompt` with `system_prompt`, or `prompt` with an entry of a pack."""

    operation: Literal["enhance"]
    prompt: NonBlank | None = Field(
        None, max_length=MAX_PROMPT, description="The user's prompt.", examples=["a fox in the snow"]
    )
    system_prompt: Text | None = Field(
        None, description="With `prompt`: the system turn, as sent.", examples=["Rewrite for SDXL."]
    )
    context: Annotated[dict[str, JsonValue], json_within(MAX_ECHO_BYTES)] | None = Field(
        None, description="Passed back untouched.", examples=[{"scene": 3}]
    )
    job_type: Text | None = Field(
        None, description="With `prompt`: names an entry of a pack.", examples=["sdxl_image_fast"]
    )
    target_model: Text | None = Field(None, description="With `prompt`: names entries of a pack.", examples=["sdxl"])
    quality: Quality | None = Field(
        None, description="With `job_type` or `target_model`; `fast` where not sent.", examples=["fast"]
    )
    pack: Annotated[dict[str, JsonValue], json_within(MAX_PACK_BYTES)] | None = Field(
        None, description="With `job_type` or `target_model`: the pack to look in, instead of the worker's."
    )
    target: Target | None = Field(None, description="Measure the result; with a pack, instead of the entry's budget.")
    mode: Mode | None = Field(
        None,
        description="`append`: the user's prompt leads, byte for byte. Not sent: the entry's, else `rewrite`.",
        examples=["append"],
    )
    language: Language | None = Field(
        None, description="Of the result; checked by its script. Not sent: the entry's, or unchecked.", examples=["en"]
    )
    protect: Annotated[tuple[Annotated[NonBlank, Field(max_length=500)], ...], Field(max_length=50), LIST] | None = (
        Field(None, description="Texts that the result must hold, to the letter.", examples=[["ohwx"]])
    )
    negative_prompt: Text | None = Field(
        None, max_length=MAX_PROMPT, description="Passed back; else the entry's.", examples=["blurry"]
    )
    cache: CacheUse | None = Field(
        None,
        description="`refresh` answers anew and stores it. Not sent: `use` with a pack, else `off`.",
        examples=["off"],
    )
    fallback: Literal["original", "error"] | None = Field(
        None,
        description="What to answer where the model gives none. Not sent: `original` with a pack, else `error`.",
        examples=["error"],
    )
    n: Annotated[int, null_is(1)] = Field(1, ge=1, le=8, description="Variants, each with a seed of its own.")
    enhancement_type: Echo = Field(None, description="Passed back untouched.", examples=["image"])

    @model_validator(mode="after")
    def _one_form(self) -> "EnhanceRequest":
        _exactly_one(self, "messages", "prompt")
        pack_fields = ("job_type", "target_model", "quality", "pack")
        if self.messages is not None:
            _none_of(self, "messages", "system_prompt", *pack_fields)
        elif self.system_prompt is not None:
            _none_of(self, "system_prompt", *pack_fields)
        elif self.job_type is None and self.target_model is None:
            raise InvalidRequest(
                "prompt comes with system_prompt, or with job_type or target_model", field="system_prompt"
            )
        else:
            if self.job_type is not None:
                _none_of(self, "job_type", "target_model")
            if self.sampling_defaults == "model":
                raise InvalidRequest(
                    "sampling_defaults: a pack's entry sets every value itself", field="sampling_defaults"
                )
        _conversation(self)
        return self


Section = Literal["worker", "model", "health", "memory", "enhancement", "startup"]
SECTIONS: tuple[Section, ...] = ("worker", "model", "health", "memory", "enhancement", "startup")


class InfoRequest(Contract):
    """A look at the worker; waits for no other job."""

    operation: Literal["info"]
    sections: Annotated[tuple[Section, ...], Field(min_length=1), LIST] | None = Field(
        None, description="What to tell; all of it where this is not sent.", examples=[["worker", "model"]]
    )
    clear_cache: Flag = Field(
        False, description="Empty the enhancement cache, and tell only that, and the sections that were asked for."
    )


Request = ChatRequest | GenerateRequest | EnhanceRequest | InfoRequest
#: the requests that run the model
Generation = ChatRequest | GenerateRequest | EnhanceRequest


def _conversation(request: Generation) -> None:
    """What the last message's role asks for, and what the caller says of it, must agree."""
    continues = request.continue_final_message
    if request.messages is None:
        if continues:
            raise InvalidRequest("continue_final_message goes with messages alone", field="continue_final_message")
        return
    last = request.messages[-1].role
    if continues and last != "assistant":
        raise InvalidRequest(
            f"continue_final_message: the last message has the role {last}, not assistant",
            field="continue_final_message",
        )
    if last == "assistant" and not continues:
        raise InvalidRequest(
            "the last message has the role assistant: there is nothing to answer, unless continue_final_message is set",
            field=f"messages.{len(request.messages) - 1}.role",
        )


def _exactly_one(request: Contract, one: str, other: str) -> None:
    given = [name for name in (one, other) if getattr(request, name) is not None]
    if len(given) == 2:
        raise InvalidRequest(f"send {one} or {other}, not both", field=other)
    if not given:
        raise InvalidRequest(f"send {one} or {other}", field=one)


def _none_of(request: Contract, given: str, *names: str) -> None:
    for name in names:
        if getattr(request, name) is not None:
            raise InvalidRequest(f"{name} does not go with {given}", field=name)
