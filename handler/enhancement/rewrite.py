"""The flow of one enhancement: ask the model, ask once more where the rules say so, fall back where that fails.

Knows the engine's protocol and no request.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ParamSpec, TypeVar

from handler import log
from handler.api.enhance import CacheUse, Degraded, Enhanced
from handler.engine.fold import whole
from handler.engine.protocol import Engine
from handler.engine.sampling import Sampling
from handler.engine.spent import NO_TIME, NO_TOKENS, Spent
from handler.engine.thinking import Thinking
from handler.enhancement.brief import Brief
from handler.enhancement.cache import Cache, key_of
from handler.enhancement.draft import Draft, composed, draft, over_budget
from handler.enhancement.judge import judged
from handler.enhancement.pack import Fault
from handler.errors import (
    BadAnswer,
    ContextLengthExceeded,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    Unsupported,
    WorkerError,
)
from handler.model.template import Rendered
from handler.pool import Pool

P = ParamSpec("P")
T = TypeVar("T")

#: Threads that work on texts. With more of them the event loop waits longer for its turn: they run one at a time.
THREADS = 2
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
        if isinstance(got, Unusable):
            failed = BadAnswer(f"the model's answer is no prompt: {_FAULTS[got.fault]}")
            return _Failed(failed, got.fault, got.spent)
        return _from_cache(got) if hit else got

    async def instead(self, brief: Brief, spent: Spent, degraded: Degraded, deadline: float | None) -> Rewritten:
        """The result without the model; raises as `work` does."""
        return await self.work(time_for_texts(deadline), fallback, brief, spent, degraded)

    async def _ask(self, question: Question) -> Rewritten | Unusable:
        """Ask the model, and once more where the rules say so."""
        brief = question.brief
        spent = Spent(question.sampling)
        while True:
            text, spent = await self._complete(question, spent)
            until = time_for_texts(question.deadline)
            made = await self.work(until, draft, brief, text, spent.finish_reason or "stop")
            if isinstance(made, Draft):
                result = await self.work(until, judged, brief, made, retries=spent.tries - 1)
                return Rewritten(result, spent)
            ended = spent.finish_reason in ("stop", "length")
            # A greedy model would give the same answer again.
            if spent.tries == 2 or made not in brief.rules.retry_on or not ended or not spent.sampling.temperature:
                return Unusable(made, spent)
            spent = replace(spent, sampling=spent.sampling.with_seed(spent.sampling.seed + question.seed_step))

    async def _complete(self, question: Question, spent: Spent) -> tuple[str, Spent]:
        """One completion, and what was spent with it."""
        rendered = question.rendered
        stream = self.engine.stream(rendered.prompt, spent.sampling, deadline=question.deadline)
        completion = await whole(stream, Thinking.of(rendered.text) if question.thinking else None)
        return completion.text, spent.plus(completion, rendered.sha256)


def without_asking(brief: Brief, sampling: Sampling) -> Rewritten | None:
    """A prompt that is over the budget by itself, trimmed; None for any other, for which the model is asked.

    The caller's own messages are always run.
    """
    if not brief.by_pack or not brief.fit or brief.limit.fits(brief.prompt):
        return None
    made = over_budget(brief)
    return Rewritten(judged(brief, made), Spent(sampling)) if made.text else None


def fallback(brief: Brief, spent: Spent, degraded: Degraded) -> Rewritten:
    """The result without the model: the pack's composition, else the prompt byte for byte."""
    made = composed(brief)
    retries = max(0, spent.tries - 1)
    if made is None:
        return Rewritten(judged(brief, Draft(brief.sent), retries=retries, degraded=degraded, unchanged=True), spent)
    return Rewritten(judged(brief, made, retries=retries, degraded=degraded), spent)


_FAULTS: Mapping[Fault, str] = {
    "empty": "it holds no word",
    "refusal": "it is a refusal",
    "meta": "it announces a prompt that does not follow",
    "language": "it is in another language",
}


def _may_be_cached(answer: Rewritten | Unusable) -> bool:
    """Whether the model ended by itself, and every hard check passed."""
    if isinstance(answer, Unusable) or answer.spent.finish_reason not in ("stop", "length"):
        return False
    enhancement = answer.enhanced.enhancement
    return enhancement is None or not any(check.hard for check in enhancement.failed_checks.values())


def _from_cache(answer: Rewritten) -> Rewritten:
    """The same result, which took no tokens and no time."""
    spent = replace(answer.spent, usage=NO_TOKENS, timing=NO_TIME)
    return Rewritten(answer.enhanced.model_copy(update={"cache_hit": True}), spent)
