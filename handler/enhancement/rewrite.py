"""The flow of one enhancement: ask the model, ask once more where that is worth it, and stand in where it fails.

Knows the engine's protocol and no request.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from handler import log
from handler.api.contracts import CacheUse
from handler.api.replies import Enhanced, Failure
from handler.engine.protocol import Engine
from handler.engine.sampling import Sampling
from handler.engine.stream import FinishReason, Timing, Usage, collect
from handler.engine.thinking import Thinking
from handler.enhancement.brief import Brief
from handler.enhancement.cache import Cache, key_of
from handler.enhancement.judge import Draft, composed, draft, judged, over_budget
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

NO_TOKENS = Usage(0, 0, 0)
NO_TIME = Timing(0.0, None, 0.0)


@dataclass(frozen=True, slots=True)
class Spent:
    """What an answer took, all tries together; of the last one where it cannot be added up."""

    sampling: Sampling
    finish_reason: FinishReason | None = None
    usage: Usage = NO_TOKENS
    timing: Timing = NO_TIME
    reasoning: str | None = None
    tries: int = 0
    #: of the token ids that the model read; None where it read none
    prompt_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A result, and what it took."""

    enhanced: Enhanced
    spent: Spent


@dataclass(frozen=True, slots=True)
class Bad:
    """The model answered, and nothing of it can be used."""

    fault: Fault
    spent: Spent


@dataclass(frozen=True, slots=True)
class Question:
    """A brief as the engine is asked it."""

    brief: Brief
    rendered: Rendered
    sampling: Sampling
    #: the caller chose the seed; otherwise the draw that is kept first is as good as any
    seeded: bool
    #: which of several variants this is
    variant: int
    #: added to the seed for the second try, so that variants do not share draws
    seed_step: int
    thinking: bool
    cache: CacheUse
    #: name and revision of the model
    model: tuple[str, str | None]
    #: on the clock of `time.monotonic`
    deadline: float | None
    #: the same as it was asked for: questions with different ones do not wait for each other's answer
    deadline_ms: int | None

    @property
    def key(self) -> str:
        """The hash of everything that can change the answer."""
        sampling = replace(self.sampling, seed=0)
        drawn = [self.sampling.seed] if self.seeded else ["any", self.variant]
        return key_of(
            {
                **self.brief.identity,
                "model": self.model,
                "rendered": self.rendered.text,
                "token_ids": self.rendered.sha256,
                "thinking": self.thinking,
                "sampling": [getattr(sampling, name) for name in sampling.__dataclass_fields__],
                "seed": [*drawn, self.seed_step],
            }
        )


@dataclass(frozen=True, slots=True)
class Rewriter:
    """Answers questions over one engine."""

    engine: Engine
    cache: Cache[Answer | Bad] = field(default_factory=Cache)

    async def answer(self, question: Question, *, fall_back: bool) -> Answer:
        """The model's answer, fitted and judged; where that fails and `fall_back` is set, what stands in for it.

        Raises:
            WorkerError: what failed; with `fall_back` only where the request itself is at fault.
        """
        spent = Spent(question.sampling)
        failure: WorkerError
        try:
            got, hit = await self.cache.get(
                question.key,
                lambda: self._ask(question),
                use=question.cache,
                clean=_is_clean,
                flight=question.deadline_ms,
            )
            if isinstance(got, Answer):
                return _from_cache(got) if hit else got
            spent = got.spent
            failure = BadAnswer(f"the model's answer is no prompt: {_TOLD[got.fault]}")
            reason: str = got.fault
        except (InvalidRequest, ContextLengthExceeded, Unsupported):
            raise
        except WorkerError as error:
            failure, reason = error, error.code
        except Exception as error:
            log.defect(error)
            failure, reason = Internal(), Internal.code
        if not fall_back:
            raise failure
        return await asyncio.to_thread(stand_in, question.brief, spent, failure, reason)

    async def _ask(self, question: Question) -> Answer | Bad:
        """Ask, and once more where the rules say that it is worth it."""
        brief = question.brief
        spent = Spent(question.sampling)
        while True:
            text, spent = await self._say(question, spent)
            made = await asyncio.to_thread(draft, brief, text, spent.finish_reason or "stop")
            if isinstance(made, Draft):
                return Answer(await asyncio.to_thread(judged, brief, made, retries=spent.tries - 1), spent)
            ended = spent.finish_reason in ("stop", "length")
            # A greedy model would say the same again.
            if spent.tries == 2 or made not in brief.rules.retry_on or not ended or not spent.sampling.temperature:
                return Bad(made, spent)
            seed = (spent.sampling.seed + question.seed_step) % 2**63
            spent = replace(spent, sampling=replace(spent.sampling, seed=seed))

    async def _say(self, question: Question, spent: Spent) -> tuple[str, Spent]:
        """One answer of the model's, and what was spent with it."""
        stream = self.engine.stream(question.rendered.prompt, spent.sampling, deadline=question.deadline)
        try:
            said = await collect(stream)
        finally:
            stream.cancel()
        finish, before = said.finish, spent
        if finish.reason == "deadline" and not finish.usage.completion_tokens:
            raise DeadlineExceeded("the deadline passed before the first token")
        reasoning, text = None, said.text
        if question.thinking:
            thinking = Thinking(question.rendered.text.rstrip().endswith(Thinking.OPEN))
            pairs = [thinking.push(said.text), thinking.flush()]
            reasoning, text = ("".join(part) for part in zip(*pairs, strict=True))
        usage = Usage(
            before.usage.prompt_tokens + finish.usage.prompt_tokens,
            before.usage.cached_tokens + finish.usage.cached_tokens,
            before.usage.completion_tokens + finish.usage.completion_tokens,
        )
        first = before.timing if before.tries else finish.timing
        timing = replace(first, total_s=before.timing.total_s + finish.timing.total_s)
        sha256 = question.rendered.sha256
        return text, Spent(before.sampling, finish.reason, usage, timing, reasoning, before.tries + 1, sha256)


def without_asking(brief: Brief, sampling: Sampling) -> Answer | None:
    """The answer to a prompt that is over its budget by itself: trimmed, and no model needed; None for any other."""
    if brief.found is None or not brief.fit or brief.limit.fits(brief.prompt):
        return None
    made = over_budget(brief)
    return Answer(judged(brief, made), Spent(sampling)) if made.text else None


def stand_in(brief: Brief, spent: Spent, error: WorkerError, reason: str) -> Answer:
    """What is answered where the model gave nothing: the pack's composition, else the prompt byte for byte."""
    failure = Failure(code=error.code, message=error.message)
    made = composed(brief)
    enhanced = judged(
        brief,
        made or Draft(brief.prompt),
        retries=max(0, spent.tries - 1),
        reason=reason,
        failure=failure,
        unchanged=made is None,
    )
    return Answer(enhanced, spent)


_TOLD: Mapping[Fault, str] = {
    "empty": "it holds no word",
    "refusal": "it is a refusal",
    "meta": "it speaks about the prompt",
    "language": "it is in another language",
}


def _is_clean(answer: Answer | Bad) -> bool:
    """Worth keeping: the model ended by itself, and every hard check passed."""
    if isinstance(answer, Bad) or answer.spent.finish_reason not in ("stop", "length"):
        return False
    checks = answer.enhanced.checks or {}
    return all(check.passed for check in checks.values() if check.hard)


def _from_cache(answer: Answer) -> Answer:
    """The same result; this time it took nothing."""
    spent = replace(answer.spent, usage=NO_TOKENS, timing=NO_TIME)
    return Answer(answer.enhanced.model_copy(update={"cache_hit": True}), spent)
