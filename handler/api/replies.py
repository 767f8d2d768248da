"""What callers get: frozen values, and `to_wire`, which makes JSON of them. Knows no engine and no operation."""

from typing import Any, Literal

from pydantic import Field, JsonValue

from handler.api.contracts import EncoderName, Message, Quality, Turn
from handler.api.fields import Contract


class Usage(Contract):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = Field(description="Prompt tokens that were already in the KV cache.")


class Sampling(Contract):
    """How tokens were drawn, every field as it was applied."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    stop: tuple[str, ...]


class Logprob(Contract):
    """A token, and how likely the model found it."""

    token: str = Field(description="Its text; U+FFFD for bytes that are no character, empty for a control token.")
    token_id: int
    logprob: float = Field(description="Natural logarithm of its probability.")


class DrawnLogprob(Logprob):
    """A token of the answer, beside the likeliest ones in its place."""

    top: tuple[Logprob, ...] = Field(description="As many as `top_logprobs` says, the likeliest first.")


class Timing(Contract):
    """Milliseconds in the engine."""

    queue_ms: float = Field(description="Until the first step of this request began.")
    ttft_ms: float | None = Field(description="Until its first token.")
    total_ms: float = Field(description="Until its end.")
    tokens_per_second: float | None = Field(description="Completion tokens over the time after the queue.")


class ModelFacts(Contract):
    """Which model answered."""

    name: str
    revision: str | None
    dtype: str
    max_model_len: int


class Reply(Contract):
    """What every reply has."""

    success: bool = Field(default=True, description="False only where an enhance gives the original prompt back.")


class TextReply(Reply):
    """The tail of every reply that ran the model."""

    reasoning: str | None = Field(description="The think block, where `enable_thinking` was sent; else null.")
    finish_reason: Literal["stop", "length", "deadline", "cancelled"] | None = Field(
        description="Null where an enhance was answered without the model."
    )
    usage: Usage
    sampling: Sampling
    logprobs: tuple[DrawnLogprob, ...] | None = Field(
        description="Where `logprobs` was sent, one for each completion token; else null."
    )
    model_info: ModelFacts
    prompt_sha256: str | None = Field(
        description="Of the token ids that the model read (fidelity.md); null where it read none."
    )
    timing: Timing
    processing_time: float = Field(description="Seconds in the worker, from job to reply.")


class ChatReply(TextReply):
    """The answer to a chat."""

    response: str
    system_prompt_used: str | None = Field(description="The system turn as sent; null where none was.")
    conversation_history: tuple[Turn, ...] | None = Field(description="With the two new turns; null for `messages`.")
    conversation_id: JsonValue
    context_type: JsonValue
    project_id: JsonValue
    message_id: str


class GenerateReply(TextReply):
    """The continued text."""

    text: str


class PackFacts(Contract):
    """The pack that was used."""

    id: str
    version: str
    sha256: str = Field(description="Of the pack's JSON with sorted keys and no white space.")


class Trimmed(Contract):
    """A piece of the model's answer that went."""

    kind: str = Field(description="`subject`, or the word list it was found in.")
    text: str


class BudgetFacts(Contract):
    """The result, measured."""

    encoder: EncoderName
    measured_with: str = Field(description="The tokenizer that counted; says so where it is a stand-in.")
    tokens: int
    max_tokens: int
    windows: int = Field(description="How often the encoder must be run to read all of it (CLIP: 75 tokens each).")
    trimmed: tuple[Trimmed, ...]


class Check(Contract):
    """One check of the result."""

    passed: bool
    hard: bool = Field(description="A failed hard check caps the score at 0.49.")
    found: tuple[str, ...] = Field((), description="What it stumbled over.")


class Score(Contract):
    """How the quality score came about. It tells how well rules are kept, never how good an image gets."""

    parts: dict[str, float]
    score_original: float = Field(description="The same rules, applied to the original prompt.")
    rules_version: str


class Repair(Contract):
    """What was put right without the model."""

    kind: Literal["inserted", "removed"]
    text: str


class Failure(Contract):
    """Why the model's answer is not in the reply."""

    code: str
    message: str


class SdxlOptimizations(Contract):
    """What the result speaks of, by the pack's word lists."""

    has_quality_tags: bool
    has_lighting: bool
    has_technical_terms: bool
    has_resolution: bool
    token_count: int


class WanOptimizations(Contract):
    """What the result speaks of, by the pack's word lists."""

    has_motion: bool
    has_cinematography: bool
    has_temporal_consistency: bool
    has_quality: bool
    token_count: int


class Enhanced(Contract):
    """One result, and all that is known of it."""

    enhanced_prompt: str
    enhancement_source: Literal["edge_function", "worker_fallback", "emergency_fallback"] = Field(
        description="The caller's messages; the worker's pack; or the original prompt, byte for byte."
    )
    reason: str | None = Field(None, description="`input_over_budget`, or why there is no answer of the model's.")
    degraded: bool = Field(False, description="True where the model was asked, and something else stands in for it.")
    failure: Failure | None = Field(None, description="Why it is degraded.")
    cache_hit: bool = False
    budget: BudgetFacts | None = None
    quality_score: float | None = Field(None, description="0 to 1; null without a pack's rules.")
    score: Score | None = None
    checks: dict[str, Check] | None = None
    repaired: tuple[Repair, ...] = Field((), description="What of the user's was put back, or against it taken out.")
    sdxl_optimizations: SdxlOptimizations | None = None
    wan_optimizations: WanOptimizations | None = None
    retries: int = 0


class Variant(Enhanced):
    """One of `n` results."""

    seed: int


class EnhanceReply(TextReply, Enhanced):
    """The rewritten prompt."""

    original_prompt: str = Field(description="`prompt`, or the last user turn of `messages`.")
    negative_prompt: str | None = Field(None, description="The caller's, else the entry's.")
    job_type: str | None = Field(None, description="The entry of the pack.")
    quality: Quality | None = None
    pack: PackFacts | None = None
    variants: tuple[Variant, ...] | None = Field(
        None, description="All `n` results, the first one too; null where n is 1."
    )
    context: dict[str, JsonValue] | None
    enhancement_type: JsonValue
    generation_time: float = Field(description="Seconds in the engine.")


class DryRunUsage(Contract):
    """Token counts of a prompt that did not run."""

    prompt_tokens: int


class DryRunReply(Reply):
    """What the model would have read."""

    dry_run: Literal[True] = True
    messages: tuple[Message, ...] | None = Field(
        description="As built; null for a raw prompt, and where the model would not be asked."
    )
    rendered: str
    token_ids: tuple[int, ...]
    prompt_sha256: str | None
    usage: DryRunUsage
    sampling: Sampling
    model_info: ModelFacts


class InfoReply(Reply):
    """The sections that were asked for, the others left out."""

    worker: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    health: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    enhancement: dict[str, Any] | None = None
    startup: dict[str, Any] | None = None
    cache_cleared: int | None = Field(None, description="With `clear_cache`: entries that went.")
    cache_size: int | None = Field(None, description="With `clear_cache`: entries there are now.")


def to_wire(reply: Reply) -> dict[str, Any]:
    """A reply as JSON-ready values, its own fields before those that every reply has."""
    wire: dict[str, Any] = reply.model_dump(mode="json", exclude_unset=isinstance(reply, InfoReply))
    tail = {name: wire.pop(name) for name in TextReply.model_fields if name in wire}
    return {"success": reply.success, **wire, **tail}
