"""enhance: a short prompt in, one fit for an image or video model out."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from handler.api.fields import LIST, MAX_ECHO_BYTES, PASSED_BACK, AnyJson, Echo, NonBlank, Part, Sent, Text, json_within
from handler.api.reply import Reply
from handler.api.text import TextReply, TextRequest, exactly_one, none_of
from handler.engine.sampling import MaxTokens
from handler.engine.values import Value
from handler.errors import InvalidRequest

#: characters of a prompt to enhance, at most: forty times what the largest text encoder reads
MAX_PROMPT = 20_000
#: bytes of JSON of a pack that a request brings, at most
MAX_PACK_BYTES = 262_144

EncoderName = Literal["clip", "umt5", "t5", "qwen"]
Quality = Literal["fast", "high"]
CacheUse = Literal["use", "refresh", "off"]
Fallback = Literal["original", "error"]
Source = Literal["edge_function", "worker_fallback", "emergency_fallback", "candidate"]
#: languages that can be asked for; each is recognised by its script
Language = Literal[
    "same", "en", "de", "fr", "es", "it", "pt", "nl", "pl", "tr", "vi", "id",
    "zh", "ja", "ko", "ru", "uk", "el", "ar", "he", "hi", "th",
]  # fmt: skip


def _name_the_new_mode(mode: object) -> object:
    """Refuse a mode of earlier versions by the name of the one that took its place."""
    if mode == "append":
        raise PydanticCustomError("mode", "append was replaced: send extend, which keeps the prompt in front, too")
    return mode


Mode = Annotated[Literal["rewrite", "extend"], BeforeValidator(_name_the_new_mode)]
#: what finds an assistant's talk and another subject in an answer
JudgedBy = Literal["rules", "model", "both"]
#: the fields that go with `candidate`; every other one is for a run of the model
_WITH_CANDIDATE = frozenset(
    {
        *("operation", "candidate", "prompt", "messages", "system_prompt", "job_type", "target_model", "quality"),
        *("pack", "target", "mode", "language", "protect", "negative_prompt", "deadline_ms"),
        *("context", "enhancement_type"),
    }
)


class Target(Sent):
    """The text encoder and budget that the result is measured for."""

    encoder: EncoderName = Field(description="The text encoder that will read the result.")
    max_tokens: int = Field(ge=1, le=100_000, description="Its budget, in content tokens.", examples=[75])
    fit: bool | None = Field(
        None, description="Trim the result to the budget. Not sent: true with a pack's entry, else false."
    )


class EnhanceEcho(Echo):
    """The fields of an enhance that come back as they were sent."""

    context: Annotated[dict[str, JsonValue] | None, json_within(MAX_ECHO_BYTES), PASSED_BACK] = Field(
        None, description="Passed back as it came.", examples=[{"scene": 3}]
    )
    enhancement_type: AnyJson = Field(None, description="Passed back as it came.", examples=["image"])


def _with_original_prompt(schema: dict[str, JsonValue]) -> None:
    """Name the field that `EnhanceRequest` takes in place of `prompt`."""
    fields = schema["properties"]
    assert isinstance(fields, dict)
    prompt = fields["prompt"]
    assert isinstance(prompt, dict)
    fields["original_prompt"] = {**prompt, "description": "Another name of `prompt`."}


class EnhanceRequest(EnhanceEcho, TextRequest):
    """A short prompt to rewrite.

    `messages`; or `prompt` with `system_prompt`; or `prompt` with `job_type` or `target_model`, which name an entry of
    a pack. With `system_prompt`, an entry only says what the result is measured for.
    """

    model_config = ConfigDict(json_schema_extra=_with_original_prompt)

    operation: Literal["enhance"]
    max_tokens: MaxTokens = 200
    prompt: NonBlank | None = Field(
        None,
        max_length=MAX_PROMPT,
        description="The user's prompt.",
        examples=["a fox in the snow"],
    )
    system_prompt: Text | None = Field(
        None, description="With `prompt`: the system turn, as sent.", examples=["Rewrite for SDXL."]
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
    target: Target | None = Field(None, description="Measure the result for this, instead of the entry's budget.")
    mode: Mode | None = Field(
        None,
        description="`extend`: the answer is begun with the user's prompt, and the model writes on. Not sent: with a "
        "pack's messages the entry's, or `rewrite` where the prompt is in another language than the result or "
        "`enable_thinking` is sent; else `rewrite`.",
        examples=["extend"],
    )
    language: Language | None = Field(
        None, description="Of the result; checked by its script. Not sent: the entry's, or unchecked.", examples=["en"]
    )
    protect: (
        Annotated[tuple[Annotated[NonBlank, Field(max_length=500)], ...], Field(max_length=50, fail_fast=True), LIST]
        | None
    ) = Field(None, description="Texts that the result must hold, to the letter.", examples=[["ohwx"]])
    negative_prompt: Text | None = Field(
        None, max_length=MAX_PROMPT, description="Passed back; else the entry's.", examples=["blurry"]
    )
    cache: CacheUse | None = Field(
        None,
        description="`refresh` asks the model again and stores the answer. Not sent: `use` with a pack's messages "
        "where a seed was sent or the temperature is 0, else `off`.",
        examples=["off"],
    )
    fallback: Fallback | None = Field(
        None,
        description="What to answer where the model gives no usable text. Not sent: `original` with a pack's "
        "messages, else `error`.",
        examples=["error"],
    )
    candidate: Text | None = Field(
        None,
        max_length=MAX_PROMPT,
        description="Judge, repair, fit and score this text in place of an answer of the model, which is not run; in "
        "mode `extend`, the text after the prompt. Goes with no field for a run of the model.",
        examples=["a fox in deep snow, soft light"],
    )

    @property
    def brings_messages(self) -> bool:
        """Whether the model reads the caller's own messages; else it reads those of a pack's entry."""
        return self.messages is not None or self.system_prompt is not None

    @property
    def names_entry(self) -> bool:
        """Whether the request names an entry of a pack."""
        return self.job_type is not None or self.target_model is not None

    @property
    def is_plain(self) -> bool:
        """Whether the model's text is the result, as it comes: neither fitted nor judged nor checked."""
        options = (self.target, self.mode, self.language, self.protect, self.cache, self.fallback, self.candidate)
        return not self.names_entry and self.n == 1 and all(option is None for option in options)

    def cache_use(self, temperature: float) -> CacheUse:
        """`cache`, with its default, which the temperature that is applied decides, too."""
        repeatable = self.seed is not None or temperature == 0
        return self.cache or ("use" if repeatable and not self.brings_messages else "off")

    @property
    def falls_back(self) -> bool:
        """Whether another text replaces an answer that cannot be used; else that is an error."""
        return (self.fallback or ("error" if self.brings_messages else "original")) == "original"

    @property
    def original_prompt(self) -> str:
        """The user's words: the prompt, or the last user turn."""
        if self.prompt is not None:
            return self.prompt
        return "" if self._last_user is None else self._last_user[1]

    @property
    def _last_user(self) -> tuple[int, str] | None:
        """The number of the last user turn, and its text."""
        turns = list(enumerate(self.messages or ()))
        return next(((index, turn.content) for index, turn in reversed(turns) if turn.role == "user"), None)

    @model_validator(mode="before")
    @classmethod
    def _original_prompt_is_prompt(cls, given: object) -> object:
        if not isinstance(given, dict) or "original_prompt" not in given:
            return given
        original, others = given["original_prompt"], {k: v for k, v in given.items() if k != "original_prompt"}
        if original is None or others.get("prompt") is not None:
            if original is not None:
                raise InvalidRequest("send prompt or original_prompt, not both", field="original_prompt")
            return others
        return others | {"prompt": original}

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        exactly_one(self, "messages", "prompt")
        if self.truncate_history and self.messages is None:
            raise InvalidRequest("truncate_history needs messages: a prompt is one turn", field="truncate_history")
        if self.messages is not None:
            none_of(self, "messages", "system_prompt", "job_type", "target_model", "quality", "pack")
        elif not self.names_entry:
            if self.system_prompt is None and self.candidate is None:
                raise InvalidRequest(
                    "prompt comes with system_prompt, or with job_type or target_model", field="system_prompt"
                )
            for name in ("quality", "pack"):
                if name in self.model_fields_set:
                    raise InvalidRequest(f"{name} needs job_type or target_model", field=name)
        elif self.system_prompt is None and self.sampling_defaults == "model":
            raise InvalidRequest("sampling_defaults: a pack's entry sets every value itself", field="sampling_defaults")
        return self

    @model_validator(mode="after")
    def _candidate_is_not_run(self) -> Self:
        if self.candidate is not None:
            for name in sorted(self.model_fields_set - _WITH_CANDIDATE):
                raise InvalidRequest(f"{name} does not go with candidate, for which the model is not run", field=name)
        return self

    @model_validator(mode="after")
    def _can_be_extended(self) -> Self:
        if self.mode == "extend":
            for name in ("enable_thinking", "continue_final_message"):
                if getattr(self, name):
                    raise InvalidRequest(
                        f"{name} does not go with mode extend, in which the answer has begun", field=name
                    )
            if not self.original_prompt.strip():
                raise InvalidRequest("mode: extend needs a user turn with text, which it extends", field="mode")
        return self

    @model_validator(mode="after")
    def _searched_text_is_short(self) -> Self:
        """`prompt` has its bound; the last user turn is bounded here, unless it is only passed to the model."""
        if self._last_user is not None and not self.is_plain and len(self._last_user[1]) > MAX_PROMPT:
            index, text = self._last_user
            field = f"messages.{index}.content"
            raise InvalidRequest(
                f"{field}: has {len(text)} characters, and a prompt that is fitted, judged or checked has at most "
                f"{MAX_PROMPT}; send less, or leave out what asks for a check",
                field=field,
            )
        return self


class PackFacts(Value):
    """The pack that was used."""

    id: str
    version: str
    sha256: str = Field(description="Of the pack's JSON with sorted keys and no white space.")


class Trimmed(Value):
    """Text of the model's answer that was trimmed."""

    kind: str = Field(description="`subject`, or the word list it was found in.")
    text: str


class BudgetFacts(Value):
    """The result, measured."""

    encoder: EncoderName
    measured_with: str = Field(description="The tokenizer that counted; says so where it is a stand-in.")
    tokens: int
    max_tokens: int
    windows: int = Field(description="How often the encoder must run to read all of it (CLIP: 75 tokens each time).")
    input_over_budget: bool = Field(description="True where the user's prompt alone was over the budget.")
    trimmed: tuple[Trimmed, ...]


class Check(Value):
    """A check of the result; it passed where nothing was found."""

    hard: bool = Field(description="A failed hard check caps the score at 0.49.")
    found: tuple[str, ...] = Field(description="The words, counts or faults that made it fail.")

    @property
    def passed(self) -> bool:
        return not self.found


class Score(Value):
    """The parts of `quality_score`. It measures how well the pack's rules are kept, not how good an image gets."""

    parts: dict[str, float]
    score_original: float = Field(description="The same rules, applied to the original prompt.")
    rules_version: str


class Repair(Value):
    """A change made to the model's answer without the model."""

    kind: Literal["inserted", "removed"] = Field(
        description="`inserted`: the user's own words, which the answer had lost; `removed`: text against them."
    )
    text: str


class Judged(Part):
    """How the model itself judged its answer, by likelihoods: `docs/enhance.md` says what the figures mean."""

    by: JudgedBy = Field(
        description="What judged the result. `rules` where the model was not asked: of a candidate, of a text that "
        "stands in for an answer, of a translation, and where `error` says why."
    )
    kept: float | None = Field(
        None,
        description="The share of the prompt's meaning that the answer keeps. Absent where it begins with the prompt.",
    )
    described: float | None = Field(
        None,
        description="How much likelier the text behind the prompt is as a description than as an assistant's words, in "
        "nats a token. Absent where the answer does not begin with the prompt.",
    )
    error: str | None = Field(None, description="The code of the error for which the model could not judge.")


class Enhancement(Part):
    """The way to the result, and its measures."""

    pack: PackFacts | None = Field(None, description="Where an entry was named.")
    budget: BudgetFacts | None = Field(None, description="Where the result was measured.")
    score: Score | None = Field(None, description="Where an entry was named.")
    judge: Judged | None = Field(None, description="Where the entry has the model judge.")
    retries: int = Field(description="How often the model was asked again.")
    repairs: tuple[Repair, ...]
    failed_checks: dict[str, Check] = Field(description="By name; empty where every check passed.")


class Degraded(Value):
    """Why something else stands in for the model's answer; of a candidate, why it is no prompt."""

    code: str = Field(
        description="`refusal`, `question`, `echo`, `loop`, `unchanged`, `off_subject`, `language`, `low_score` or "
        "`empty`; or the code of an error."
    )
    message: str


class WorkerOptimizations(Value):
    """The worker's services, each true where it was in force for this request."""

    caching: bool
    post_processing: bool
    fallback_ready: bool


class SdxlOptimizations(Part):
    """The pack's word lists, each true where the result has a word of it."""

    has_quality_tags: bool
    has_lighting: bool
    has_technical_terms: bool
    has_resolution: bool
    has_anatomical_accuracy: bool | None = Field(None, description="Absent where the pack has no list `anatomy`.")
    token_count: int


class WanOptimizations(Value):
    """The pack's word lists, each true where the result has a word of it."""

    has_motion: bool
    has_cinematography: bool
    has_temporal_consistency: bool
    has_quality: bool
    token_count: int


class Enhanced(Part):
    """One result."""

    enhanced_prompt: str
    enhancement_source: Source = Field(
        description="`edge_function`: by the caller's messages; `worker_fallback`: by the worker's pack; "
        "`emergency_fallback`: the original prompt, byte for byte; `candidate`: the text that the request brought."
    )
    cache_hit: bool = Field(description="True where an answer was shared that another request paid for.")
    quality_score: float | None = Field(None, description="0 to 1, where an entry was named.")
    sdxl_optimizations: SdxlOptimizations | None = None
    wan_optimizations: WanOptimizations | None = None
    enhancement: Enhancement | None = Field(None, description="Where the result was measured, fitted or checked.")
    degraded: Degraded | None = Field(
        None,
        description="Where the model was asked, and something else stands in; and where a candidate is no prompt.",
    )
    reason: str | None = Field(
        None,
        description="Where the result is the original prompt: why. The code of `degraded`; `budget`: there is no room "
        "for more; `unchanged`: nothing was added.",
    )
    error: str | None = Field(None, description="Where the original prompt is given back: why.")


class Variant(Enhanced):
    """One of `n` results."""

    seed: int
    same_as: int | None = Field(
        None,
        description="The place of an earlier variant with the same text, from 0: at temperature 0 no draw differs, and "
        "the model ran once.",
    )


class EnhanceFields(Part):
    """The fields of every reply to an enhance."""

    enhanced: Enhanced
    original_prompt: str = Field(description="`prompt`, or the last user turn of `messages`.")
    negative_prompt: str | None = Field(None, description="The caller's, else the entry's.")
    job_type: str | None = Field(None, description="The entry of the pack.")
    quality: Quality | None = None
    worker_optimizations: WorkerOptimizations
    echo: EnhanceEcho


class EnhanceReply(EnhanceFields, TextReply):
    """The rewritten prompt."""

    FLAT: ClassVar[tuple[str, ...]] = ("enhanced", "echo", "run")

    variants: tuple[Variant, ...] | None = Field(None, description="With `n` above 1: all results, the first one too.")


class CandidateReply(EnhanceFields, Reply):
    """A text that the request brought, judged; the model did not run."""

    FLAT: ClassVar[tuple[str, ...]] = ("enhanced", "echo")

    processing_time: float = Field(description="Seconds in the worker, from job to reply.")
