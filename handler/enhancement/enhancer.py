"""The worker's packs, encoders and cache together: an enhance request in, its answers out; and what `info` tells of it.

Knows no reply beyond the part that enhancement fills.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from handler.api.contracts import EnhanceRequest
from handler.api.replies import Enhanced, Variant
from handler.engine.protocol import ModelInfo
from handler.engine.sampling import Sampling
from handler.engine.stream import Timing, Usage
from handler.enhancement.brief import Brief, brief, by_messages
from handler.enhancement.encoder import Encoders
from handler.enhancement.pack import Loaded, Packs
from handler.enhancement.rewrite import Answer, Question, Rewriter, without_asking
from handler.model.template import Rendered


@dataclass(frozen=True, slots=True)
class Enhancer:
    """Everything an enhancement needs but the prompt's tokens."""

    packs: Packs
    encoders: Encoders
    rewriter: Rewriter
    model: ModelInfo

    def brief(self, request: EnhanceRequest, original_prompt: str) -> Brief:
        """What the request asks for; see `brief`."""
        return brief(request, self.packs, self.encoders, original_prompt)

    def without_asking(self, task: Brief, sampling: Sampling) -> tuple[Answer, ...]:
        """The answer where no model is needed; none where one is."""
        answer = without_asking(task, sampling)
        return () if answer is None else (answer,)

    async def answers(
        self, request: EnhanceRequest, task: Brief, rendered: Rendered, sampling: Sampling, deadline: float | None
    ) -> tuple[Answer, ...]:
        """The `n` variants, asked at the same time, in the order of their seeds.

        Raises:
            WorkerError: of the first variant that failed, where there is no falling back.
        """
        own = by_messages(request)
        first = Question(
            brief=task,
            rendered=rendered,
            sampling=sampling,
            seeded=request.seed is not None,
            variant=0,
            seed_step=request.n,
            thinking=request.enable_thinking,
            cache=request.cache or ("off" if own else "use"),
            model=(self.model.name, self.model.revision),
            deadline=deadline,
            deadline_ms=request.deadline_ms,
        )
        questions = [
            replace(first, variant=index, sampling=replace(sampling, seed=(sampling.seed + index) % 2**63))
            for index in range(request.n)
        ]
        fall_back = (request.fallback or ("error" if own else "original")) == "original"
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.rewriter.answer(one, fall_back=fall_back)) for one in questions]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return tuple(task.result() for task in tasks)

    def describe(self) -> dict[str, Any]:
        """The section of `info`."""
        return {
            "packs": [_described(loaded) for loaded in self.packs.loaded],
            "encoders": {name: encoder.measured_with for name, encoder in self.encoders.items()},
            "cache": self.rewriter.cache.describe(),
        }


def _described(loaded: Loaded) -> dict[str, Any]:
    pack = loaded.pack
    entries = {
        name: {"encoder": entry.encoder, "max_tokens": entry.budget.max_tokens, "quality": entry.quality}
        for name, entry in pack.entries.items()
    }
    targets = {name: dict(qualities) for name, qualities in pack.targets.items()}
    return {"id": pack.id, "version": pack.version, "sha256": loaded.sha256, "entries": entries, "targets": targets}


def best(answers: tuple[Answer, ...]) -> Answer:
    """The one that a reply leads with: the first that is the model's."""
    return next((answer for answer in answers if not answer.enhanced.degraded), answers[0])


def told(request: EnhanceRequest, task: Brief, answers: tuple[Answer, ...]) -> dict[str, Any]:
    """What a reply tells of an enhancement, its tail apart."""
    enhanced = best(answers).enhanced
    entry = None if task.found is None else task.found.entry
    variants = tuple(_variant(answer) for answer in answers) if request.n > 1 else None
    negative = request.negative_prompt
    if negative is None and entry is not None:
        negative = entry.negative_prompt
    return {
        **{name: getattr(enhanced, name) for name in Enhanced.model_fields},
        "success": enhanced.enhancement_source != "emergency_fallback",
        "negative_prompt": negative,
        "job_type": None if task.found is None else task.found.name,
        "quality": request.quality if entry is None or entry.quality is None else entry.quality,
        "pack": task.pack,
        "variants": variants,
    }


def _variant(answer: Answer) -> Variant:
    fields = {name: getattr(answer.enhanced, name) for name in Enhanced.model_fields}
    return Variant(**fields, seed=answer.spent.sampling.seed)


def used(answers: tuple[Answer, ...]) -> Usage:
    """The tokens of all variants."""
    usages = [answer.spent.usage for answer in answers]
    return Usage(
        sum(usage.prompt_tokens for usage in usages),
        sum(usage.cached_tokens for usage in usages),
        sum(usage.completion_tokens for usage in usages),
    )


def timed(answers: tuple[Answer, ...]) -> Timing:
    """The times of all variants, which ran beside each other: until the last one ended."""
    timings = [answer.spent.timing for answer in answers]
    firsts = [timing.ttft_s for timing in timings if timing.ttft_s is not None]
    return Timing(
        min(timing.queue_s for timing in timings),
        min(firsts) if firsts else None,
        max(timing.total_s for timing in timings),
    )
