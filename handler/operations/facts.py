"""The facts at the end of a reply: of the run, of the model, of a prompt that did not run."""

from collections.abc import Sequence

from handler.api.text import (
    DrawnLogprob,
    DryRunReply,
    DryRunUsage,
    Message,
    ModelFacts,
    Run,
    Timing,
    TokenLogprob,
    Usage,
)
from handler.engine import stream as engine_stream
from handler.engine.sampling import Sampling
from handler.engine.spent import Spent
from handler.engine.stream import Logprob
from handler.model.template import Rendered
from handler.operations.core import Core
from handler.operations.prompt import Prepared


def run_facts(
    core: Core,
    spent: Spent,
    seconds: float,
    logprobs: tuple[DrawnLogprob, ...] | None = None,
    truncated_turns: int | None = None,
) -> Run:
    """The facts of one run. `seconds`: in the worker, from the job's start."""
    return Run(
        finish_reason=spent.finish_reason,
        reasoning=spent.reasoning,
        reasoning_cut=spent.reasoning_cut or None,
        usage=usage_of(spent.usage),
        sampling=spent.sampling,
        logprobs=logprobs,
        model_info=model_facts(core),
        truncated_turns=truncated_turns,
        prompt_sha256=spent.prompt_sha256,
        timing=timing_of(spent.timing, spent.usage),
        generation_time=round(spent.timing.total_s, 4),
        processing_time=round(seconds, 4),
    )


def model_facts(core: Core) -> ModelFacts:
    """The model as a reply names it."""
    return ModelFacts(
        model_name=core.model.name,
        model_loaded=core.engine.status().alive,
        revision=core.model.revision,
        dtype=core.model.dtype,
        max_model_len=core.engine.max_model_len,
    )


def dry_run(core: Core, prepared: Prepared) -> DryRunReply:
    """The prompt that the model would read."""
    return without_run(core, prepared.sampling, prepared.messages, prepared.rendered, prepared.truncated_turns)


def without_run(
    core: Core,
    sampling: Sampling | None,
    messages: tuple[Message, ...] = (),
    rendered: Rendered | None = None,
    truncated_turns: int | None = None,
) -> DryRunReply:
    """`rendered` is None where the model would not be asked."""
    token_ids = () if rendered is None else rendered.prompt.token_ids
    return DryRunReply(
        messages=messages or None,
        rendered="" if rendered is None else rendered.text,
        token_ids=token_ids,
        truncated_turns=truncated_turns,
        prompt_sha256=None if rendered is None else rendered.sha256,
        usage=DryRunUsage(prompt_tokens=len(token_ids)),
        sampling=sampling,
        model_info=model_facts(core),
        no_override_detected=core.adds_nothing,
        pure_inference_mode=core.adds_nothing,
    )


def drawn_logprobs(core: Core, token_ids: Sequence[int], logprobs: Sequence[Logprob]) -> tuple[DrawnLogprob, ...]:
    """The log-probabilities of tokens with their texts; takes a while where there are thousands."""
    return tuple(_drawn(core, token_id, found) for token_id, found in zip(token_ids, logprobs, strict=False))


def _drawn(core: Core, token_id: int, found: Logprob) -> DrawnLogprob:
    drawn = _likely(core, token_id, found.logprob)
    top = tuple(_likely(core, *other) for other in found.top)
    return DrawnLogprob(**dict(drawn), top=top)


def _likely(core: Core, token_id: int, logprob: float) -> TokenLogprob:
    own = core.template.token_bytes(token_id)
    text = own.decode(errors="replace")
    # 32 bits hold no more digits.
    return TokenLogprob(token=text, bytes=tuple(own), token_id=token_id, logprob=round(logprob, 6))


def usage_of(usage: engine_stream.Usage) -> Usage:
    """Token counts as a reply has them."""
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )


def timing_of(timing: engine_stream.Timing, usage: engine_stream.Usage) -> Timing:
    """Times as a reply has them."""
    generating, completed = timing.total_s - timing.queue_s, usage.completion_tokens
    return Timing(
        queue_ms=round(timing.queue_s * 1000, 2),
        ttft_ms=None if timing.ttft_s is None else round(timing.ttft_s * 1000, 2),
        total_ms=round(timing.total_s * 1000, 2),
        tokens_per_second=round(completed / generating, 2) if completed and generating > 0 else None,
    )
