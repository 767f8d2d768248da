"""Makes a usable prompt of a model's answer: cleans, repairs, fits and judges it. Pure."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import partial

from handler.api.enhance import (
    BudgetFacts,
    Check,
    Degraded,
    Enhanced,
    Enhancement,
    Repair,
    Score,
    SdxlOptimizations,
    Source,
    Trimmed,
    WanOptimizations,
)
from handler.engine.stream import FinishReason
from handler.enhancement import budget, checks
from handler.enhancement.brief import UNLIMITED, Brief
from handler.enhancement.budget import Fitted, Ranking
from handler.enhancement.checks import Subject
from handler.enhancement.clauses import SENTENCE_END, Clause, chain, join, overlaps, split
from handler.enhancement.pack import Fault
from handler.enhancement.spans import missing, regions, reversed_in, unbroken


@dataclass(frozen=True, slots=True)
class Draft:
    """A prompt that was made of an answer, before it is judged."""

    text: str
    trimmed: tuple[Trimmed, ...] = ()
    repaired: tuple[Repair, ...] = ()
    #: it ends where a clause does
    whole: bool = True
    #: the user's own text was over the budget
    over_budget: bool = False


def draft(brief: Brief, answer: str, finish_reason: FinishReason) -> Draft | Fault:
    """Make a prompt of an answer; a fault where there is none in it. Answers to the caller's own messages have none."""
    text, repaired, whole = answer, tuple[Repair, ...](), finish_reason == "stop"
    if brief.by_pack:
        text, fault = checks.clean(answer, brief.prompt, brief.words)
        if fault is not None:
            return fault
    if not whole and brief.fit:
        text, whole = _without_stump(brief, text)
    if brief.by_pack and brief.language is not None and checks.foreign(text, brief.prompt, brief.language):
        return "language"
    if brief.repair:
        text, repaired = _repaired(brief, text)
    if brief.mode == "append":
        made = _appended(brief, text)
    elif brief.fit:
        made = _drafted(budget.fit(text, brief.limit, _ranking(brief)))
    else:
        made = Draft(text)
    if brief.by_pack and not made.text:
        return "empty"
    return Draft(made.text, made.trimmed, repaired, whole, made.over_budget)


def over_budget(brief: Brief) -> Draft:
    """The user's own text, trimmed: no room is left for anything else. Empty where not one word fits."""
    fitted = budget.fit(brief.prompt, brief.limit, _ranking(brief))
    return Draft(fitted.text, fitted.trimmed, over_budget=True)


def composed(brief: Brief) -> Draft | None:
    """The user's prompt with the pack's clauses, as many as fit; None where the pack has none."""
    if brief.found is None or not brief.by_pack or not brief.found.entry.compose:
        return None
    made = _appended(brief, ", ".join(brief.found.entry.compose))
    return made if made.text else None


def judged(
    brief: Brief, draft: Draft, *, retries: int = 0, degraded: Degraded | None = None, unchanged: bool = False
) -> Enhanced:
    """The draft with its measures, checks and score. `unchanged`: it is the original prompt, given back."""
    source: Source = "worker_fallback" if brief.by_pack else "edge_function"
    tokens = None if brief.encoder is None else brief.encoder.count(draft.text)
    subject = _subject(brief, draft, tokens)
    found = checks.check(subject) if brief.is_checked else None
    score, quality_score = None, None
    if brief.found is not None and found is not None:
        quality_score, score = _scored(brief, subject, found)
    return Enhanced(
        enhanced_prompt=draft.text,
        enhancement_source="emergency_fallback" if unchanged else source,
        cache_hit=False,
        quality_score=quality_score,
        sdxl_optimizations=_sdxl(brief, draft.text, tokens),
        wan_optimizations=_wan(brief, draft.text, tokens),
        enhancement=None if found is None else _enhancement(brief, draft, tokens, score, found, retries),
        degraded=degraded,
        error=degraded.message if unchanged and degraded is not None else None,
    )


def _subject(brief: Brief, draft: Draft, tokens: int | None) -> Subject:
    return Subject(
        text=draft.text,
        prompt=brief.prompt,
        spans=brief.spans,
        rules=brief.rules,
        lists=brief.words,
        language=brief.language,
        tokens=tokens,
        min_tokens=brief.min_tokens,
        max_tokens=brief.max_tokens,
        whole=draft.whole,
    )


def _enhancement(
    brief: Brief, draft: Draft, tokens: int | None, score: Score | None, found: Mapping[str, Check], retries: int
) -> Enhancement:
    return Enhancement(
        pack=None if brief.found is None else brief.found.loaded.facts,
        budget=_budget(brief, draft, tokens),
        score=score,
        retries=retries,
        repairs=draft.repaired,
        failed_checks={name: check for name, check in found.items() if not check.passed},
    )


def _budget(brief: Brief, draft: Draft, tokens: int | None) -> BudgetFacts | None:
    if brief.encoder is None or brief.max_tokens is None or tokens is None:
        return None
    return BudgetFacts(
        encoder=brief.encoder.name,
        measured_with=brief.encoder.measured_with,
        tokens=tokens,
        max_tokens=brief.max_tokens,
        windows=brief.encoder.windows(tokens),
        input_over_budget=draft.over_budget,
        trimmed=draft.trimmed,
    )


def _sdxl(brief: Brief, text: str, tokens: int | None) -> SdxlOptimizations | None:
    if brief.rules.optimizations != "sdxl" or tokens is None:
        return None
    return checks.sdxl(text, tokens, brief.words.lexicon)


def _wan(brief: Brief, text: str, tokens: int | None) -> WanOptimizations | None:
    if brief.rules.optimizations != "wan" or tokens is None:
        return None
    return checks.wan(text, tokens, brief.words.lexicon)


def _scored(brief: Brief, subject: Subject, found: Mapping[str, Check]) -> tuple[float, Score]:
    value, parts = checks.score(subject, found)
    original, _ = checks.score(*_original(brief, subject))
    return value, Score(parts=parts, score_original=original, rules_version=brief.rules.version)


def _original(brief: Brief, subject: Subject) -> tuple[Subject, dict[str, Check]]:
    assert brief.encoder is not None
    original = replace(subject, text=brief.prompt, tokens=brief.encoder.count(brief.prompt), whole=True)
    return original, checks.check(original)


def _drafted(fitted: Fitted) -> Draft:
    return Draft(fitted.text, fitted.trimmed)


def _stems(brief: Brief, text: str) -> Set[str]:
    return checks.stems(text, brief.words.stopwords).keys()


def _ranking(brief: Brief) -> Ranking:
    return Ranking(
        regions=partial(regions, spans=brief.spans),
        unbroken=partial(unbroken, spans=brief.spans),
        kind=partial(checks.kind_of, lexicon=brief.words.lexicon, order=brief.rules.drop_order),
        order=brief.rules.drop_order,
        own=frozenset(_stems(brief, brief.prompt)),
        stems=partial(_stems, brief),
    )


def _without_stump(brief: Brief, text: str) -> tuple[str, bool]:
    """The text without the clause that the model did not finish, and whether it ends at a clause now."""
    if text.rstrip().endswith(tuple(SENTENCE_END)):
        return text, True
    *finished, _ = split(text, unbroken(text, brief.spans)) or [None]
    return (join(clause for clause in finished if clause is not None), True) if finished else (text, False)


def _appended(brief: Brief, text: str) -> Draft:
    """The user's prompt, byte for byte where it fits, followed by what a text adds to it."""
    limit = brief.limit if brief.fit else UNLIMITED
    if not limit.fits(brief.prompt):
        return over_budget(brief)
    return _drafted(budget.append(brief.prompt, _without(brief, text, brief.prompt), limit, _ranking(brief)))


def _without(brief: Brief, text: str, known: str) -> str:
    """A text without the clauses that only repeat what is known."""
    known_stems = checks.stems(known).keys()
    needed = missing(known, brief.spans)

    def says_more(clause: Clause) -> bool:
        own = checks.stems(clause.text).keys()
        brings = any(span.pattern.search(clause.text) for span in needed)
        return brings or not own <= known_stems or (not own and clause.body not in known)

    return join(one for one in split(text, unbroken(text, brief.spans)) if says_more(one))


def _repaired(brief: Brief, text: str) -> tuple[str, tuple[Repair, ...]]:
    """Remove clauses that contradict a negation of the user's; insert the user's own clauses for words that are
    missing, or that went with a removed clause.
    """
    repairs: list[Repair] = []
    places = reversed_in(text, brief.spans, brief.prompt)
    clauses = list(split(text, unbroken(text, brief.spans)))
    for clause in [one for one in clauses if overlaps((one.start, one.end), places)]:
        clauses.remove(clause)
        repairs.append(Repair(kind="removed", text=clause.body))
    text = join(clauses) if repairs else text
    present = text if brief.mode == "rewrite" else f"{brief.prompt}\n{text}"
    own = split(brief.prompt, unbroken(brief.prompt, brief.spans))
    gone = _stems(brief, " ".join(repair.text for repair in repairs)) - _stems(brief, present)
    inserts = {(one.start, join([one]).strip()): None for one in own if gone & _stems(brief, one.text)}
    for span in missing(present, brief.spans):
        found = span.pattern.search(brief.prompt)
        homes = [] if found is None else [one for one in own if overlaps(found.span(), [(one.start, one.end)])]
        inserts[(homes[0].start, join(homes).strip()) if homes else (len(brief.prompt), span.text)] = None
    if not inserts:
        return text, tuple(repairs)
    inserted = [insert for _, insert in sorted(inserts)]
    repairs += [Repair(kind="inserted", text=insert) for insert in inserted]
    known = " ".join(inserted)
    return chain([*inserted, _without(brief, text, known)]), tuple(repairs)
