"""Many requests at once get, token for token, the answers that each would get alone."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from itertools import count
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from handler.engine import fold
from handler.engine.fold import Completion
from handler.engine.protocol import Engine, Prompt
from handler.engine.sampling import Sampling
from handler.engine.stream import Finish, FinishReason
from handler.inference.loop import BatchingEngine
from handler.ops.pages import KVPages, Layout
from tests.support import models
from tests.support.oracle import SerialEngine

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
        return await asyncio.gather(*map(fold.whole, streams))

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
def test_64_prompts_together_get_the_answers_that_generate_gives_to_each(name: str, setting: str) -> None:
    for number, order in enumerate(orders(prompts())):
        with models.serving(name, overlap=number % 2 == 0, **SETTINGS[setting]) as engine:
            completions = answers(engine, [(ids, models.sampling(MAX_TOKENS)) for ids in order])
            details = engine.status().details
        for ids, completion in zip(order, completions, strict=True):
            assert completion.token_ids == models.greedy(name, ids, MAX_TOKENS)
            assert completion.finish.reason == "length"
        assert (details["preemptions"] != 0) == (setting == "tiny cache")
        assert details["pages_used"] == 0


@every_model
def test_64_prompts_together_say_the_same_through_the_modules_of_transformers(name: str) -> None:
    with models.serving(name, model=models.modules(name), overlap=True, **SETTINGS["chunks of 48"]) as engine:
        completions = answers(engine, [(ids, models.sampling(MAX_TOKENS)) for ids in prompts()])
    for ids, completion in zip(prompts(), completions, strict=True):
        assert completion.token_ids == models.greedy(name, ids, MAX_TOKENS)


def habitual(name: str, fails: Callable[[int, int], bool] = lambda step, tokens: False) -> Callable[..., Tensor]:
    """The model's forward, with a liking for one token after each: its answers go round in circles, and break out.

    Where `fails` says so, of the number of a step and its tokens, the step runs out of memory instead.
    """
    steps = count()

    def forward(
        ids: Tensor, positions: Tensor, keep: Tensor | None, layout: Layout, pages: KVPages, out: Tensor | None = None
    ) -> Tensor:
        if fails(next(steps), len(ids)):
            raise torch.OutOfMemoryError("no room")
        logits = models.served(name).forward(ids, positions, keep, layout, pages, out)
        fed = ids if keep is None else ids[keep]
        return logits.scatter_add_(1, (fed[:, None] * 5 + 1) % 11, logits.new_full((len(fed), 1), 9.0))

    return forward


@pytest.mark.parametrize(
    "setting",
    [{"rows": 48}, {"rows": 16}, {"rows": 24, "page_size": 4, "pages": 120}],
    ids=["rows for all", "few rows", "few pages"],
)
@every_model
def test_guesses_change_nothing_but_the_number_of_steps(name: str, setting: dict[str, Any]) -> None:
    dice, plain = random.Random(6), models.sampling(40)
    requests = [
        (
            tuple(dice.choices(range(11), k=dice.randint(1, 60))),
            # Every fourth has penalties, and is never guessed.
            models.changed(sampling, max_tokens=40)
            if number % 4 == 0
            else models.changed(
                plain, temperature=sampling.temperature, top_p=sampling.top_p, seed=number, stop=sampling.stop
            ),
        )
        for number, (_, sampling) in enumerate(sampled()[:48])
    ]
    steps, said = [], []
    for guesses in (0, 5):
        with models.serving(
            name, forward=habitual(name), max_model_len=200, max_waiting=48, speculative_tokens=guesses, **setting
        ) as engine:
            completions = answers(engine, requests)
            details = engine.status().details
        said.append([(one.text, one.token_ids, one.finish.reason) for one in completions])
        steps.append(details["steps"])
        assert details["pages_used"] == 0
        assert (details["preemptions"] != 0) == ("pages" in setting)
    assert said[0] == said[1]
    guessed, right = details["guessed_tokens"], details["guessed_right"]
    assert 30 < right < guessed  # type: ignore[operator]
    if "pages" in setting:
        assert steps[1] < steps[0]  # type: ignore[operator]


def test_a_step_with_guesses_that_ran_out_of_memory_is_begun_again_as_if_nothing_was_guessed() -> None:
    requests = [((1, 2, 3, 4), models.sampling(90, temperature=0.4, seed=5))]
    with models.serving(forward=habitual("demo")) as engine:
        expected = answers(engine, requests)[0].token_ids
    failed = list[int]()

    def fails(step: int, tokens: int) -> bool:
        # One request decodes one token, where nothing is guessed, and begins again with many.
        if step > 10 and 1 < tokens < 6 and not failed:
            failed.append(step)
        return failed == [step]

    with models.serving(forward=habitual("demo", fails), speculative_tokens=4) as engine:
        assert answers(engine, requests)[0].token_ids == expected
        details = engine.status().details
    assert failed
    assert (details["out_of_memory"], details["step_failures"]) == (1, 0)
    assert 0 < details["guessed_right"] <= details["guessed_tokens"]  # type: ignore[operator]


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
        completion = await fold.whole(engine.stream(Prompt(ids), models.sampling(MAX_TOKENS, stop=(stop,))))
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
        assert (await fold.whole(engine.stream(Prompt(ids), models.sampling(MAX_TOKENS)))).token_ids == said

    async def together(engine: BatchingEngine, order: list[Ids]) -> None:
        fates = random.Random(6).sample([stopped] * 8 + [cancelled] * 8 + [whole] * 48, 64)
        said = [models.greedy(name, ids, MAX_TOKENS) for ids in order]
        await asyncio.gather(*(fate(engine, ids, full) for fate, ids, full in zip(fates, order, said, strict=True)))

    for number, order in enumerate(orders(prompts())):
        with models.serving(name, overlap=number % 2 == 1, **SETTINGS[setting]) as engine:
            asyncio.run(together(engine, order))
            assert engine.status().details["pages_used"] == 0


@every_model
def test_log_probabilities_are_those_of_generate_to_1e_5(name: str) -> None:
    async def answers_of(engine: Engine) -> list[Completion]:
        streams = [engine.stream(Prompt(ids), models.sampling(MAX_TOKENS), logprobs=5) for ids in prompts()[:24]]
        return await asyncio.gather(*map(fold.whole, streams))

    serial = SerialEngine(models.oracle(name), models.info(name), models.token_bytes)
    with models.serving(name, overlap=True, rows=9, prefill_chunk=48) as engine:
        got, expected = asyncio.run(answers_of(engine)), asyncio.run(answers_of(serial))
    serial.close()
    for one, other in zip(got, expected, strict=True):
        assert one.token_ids == other.token_ids
        for here, there in zip(one.logprobs, other.logprobs, strict=True):
            assert here.logprob == pytest.approx(there.logprob, abs=1e-5)
            assert [token for token, _ in here.top] == [token for token, _ in there.top]
            assert [value for _, value in here.top] == pytest.approx([value for _, value in there.top], abs=1e-5)
        assert len(one.logprobs) == MAX_TOKENS


MAX_SAMPLED = 24


def sampled() -> list[tuple[Ids, Sampling]]:
    """200 requests, each with its own way to draw: every option on in many, greedy in some."""
    dice = random.Random(7)

    def maybe(value: float, neutral: float) -> float:
        return value if dice.random() < 0.5 else neutral

    requests = []
    for _ in range(200):
        ids = tuple(dice.choices(range(models.VOCAB), k=dice.randint(1, 60)))
        sampling = models.sampling(
            dice.randint(4, MAX_SAMPLED),
            temperature=dice.choice((0.0, 0.7, 1.0, 1.5, dice.uniform(0.1, 2))),
            top_p=maybe(dice.uniform(0.3, 0.99), 1.0),
            top_k=int(maybe(dice.choice((2, 5, 40, 10_000)), 0)),
            min_p=maybe(dice.uniform(0.001, 0.3), 0.0),
            repetition_penalty=maybe(dice.uniform(0.7, 1.6), 1.0),
            presence_penalty=maybe(dice.uniform(-2, 2), 0.0),
            frequency_penalty=maybe(dice.uniform(-2, 2), 0.0),
            seed=dice.randrange(2**64),
            stop=dice.choice(((), (" 1", "99"), (str(dice.randrange(100)),))),
        )
        requests.append((ids, sampling))
    return requests


class Said(NamedTuple):
    """The part of an answer that does not depend on other requests."""

    token_ids: Ids
    text: str
    reason: FinishReason

    @classmethod
    async def whole(cls, engine: BatchingEngine, ids: Ids, sampling: Sampling) -> "Said":
        done = await fold.whole(engine.stream(Prompt(ids), sampling))
        return cls(done.token_ids, done.text, done.finish.reason)

    @classmethod
    async def streamed(cls, engine: BatchingEngine, ids: Ids, sampling: Sampling) -> "Said":
        tokens, text = list[int](), ""
        async for event in engine.stream(Prompt(ids), sampling):
            if isinstance(event, Finish):
                return cls(tuple(tokens), text, event.reason)
            tokens += event.token_ids
            text += event.text
        raise AssertionError("no finish")

    @classmethod
    async def after_a_cancelled_one(cls, engine: BatchingEngine, ids: Ids, sampling: Sampling) -> "Said":
        """Beside one that had all options on, and whose row and pages others get."""
        doomed = engine.stream(
            Prompt(ids[::-1] * 2),
            models.sampling(300, temperature=2.0, repetition_penalty=1.9, presence_penalty=2.0, top_k=9, seed=1),
        )
        await anext(doomed)
        doomed.cancel()
        return await cls.whole(engine, ids, sampling)


async def in_turn(engine: BatchingEngine, requests: Sequence[tuple[Ids, Sampling]]) -> list[Said]:
    return [await Said.whole(engine, *request) for request in requests]


def at_once(
    ask: Callable[[BatchingEngine, Ids, Sampling], Awaitable[Said]], order: Sequence[int] = range(200)
) -> Callable[[BatchingEngine, Sequence[tuple[Ids, Sampling]]], Awaitable[list[Said]]]:
    """Send all in this order, as many at a time as there are rows; answers in the order of the requests."""

    async def together(engine: BatchingEngine, requests: Sequence[tuple[Ids, Sampling]]) -> list[Said]:
        got = dict(zip(order, await asyncio.gather(*(ask(engine, *requests[i]) for i in order)), strict=True))
        return [got[i] for i in range(len(requests))]

    return together


@pytest.fixture(scope="module")
def alone() -> list[Said]:
    """The answer to each of `sampled` alone."""
    with models.serving() as engine:
        return asyncio.run(in_turn(engine, sampled()))


def test_200_requests_with_random_options_are_as_many_answers(alone: list[Said]) -> None:
    assert len({said.token_ids for said in alone}) > 180
    assert sum(said.reason == "stop" for said in alone) > 20
    assert all(0 < len(said.token_ids) <= MAX_SAMPLED for said in alone)


@pytest.mark.parametrize(
    ("ask", "options"),
    [
        (at_once(Said.whole), {"rows": 32}),
        (at_once(Said.whole, range(199, -1, -1)), {"rows": 32, "overlap": True}),
        (at_once(Said.whole, random.Random(8).sample(range(200), 200)), {"rows": 7, "prefill_chunk": 48}),
        (at_once(Said.streamed), {"rows": 32, "overlap": True}),
        (at_once(Said.after_a_cancelled_one), {"rows": 32, "max_waiting": 400}),
        (at_once(Said.whole), {"rows": 24, "page_size": 4, "pages": 60, "max_model_len": 200, "prefill_chunk": 200}),
    ],
    ids=["among 31 others", "backwards", "shuffled", "streamed", "after a cancelled neighbour", "preempted"],
)
def test_200_requests_with_random_options_say_the_same_in_any_company(
    ask: Callable[[BatchingEngine, Sequence[tuple[Ids, Sampling]]], Awaitable[list[Said]]],
    options: dict[str, Any],
    alone: list[Said],
) -> None:
    with models.serving(**options) as engine:
        assert asyncio.run(bounded(ask(engine, sampled()))) == alone
        assert (engine.status().details["preemptions"] != 0) == ("pages" in options)


async def bounded(work: Awaitable[list[Said]]) -> list[Said]:
    async with asyncio.timeout(60):
        return await work
