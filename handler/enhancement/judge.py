"""Judges a draft: the result with its measures, failed checks and score. Pure."""

from collections.abc import Mapping

from handler.api.enhance import (
    BudgetFacts,
    Check,
    Degraded,
    Enhanced,
    Enhancement,
    Score,
    SdxlOptimizations,
    Source,
    WanOptimizations,
)
from handler.enhancement.brief import Brief
from handler.enhancement.checks import Candidate, check
from handler.enhancement.draft import Draft
from handler.enhancement.opinion import Opinion, as_parts, contexts, told
from handler.enhancement.pack import Fault
from handler.enhancement.score import score
from handler.enhancement.verdict import verdict
from handler.enhancement.vocabulary import has_word_of


def judged(
    brief: Brief,
    draft: Draft,
    *,
    source: Source | None = None,
    retries: int = 0,
    degraded: Degraded | None = None,
    opinion: Opinion | None = None,
) -> Enhanced:
    """The result that a reply holds.

    Args:
        source: where its text comes from; None where that is the model's answer.
        opinion: what the model says of its answer; None where it was not asked.
    """
    fault = None
    # The user's own words have no fault, and without an entry there are no lists by which to look for one.
    if brief.found is not None and draft.answer is None and draft.text != brief.prompt:
        fault = verdict(brief, draft.text, begun=brief.mode == "extend")
    candidate = _candidate(brief, draft.text, whole=draft.whole, fault=fault)
    checks = check(candidate) if brief.is_checked else None
    quality_score, scored = None, None
    if brief.found is not None and checks is not None:
        quality_score, scored = _score(brief, draft, candidate, checks, opinion)
    return Enhanced(
        enhanced_prompt=draft.text,
        enhancement_source=source or ("worker_fallback" if brief.by_pack else "edge_function"),
        cache_hit=False,
        quality_score=quality_score,
        sdxl_optimizations=_sdxl(brief, candidate),
        wan_optimizations=_wan(brief, candidate),
        enhancement=None if checks is None else _enhancement(brief, draft, candidate, checks, scored, retries, opinion),
        degraded=degraded,
        reason=_reason(brief, draft, degraded),
        error=degraded.message if source == "emergency_fallback" and degraded is not None else None,
    )


def _reason(brief: Brief, draft: Draft, degraded: Degraded | None) -> str | None:
    """Why the result is the original prompt; None where it is another text."""
    if draft.text.strip() != brief.prompt.strip():
        return None
    if degraded is not None:
        return degraded.code
    return "budget" if draft.trimmed or draft.full else "unchanged"


def _candidate(brief: Brief, text: str, *, whole: bool, fault: Fault | None = None) -> Candidate:
    budget = brief.budget
    return Candidate(
        text=text,
        prompt=brief.prompt,
        spans=brief.spans,
        rules=brief.rules,
        words=brief.words,
        language=brief.language,
        tokens=None if budget is None else budget.count(text),
        min_tokens=0 if budget is None else budget.min_tokens,
        max_tokens=None if budget is None else budget.max_tokens,
        whole=whole,
        fault=fault,
        translated=brief.translated,
    )


def _score(
    brief: Brief, draft: Draft, candidate: Candidate, checks: Mapping[str, Check], opinion: Opinion | None
) -> tuple[float, Score]:
    """The score of the text before its repairs, beside that of the prompt; `checks` are those of the result."""
    if draft.answer is not None and draft.answer != draft.text:
        candidate = _candidate(brief, draft.answer, whole=draft.whole)
        # Fitting has mended these, and no repair did.
        mended = {name: one for name, one in checks.items() if name in ("budget", "complete")}
        checks = check(candidate) | mended
    judge = contexts(brief)
    figures = {} if opinion is None or judge is None else as_parts(opinion, judge)
    value, parts = score(candidate, checks, figures)
    original = _candidate(brief, brief.prompt, whole=True)
    score_original, _ = score(original, check(original))
    return value, Score(parts=parts, score_original=score_original, rules_version=brief.rules.version)


def _enhancement(
    brief: Brief,
    draft: Draft,
    candidate: Candidate,
    checks: Mapping[str, Check],
    scored: Score | None,
    retries: int,
    opinion: Opinion | None,
) -> Enhancement:
    return Enhancement(
        pack=None if brief.found is None else brief.found.loaded.facts,
        budget=_budget(brief, draft, candidate.tokens),
        score=scored,
        judge=told(brief, opinion),
        retries=retries,
        repairs=draft.repairs,
        failed_checks={name: one for name, one in checks.items() if not one.passed},
    )


def _budget(brief: Brief, draft: Draft, tokens: int | None) -> BudgetFacts | None:
    budget = brief.budget
    if budget is None or tokens is None:
        return None
    return BudgetFacts(
        encoder=budget.encoder.name,
        measured_with=budget.encoder.measured_with,
        tokens=tokens,
        max_tokens=budget.max_tokens,
        windows=budget.encoder.windows(tokens),
        input_over_budget=not brief.limit.fits(brief.prompt),
        trimmed=draft.trimmed,
    )


def _sdxl(brief: Brief, candidate: Candidate) -> SdxlOptimizations | None:
    if brief.rules.optimizations != "sdxl" or candidate.tokens is None:
        return None
    text, lexicon = candidate.text, brief.words.lexicon
    return SdxlOptimizations(
        has_quality_tags=has_word_of(text, "quality", lexicon),
        has_lighting=has_word_of(text, "lighting", lexicon),
        has_technical_terms=has_word_of(text, "technical", lexicon),
        has_resolution=has_word_of(text, "resolution", lexicon),
        has_anatomical_accuracy=has_word_of(text, "anatomy", lexicon) if lexicon.anatomy else None,
        token_count=candidate.tokens,
    )


def _wan(brief: Brief, candidate: Candidate) -> WanOptimizations | None:
    if brief.rules.optimizations != "wan" or candidate.tokens is None:
        return None
    text, lexicon = candidate.text, brief.words.lexicon
    return WanOptimizations(
        has_motion=has_word_of(text, "motion", lexicon),
        has_cinematography=has_word_of(text, "camera", lexicon),
        has_temporal_consistency=has_word_of(text, "temporal", lexicon),
        has_quality=has_word_of(text, "quality", lexicon),
        token_count=candidate.tokens,
    )
