"""The flow of one enhancement: ask the model, ask once more where the rules say so, fall back where that fails.

Knows the engine's protocol and no request.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ParamSpec, TypeVar

from handler import log
from handler.api.enhance import CacheUse, Degraded, Enhanced, Source
from handler.engine.fold import whole
from handler.engine.protocol import Engine
from handler.engine.sampling import Sampling
from handler.engine.spent import NO_TIME, NO_TOKENS, Spent
from handler.enhancement.brief import Brief
from handler.enhancement.cache import Cache, key_of
from handler.enhancement.draft import Draft, as_it_is, composed, draft, without_room
from handler.enhancement.judge import judged
from handler.enhancement.likelihood import Likelihood
from handler.enhancement.opinion import Opinion, contexts, fault, judged_by
from handler.enhancement.pack import Fault
from handler.enhancement.syntax import encoded
from handler.errors import (
    BadAnswer,
    ContextLengthExceeded,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    Unsupported,
    WorkerError,
)
from handler.model.template import Rendered, Template
from handler.pool import Pool

P = ParamSpec("P")
T = TypeVar("T")

#: Threads that work on texts. With more of them the event loop waits longer for its turn: they run one at a time.
THREADS = 2
#: A text in other words keeps fewer of the prompt's, and may be good: its score is low below this share of the prompt's
LEAST_OF_ORIGINAL = 1 / 3
#: Seconds after its deadline in which a request may still make a reply of what the model wrote in time
AFTER_DEADLINE_S = 0.2


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A result, and the tokens and time that it took."""

    enhanced: Enhanced
    spent: Spent


@dataclass(frozen=True, slots=True)
class Unusable:
    """The model answered, and its answer is no prompt."""

    fault: Fault
    spent: Spent


@dataclass(frozen=True, slots=True)
class _Failed:
    """There is no usable answer: the error, the code that `degraded` has, and the tokens and time that it took."""

    error: WorkerError
    code: str
    spent: Spent


@dataclass(frozen=True, slots=True)
class Question:
    """A brief with everything that the engine is asked with."""

    brief: Brief
    rendered: Rendered
    sampling: Sampling
    #: True where the caller sent the seed; else the first answer that is cached serves every equal question
    seeded: bool
    #: the number of the variant, from 0
    variant: int
    #: added to the seed for the second try; the number of variants, so that no two tries have the same seed
    seed_step: int
    thinking: bool
    cache: CacheUse
    #: name and revision of the model
    model: tuple[str, str | None]
    #: on the clock of `time.monotonic`
    deadline: float | None
    #: the caller's `cache_salt`; only questions with the same one share answers
    salt: str | None

    @property
    def key(self) -> str:
        """The hash of everything that can change the answer."""
        drawn = [self.sampling.seed] if self.seeded else ["any", self.variant]
        return key_of(
            {
                **self.brief.identity,
                "model": list(self.model),
                "rendered": self.rendered.text,
                "token_ids": self.rendered.sha256,
                "thinking": self.thinking,
                "sampling": self.sampling.model_dump(mode="json", exclude={"seed"}),
                "seed": [*drawn, self.seed_step],
            }
        )


class Late(DeadlineExceeded):
    """Work on texts did not end in time, so that there is no time for a fallback either."""


def time_for_texts(deadline: float | None) -> float | None:
    """When work on texts that begins now has to end: a little after the deadline, and where that is over, after now."""
    return None if deadline is None else max(deadline, time.monotonic()) + AFTER_DEADLINE_S


@dataclass(frozen=True, slots=True)
class Rewriter:
    """Answers questions over one engine."""

    engine: Engine
    #: of the model, which also judges
    template: Template
    cache: Cache[Rewritten | Unusable] = field(default_factory=Cache)
    #: for all work on texts, which may be a caller's own, so that no other operation waits for it
    pool: Pool = field(default_factory=lambda: Pool("enhancement", THREADS))

    async def work(self, until: float | None, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of work on texts, in a thread.

        Raises:
            Late: it did not end in time; see `time_for_texts`.
        """
        try:
            return await self.pool.run_until(until, work, *args, **kwargs)
        except DeadlineExceeded as error:
            raise Late(error.message) from None

    async def answer(self, question: Question, *, fall_back: bool) -> Rewritten:
        """The model's answer, fitted and judged; where that fails and `fall_back` is set, a fallback.

        Raises:
            WorkerError: the failure; with `fall_back` only where the request itself is at fault.
        """
        got = await self._try(question)
        if isinstance(got, Rewritten):
            return got
        if not fall_back:
            raise got.error
        degraded = Degraded(code=got.code, message=got.error.message)
        return await self.instead(question.brief, got.spent, degraded, question.deadline)

    async def _try(self, question: Question) -> "Rewritten | _Failed":
        """Ask through the cache; raises only where the request itself is at fault."""
        nothing = Spent(question.sampling)
        try:
            got, hit = await self.cache.get(
                question.key,
                lambda: self._ask(question),
                use=question.cache,
                keep=_may_be_cached,
                owner=question.salt,
                # A deadline cuts the answer of the one who sent it, and of no other.
                alone=question.deadline is not None,
            )
        except (InvalidRequest, ContextLengthExceeded, Unsupported, Late):
            raise
        except WorkerError as error:
            return _Failed(error, error.code, nothing)
        except Exception as error:
            log.defect(error)
            return _Failed(Internal(), Internal.code, nothing)
        if hit:
            got = _paid(got)
        if isinstance(got, Unusable):
            degraded = no_prompt("the model's answer", got.fault)
            return _Failed(BadAnswer(degraded.message), degraded.code, got.spent)
        return got

    async def instead(self, brief: Brief, spent: Spent, degraded: Degraded, deadline: float | None) -> Rewritten:
        """The result without the model; raises as `work` does."""
        return await self.work(time_for_texts(deadline), fallback, brief, spent, degraded)

    async def _ask(self, question: Question) -> Rewritten | Unusable:
        """Ask the model, and once more where its answer is no prompt."""
        spent = Spent(question.sampling)
        while True:
            text, spent = await self._complete(question, spent)
            made, spent = await self._result(question, text, spent)
            if isinstance(made, Enhanced):
                return Rewritten(made, spent)
            ended = spent.finish_reason in ("stop", "length")
            # A greedy model would give the same answer again.
            if spent.tries == 2 or not ended or not spent.sampling.temperature:
                return Unusable(made, spent)
            spent = replace(spent, sampling=spent.sampling.with_seed(spent.sampling.seed + question.seed_step))

    async def _result(self, question: Question, text: str, spent: Spent) -> tuple[Enhanced | Fault, Spent]:
        """The result that an answer makes, or its fault, and what was spent with the model's own judging of it."""
        brief, by, judge = question.brief, judged_by(question.brief), contexts(question.brief)
        finish_reason = spent.finish_reason or "stop"
        until = time_for_texts(question.deadline)
        made = await self.work(until, draft, brief, text, finish_reason, by=by)
        opinion = None
        if isinstance(made, Draft) and made.answer is not None and judge is not None:
            salt = question.rendered.prompt.salt
            likelihood = Likelihood(self.engine, self.template, self.pool, judge, salt, question.deadline)
            # Both as the text encoder reads them, without the syntax of a UI.
            opinion = await likelihood.opinion(brief.read_prompt, encoded(made.answer))
            spent = spent.scored(opinion.usage, opinion.seconds)
            if (found := fault(opinion, judge)) is not None:
                return found, spent
            until = time_for_texts(question.deadline)
            if opinion.error is not None and by == "model":
                made = await self.work(until, draft, brief, text, finish_reason)
        if not isinstance(made, Draft):
            return made, spent
        return await self.work(until, finished, brief, made, opinion, retries=spent.tries - 1), spent

    async def _complete(self, question: Question, spent: Spent) -> tuple[str, Spent]:
        """One completion, and what was spent with it."""
        rendered = question.rendered
        stream = self.engine.stream(rendered.prompt, spent.sampling, deadline=question.deadline)
        completion = await whole(stream)
        return completion.text, spent.plus(completion, rendered.sha256)


def finished(brief: Brief, made: Draft, opinion: Opinion | None, *, retries: int) -> Enhanced | Fault:
    """The result that a draft makes, or its fault."""
    result = judged(brief, made, retries=retries, opinion=opinion)
    return "low_score" if brief.by_pack and not brief.translated and _scores_low(result) else result


def _scores_low(result: Enhanced) -> bool:
    """Whether a result is no better than the prompt was; in other words than the prompt's, whether it is far worse.

    A prompt to which nothing is missing cannot be bettered.
    """
    score = None if result.enhancement is None else result.enhancement.score
    if score is None or result.quality_score is None:
        return False
    value, original = result.quality_score, score.score_original
    in_other_words = score.parts.get("words_kept", 1) < 1
    least = LEAST_OF_ORIGINAL * original if in_other_words else original
    return value < least or value == original < 1


def candidate(brief: Brief, text: str) -> Enhanced:
    """A text that the request brought, as the model's answer to it would be judged; one that is no prompt stays."""
    made = draft(brief, text, "stop")
    if isinstance(made, Draft):
        return judged(brief, made, source="candidate")
    return judged(brief, as_it_is(brief, text), source="candidate", degraded=no_prompt("the candidate", made))


def without_asking(brief: Brief, sampling: Sampling) -> Rewritten | None:
    """A prompt that leaves no room in the budget, trimmed where it is over it; None for any other, which is asked for.

    The caller's own messages are always run.
    """
    made = without_room(brief) if brief.by_pack else None
    return None if made is None else Rewritten(judged(brief, made), Spent(sampling))


def fallback(brief: Brief, spent: Spent, degraded: Degraded) -> Rewritten:
    """The result without the model: the pack's composition, else the prompt byte for byte."""
    retries, made = max(0, spent.tries - 1), composed(brief)
    source: Source | None = "emergency_fallback" if made is None else None
    result = judged(brief, made or Draft(brief.sent), source=source, retries=retries, degraded=degraded)
    return Rewritten(result, spent)


def no_prompt(subject: str, fault: Fault) -> Degraded:
    """Says that a text is no prompt, and why."""
    return Degraded(code=fault, message=f"{subject} is no prompt: {_FAULTS[fault]}")


_FAULTS: Mapping[Fault, str] = {
    "empty": "it holds no word",
    "refusal": "it is a refusal",
    "question": "it speaks to its reader: a question, an offer or a remark",
    "echo": "it repeats what the model was asked with",
    "loop": "it repeats itself",
    "unchanged": "it adds nothing to the prompt",
    "off_subject": "it is about another subject",
    "language": "it is in another language",
    "low_score": "it scores no better than the prompt",
}


def _may_be_cached(answer: Rewritten | Unusable) -> bool:
    """Whether the model ended by itself and could judge where it had to, and every hard check passed."""
    if isinstance(answer, Unusable) or answer.spent.finish_reason not in ("stop", "length"):
        return False
    enhancement = answer.enhanced.enhancement
    if enhancement is None:
        return True
    unjudged = enhancement.judge is not None and enhancement.judge.error is not None
    return not unjudged and not any(check.hard for check in enhancement.failed_checks.values())


def _paid(answer: Rewritten | Unusable) -> Rewritten | Unusable:
    """The same answer, for whose tokens and time another request has paid."""
    spent = replace(answer.spent, usage=NO_TOKENS, timing=NO_TIME)
    if isinstance(answer, Unusable):
        return replace(answer, spent=spent)
    return Rewritten(answer.enhanced.model_copy(update={"cache_hit": True}), spent)
