"""Many requests at once say, token for token, what each would have said alone."""

import asyncio
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from handler.inference.engine import Completion, Finish, Prompt, Sampling, collect
from handler.inference.loop import BatchingEngine
from tests import models

Ids = tuple[int, ...]
MAX_TOKENS = 12
#: the shortest, the longest, and all around pages of 16 and chunks of 48
EDGES = (1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 47, 48, 49, 95, 96, 97, 600)


@cache
def prompts() -> list[Ids]:
    """64 prompts of 1 to 600 tokens."""
    dice = random.Random(3)
    sizes = (*EDGES, *(dice.randint(1, 600) for _ in range(64 - len(EDGES))))
    return [tuple(dice.choices(range(models.VOCAB), k=size)) for size in sizes]


@cache
def relatives() -> list[Ids]:
    """64 prompts that begin alike: one of three beginnings, cut at any length, and an end of their own."""
    dice = random.Random(4)
    beginnings = [dice.choices(range(models.VOCAB), k=250) for _ in range(3)]
    cut = [dice.choice(beginnings)[: dice.choice((16, 100, 200, 250))] for _ in range(64)]
    return [(*begin, *dice.choices(range(models.VOCAB), k=dice.choice((0, 1, 7, 40)))) for begin in cut]


def orders(prompts: list[Ids]) -> list[list[Ids]]:
    """As they are, the longest first, and shuffled."""
    shuffled = random.Random(5).sample(prompts, len(prompts))
    return [prompts, sorted(prompts, key=len, reverse=True), shuffled]


def answers(engine: BatchingEngine, requests: Sequence[tuple[Ids, Sampling]]) -> list[Completion]:
    """All requests sent at once; answers in their order."""

    async def together() -> list[Completion]:
        streams = [engine.stream(Prompt(ids), sampling) for ids, sampling in requests]
        return await asyncio.gather(*map(collect, streams))

    return asyncio.run(together())


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "chunks of 48": {"prefill_chunk": 48, "rows": 20},
    "pages of 4": {"page_size": 4, "pages": 9000, "prefill_chunk": 300},
    # 160 pages hold the longest request and little else
    "tiny cache": {"page_size": 4, "pages": 160, "rows": 24, "prefill_chunk": 200},
}
every_setting = pytest.mark.parametrize("setting", SETTINGS)
every_model = pytest.mark.parametrize("name", models.NAMES)


@every_setting
@every_model
def test_64_prompts_together_say_what_generate_says_of_each(name: str, setting: str) -> None:
    for number, order in enumerate(orders(prompts())):
        with models.serving(name, overlap=number % 2 == 0, **SETTINGS[setting]) as engine:
            completions = answers(engine, [(ids, models.sampling(MAX_TOKENS)) for ids in order])
            details = engine.status().details
        for ids, completion in zip(order, completions, strict=True):
            assert completion.token_ids == models.greedy(name, ids, MAX_TOKENS)
            assert completion.finish.reason == "length"
        assert (details["preemptions"] != 0) == (setting == "tiny cache")
        assert details["pages_used"] == 0


@every_setting
@every_model
def test_prompts_that_begin_alike_share_pages_and_still_say_the_same(name: str, setting: str) -> None:
    for number, order in enumerate(orders(relatives())):
        with models.serving(name, overlap=number % 2 == 0, **SETTINGS[setting]) as engine:
            completions = answers(engine, [(ids, models.sampling(MAX_TOKENS)) for ids in order])
            again = answers(engine, [(ids, models.sampling(MAX_TOKENS)) for ids in order[:8]])
        for ids, completion in zip(order + order[:8], completions + again, strict=True):
            assert completion.token_ids == models.greedy(name, ids, MAX_TOKENS)
        assert sum(completion.finish.usage.cached_tokens for completion in completions) > 1000
        assert all(
            completion.finish.usage.cached_tokens < len(ids) for ids, completion in zip(order, completions, strict=True)
        )


@every_setting
@every_model
def test_requests_that_stop_or_are_cancelled_midway_leave_the_others_as_they_are(name: str, setting: str) -> None:
    async def stopped(engine: BatchingEngine, ids: Ids, said: Ids) -> None:
        stop = f" {said[5]} {said[6]}"
        completion = await collect(engine.stream(Prompt(ids), models.sampling(MAX_TOKENS, stop=(stop,))))
        text = "".join(f" {token}" for token in said)
        assert completion.text == text[: text.index(stop)]
        assert completion.token_ids == said[: len(completion.token_ids)]
        assert completion.finish.reason == "stop"

    async def cancelled(engine: BatchingEngine, ids: Ids, said: Ids) -> None:
        stream = engine.stream(Prompt(ids), models.sampling(MAX_TOKENS))
        after, got = len(ids) % 9, list[int]()
        if not after:
            stream.cancel()
        async for event in stream:
            if isinstance(event, Finish):
                assert event.reason in ("cancelled", "length")
                assert event.usage.completion_tokens == len(got)
            else:
                got += event.token_ids
                if len(got) >= after:
                    stream.cancel()
        assert tuple(got) == said[: len(got)]

    async def whole(engine: BatchingEngine, ids: Ids, said: Ids) -> None:
        assert (await collect(engine.stream(Prompt(ids), models.sampling(MAX_TOKENS)))).token_ids == said

    async def together(engine: BatchingEngine, order: list[Ids]) -> None:
        fates = random.Random(6).sample([stopped] * 8 + [cancelled] * 8 + [whole] * 48, 64)
        said = [models.greedy(name, ids, MAX_TOKENS) for ids in order]
        await asyncio.gather(*(fate(engine, ids, full) for fate, ids, full in zip(fates, order, said, strict=True)))

    for number, order in enumerate(orders(prompts())):
        with models.serving(name, overlap=number % 2 == 1, **SETTINGS[setting]) as engine:
            asyncio.run(together(engine, order))
            assert engine.status().details["pages_used"] == 0


def sampled() -> list[tuple[Ids, Sampling]]:
    """200 requests, each with its own way to draw; some greedy, some with penalties."""
    dice = random.Random(7)
    requests = []
    for seed in range(200):
        ids = tuple(dice.choices(range(models.VOCAB), k=dice.randint(1, 60)))
        sampling = models.sampling(
            8,
            temperature=dice.choice((0.0, 0.7, 1.0, 1.5)),
            top_p=dice.choice((0.5, 0.9, 1.0)),
            top_k=dice.choice((0, 5, 40, 10_000)),
            min_p=dice.choice((0.0, 0.0, 0.05)),
            repetition_penalty=dice.choice((1.0, 1.05, 1.3)),
            frequency_penalty=dice.choice((0.0, 0.5)),
            seed=seed,
        )
        requests.append((ids, sampling))
    return requests


def test_200_sampled_requests_draw_the_same_alone_batched_reversed_and_preempted() -> None:
    requests = sampled()

    async def one_by_one(engine: BatchingEngine) -> list[Completion]:
        return [await collect(engine.stream(Prompt(ids), sampling)) for ids, sampling in requests]

    with models.serving() as engine:
        alone = [completion.token_ids for completion in asyncio.run(one_by_one(engine))]
    assert len(set(alone)) > 190

    for number, wishes in enumerate(({}, {"rows": 7}, SETTINGS["tiny cache"] | {"pages": 60, "max_model_len": 200})):
        with models.serving(overlap=number % 2 == 0, **wishes) as engine:
            forwards = answers(engine, requests)
            backwards = answers(engine, requests[::-1])[::-1]
            details = engine.status().details
        assert [completion.token_ids for completion in forwards] == alone
        assert [completion.token_ids for completion in backwards] == alone
    assert details["preemptions"] != 0
