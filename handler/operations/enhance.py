"""enhance: a prompt rewritten by the caller's own messages, or by those of a pack's entry."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import TypedDict

from handler.api.enhance import (
    CandidateReply,
    Degraded,
    Enhanced,
    EnhanceEcho,
    EnhanceReply,
    EnhanceRequest,
    Quality,
    Variant,
    WorkerOptimizations,
)
from handler.api.reply import Reply
from handler.api.text import DryRunReply, Message
from handler.engine.fold import Piece
from handler.engine.sampling import Sampling
from handler.engine.spent import Spent
from handler.enhancement import brief as briefs
from handler.enhancement.brief import Brief
from handler.enhancement.enhancer import best, spent_on_all
from handler.enhancement.rewrite import Rewritten
from handler.errors import DeadlineExceeded, Unsupported
from handler.operations.answer import Answer, answer, deadline
from handler.operations.core import Core
from handler.operations.facts import dry_run, run_facts, without_run
from handler.operations.prompt import Prepared, check, conversation, prepare, with_default_system
from handler.operations.sampling import sampling_of, sampling_over


def enhance(core: Core, request: EnhanceRequest) -> AsyncGenerator[Piece | Reply, None]:
    """Yield the text as it comes where it is the answer as it comes; then the reply."""
    if request.candidate is not None:
        return _candidate(core, request, request.candidate)
    if not request.is_plain:
        return _judged(core, request)
    messages = with_default_system(core, _own_messages(request))

    def reply(answered: Answer) -> EnhanceReply:
        text = answered.text
        unchanged = "unchanged" if text.strip() == request.original_prompt.strip() else None
        result = Enhanced(enhanced_prompt=text, enhancement_source="edge_function", cache_hit=False, reason=unchanged)
        return EnhanceReply(**_fields_of(request, None, result, caching=False), run=answered.run)

    encode = conversation(core, request, messages)
    return answer(core, request, messages, encode, field=_field(request), reply=reply)


async def _candidate(core: Core, request: EnhanceRequest, text: str) -> AsyncGenerator[Piece | Reply, None]:
    """Yield the reply to a text that the request brought. Neither the model nor the engine's queue is asked."""
    began = core.clock()
    until = deadline(request, began)
    brief = await core.enhancer.brief(request, until)
    result = await core.enhancer.candidate(brief, text, until)
    fields = _fields_of(request, brief, result, caching=False)
    yield CandidateReply(**fields, processing_time=round(core.clock() - began, 4))


async def _judged(core: Core, request: EnhanceRequest) -> AsyncGenerator[Piece | Reply, None]:
    """Yield the reply to an enhancement that is fitted or judged: no part of it is known before the whole."""
    yield await _judge(core, request)


async def _judge(core: Core, request: EnhanceRequest) -> EnhanceReply | DryRunReply:
    began = core.clock()
    check(core, request)
    if request.logprobs:
        raise Unsupported("logprobs are of the model's own words, not of a fitted or judged text", field="logprobs")
    until = deadline(request, began)
    brief = await core.enhancer.brief(request, until)
    sampling = _sampling(core, request, brief, core.engine.max_model_len)
    answer = await core.enhancer.without_asking(brief, sampling, until)
    if answer is not None:
        if request.dry_run:
            return without_run(core, sampling)
        return _enhance_reply(core, request, brief, (answer,), began)
    try:
        prepared = await _prepare(core, request, brief, until)
    except DeadlineExceeded as late:
        if not request.falls_back or request.dry_run:
            raise
        degraded = Degraded(code=late.code, message=late.message)
        answer = await core.enhancer.rewriter.instead(brief, Spent(sampling), degraded, until)
        return _enhance_reply(core, request, brief, (answer,), began)
    if request.dry_run:
        return dry_run(core, prepared)
    answers = await core.enhancer.answers(request, brief, prepared.rendered, prepared.sampling, until)
    return _enhance_reply(core, request, brief, answers, began, prepared.truncated_turns)


def _own_messages(request: EnhanceRequest) -> tuple[Message, ...]:
    """The caller's messages, with nothing added."""
    if request.messages is not None:
        return request.messages
    system = () if request.system_prompt is None else (Message(role="system", content=request.system_prompt),)
    return (*system, Message(role="user", content=request.prompt or ""))


def _field(request: EnhanceRequest) -> str:
    return "prompt" if request.messages is None else "messages"


async def _prepare(core: Core, request: EnhanceRequest, brief: Brief, until: float | None) -> Prepared:
    found = brief.found if brief.by_pack else None
    messages = with_default_system(core, _own_messages(request) if found is None else briefs.messages(brief, found))
    begun = brief.begun
    prepared = await prepare(
        core,
        request,
        messages,
        conversation(core, request, messages, begun),
        field=_field(request),
        until=until,
        sampling=lambda room: _sampling(core, request, brief, room),
        begun=begun,
    )
    if not begun:
        return prepared
    return replace(prepared, messages=(*prepared.messages, Message(role="assistant", content=begun)))


def _sampling(core: Core, request: EnhanceRequest, brief: Brief, room: int) -> Sampling:
    """The entry's values where the model reads the entry's messages; what the request sent goes before them.

    An answer that was begun ends at its line's end.
    """
    if brief.found is None or not brief.by_pack:
        applied = sampling_of(core, request, room)
    else:
        entry = briefs.sampling(brief, brief.found)
        applied = sampling_over(core, request, entry, entry.max_tokens, room)
    if brief.mode != "extend" or "\n" in applied.stop:
        return applied
    return applied.model_copy(update={"stop": (*applied.stop, "\n")})


def _enhance_reply(
    core: Core,
    request: EnhanceRequest,
    brief: Brief,
    answers: tuple[Rewritten, ...],
    began: float,
    truncated_turns: int | None = None,
) -> EnhanceReply:
    run = run_facts(core, spent_on_all(answers), core.clock() - began, truncated_turns=truncated_turns)
    caching = request.cache_use(run.sampling.temperature) != "off"
    fields = _fields_of(request, brief, best(answers).enhanced, caching=caching)
    return EnhanceReply(**fields, variants=_variants(request, answers), run=run)


class _Fields(TypedDict):
    """The fields that a reply has with a run of the model and without one."""

    success: bool
    original_prompt: str
    enhanced: Enhanced
    negative_prompt: str | None
    job_type: str | None
    quality: Quality | None
    worker_optimizations: WorkerOptimizations
    echo: EnhanceEcho


def _fields_of(request: EnhanceRequest, brief: Brief | None, result: Enhanced, *, caching: bool) -> _Fields:
    """`brief` is None where the model's text is the answer, as it comes."""
    found = None if brief is None else brief.found
    entry = None if found is None else found.entry
    negative_prompt = request.negative_prompt
    if negative_prompt is None and entry is not None and brief is not None and brief.by_pack:
        negative_prompt = entry.negative_prompt
    if brief is not None and brief.moved:
        negative_prompt = ", ".join(filter(None, (negative_prompt, *brief.moved)))
    return _Fields(
        success=result.error is None,
        original_prompt=request.original_prompt,
        enhanced=result,
        negative_prompt=negative_prompt,
        job_type=None if found is None else found.name,
        quality=request.quality if entry is None or entry.quality is None else entry.quality,
        worker_optimizations=WorkerOptimizations(
            caching=caching,
            post_processing=brief is not None and brief.may_change_the_answer,
            fallback_ready=request.candidate is None and request.falls_back,
        ),
        echo=EnhanceEcho.of(request),
    )


def _variants(request: EnhanceRequest, answers: tuple[Rewritten, ...]) -> tuple[Variant, ...] | None:
    """All `n` variants; those that were not run, as their draws cannot differ, are the first one again."""
    if request.n == 1:
        return None
    variants = tuple(_variant(answer) for answer in answers)
    first = variants[0]
    again = (
        first.model_copy(update={"cache_hit": True, "seed": (first.seed + index) % 2**63, "same_as": 0})
        for index in range(len(variants), request.n)
    )
    return (*variants, *again)


def _variant(answer: Rewritten) -> Variant:
    result = answer.enhanced
    return Variant(
        enhanced_prompt=result.enhanced_prompt,
        enhancement_source=result.enhancement_source,
        cache_hit=result.cache_hit,
        quality_score=result.quality_score,
        sdxl_optimizations=result.sdxl_optimizations,
        wan_optimizations=result.wan_optimizations,
        enhancement=result.enhancement,
        degraded=result.degraded,
        reason=result.reason,
        error=result.error,
        seed=answer.spent.sampling.seed,
    )
