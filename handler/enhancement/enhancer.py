"""Everything that enhance needs beside a prompt's tokens, as one value; the section of `info` lists it."""

import asyncio
from dataclasses import dataclass, replace

from handler.api.enhance import Enhanced, EnhanceRequest
from handler.api.info import CacheSection, EnhancementSection, EntrySection, PackSection
from handler.engine.protocol import ModelInfo
from handler.engine.sampling import Sampling
from handler.engine.spent import Spent
from handler.engine.stream import Timing, Usage
from handler.enhancement.brief import Brief
from handler.enhancement.encoder import Encoders
from handler.enhancement.packs import Loaded, Packs
from handler.enhancement.rewrite import Question, Rewriter, Rewritten, candidate, time_for_texts, without_asking
from handler.model.template import Rendered

#: the engine's queue has room for so many requests of every job that is taken, and none is refused for its neighbours
VARIANTS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Enhancer:
    """The worker's packs, encoders and cache, with the engine that is asked."""

    packs: Packs
    encoders: Encoders
    rewriter: Rewriter
    model: ModelInfo

    async def brief(self, request: EnhanceRequest, deadline: float | None) -> Brief:
        """The request as a brief; raises as `Brief.of` and `Rewriter.work` do."""
        return await self.rewriter.work(time_for_texts(deadline), Brief.of, request, self.packs, self.encoders)

    async def without_asking(self, brief: Brief, sampling: Sampling, deadline: float | None) -> Rewritten | None:
        """See `rewrite.without_asking`; raises as `Rewriter.work` does."""
        return await self.rewriter.work(time_for_texts(deadline), without_asking, brief, sampling)

    async def candidate(self, brief: Brief, text: str, deadline: float | None) -> Enhanced:
        """See `rewrite.candidate`; raises as `Rewriter.work` does."""
        return await self.rewriter.work(time_for_texts(deadline), candidate, brief, text)

    async def answers(
        self, request: EnhanceRequest, brief: Brief, rendered: Rendered, sampling: Sampling, deadline: float | None
    ) -> tuple[Rewritten, ...]:
        """The `n` variants in the order of their seeds, at most `VARIANTS_AT_ONCE` of them at a time.

        One alone at temperature 0, at which no two of them could differ.

        Args:
            deadline: on the clock of `time.monotonic`.

        Raises:
            WorkerError: of the first variant that failed, where the request does not fall back.
        """
        first = self._question(request, brief, rendered, sampling, deadline)
        questions = [
            replace(first, variant=index, sampling=sampling.with_seed(sampling.seed + index))
            for index in range(request.n if sampling.temperature else 1)
        ]
        places = asyncio.Semaphore(VARIANTS_AT_ONCE)

        async def answer(question: Question) -> Rewritten:
            async with places:
                return await self.rewriter.answer(question, fall_back=request.falls_back)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(answer(one)) for one in questions]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return tuple(task.result() for task in tasks)

    def _question(
        self, request: EnhanceRequest, brief: Brief, rendered: Rendered, sampling: Sampling, deadline: float | None
    ) -> Question:
        return Question(
            brief=brief,
            rendered=rendered,
            sampling=sampling,
            seeded=request.seed is not None,
            variant=0,
            seed_step=request.n,
            thinking=bool(request.enable_thinking),
            cache=request.cache_use(sampling.temperature),
            model=(self.model.name, self.model.revision),
            deadline=deadline,
            salt=request.cache_salt,
        )

    def describe(self) -> EnhancementSection:
        """The section of `info`."""
        cache = self.rewriter.cache
        return EnhancementSection(
            enhancement_system="packs",
            supported_job_types=tuple(name for loaded in self.packs.loaded for name in loaded.pack.entries),
            model_status="loaded",
            endpoints=("enhance",),
            packs=tuple(_described(loaded) for loaded in self.packs.loaded),
            encoders={name: encoder.measured_with for name, encoder in self.encoders.items()},
            cache_size=cache.size,
            cache=CacheSection(limit=cache.limit, hits=cache.hits, misses=cache.misses, hit_rate=cache.hit_rate),
        )


def _described(loaded: Loaded) -> PackSection:
    pack = loaded.pack
    return PackSection(
        id=pack.id,
        version=pack.version,
        sha256=loaded.sha256,
        entries={
            name: EntrySection(encoder=entry.encoder, max_tokens=entry.budget.max_tokens, quality=entry.quality)
            for name, entry in pack.entries.items()
        },
        targets={target: {str(key): name for key, name in found.items()} for target, found in pack.targets.items()},
    )


def best(answers: tuple[Rewritten, ...]) -> Rewritten:
    """The variant that a reply begins with: the first one that the model wrote."""
    return next((answer for answer in answers if answer.enhanced.degraded is None), answers[0])


def spent_on_all(answers: tuple[Rewritten, ...]) -> Spent:
    """The tokens of all variants together, and the time from the first one's start to the last one's end."""
    return replace(
        best(answers).spent,
        usage=Usage.of_all(answer.spent.usage for answer in answers),
        timing=Timing.of_all(answer.spent.timing for answer in answers),
    )
