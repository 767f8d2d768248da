"""The options of OpenAI's clients in a batch: biases, 20 alternatives, several answers to one prompt."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from handler.engine import fold
from handler.engine.protocol import MAX_TOP_LOGPROBS, Prompt
from handler.engine.sampling import Sampling
from handler.engine.stream import Logprob
from handler.errors import InvalidRequest
from handler.inference.loop import BatchingEngine
from tests.support import models
from tests.support.draws import random_biases

Ids = tuple[int, ...]
REQUESTS = 100


class Asked(NamedTuple):
    """One request to the engine."""

    ids: Ids
    sampling: Sampling
    logprobs: int | None


class Said(NamedTuple):
    """What must not depend on other requests; log-probabilities to 1e-4, as sums differ by the size of a batch."""

    token_ids: Ids
    alternatives: tuple[Ids, ...]
    logprobs: tuple[float, ...]


def asked() -> list[Asked]:
    """Requests of one answer and of several to the same prompt, half with biases, half with log-probabilities."""
    dice, requests = random.Random(19), list[Asked]()
    while len(requests) < REQUESTS:
        ids = tuple(dice.choices(range(models.VOCAB), k=dice.randint(1, 60)))
        sampling = models.sampling(
            dice.randint(4, 24),
            temperature=dice.choice((0.0, 0.7, 1.0, 1.5)),
            top_p=dice.choice((1.0, 0.9)),
            top_k=dice.choice((0, 0, 40)),
            frequency_penalty=dice.choice((0.0, 0.0, 1.0)),
            seed=dice.randrange(2**64),
            logit_bias=random_biases(dice, models.VOCAB) if dice.random() < 0.5 else {},
        )
        logprobs = dice.choice((None, None, 0, 3, MAX_TOP_LOGPROBS))
        for variant in range(dice.choice((1, 1, 8))):
            requests.append(Asked(ids, sampling.with_seed(sampling.seed + variant), logprobs))
    return requests[:REQUESTS]


async def say(engine: BatchingEngine, one: Asked) -> Said:
    done = await fold.whole(engine.stream(Prompt(one.ids), one.sampling, logprobs=one.logprobs))
    assert len(done.logprobs) == (0 if one.logprobs is None else len(done.token_ids))
    assert all(len(found.top) == one.logprobs for found in done.logprobs)
    return Said(done.token_ids, tuple(map(alternatives, done.logprobs)), tuple(values(done.logprobs)))


def alternatives(found: Logprob) -> Ids:
    return tuple(token for token, _ in found.top)


def values(found: Sequence[Logprob]) -> list[float]:
    return [value for one in found for value in (one.logprob, *(other for _, other in one.top))]


async def in_turn(engine: BatchingEngine, requests: Sequence[Asked]) -> list[Said]:
    return [await say(engine, one) for one in requests]


async def together(engine: BatchingEngine, requests: Sequence[Asked]) -> list[Said]:
    async with asyncio.timeout(60):
        return await asyncio.gather(*(say(engine, one) for one in requests))


@pytest.fixture(scope="module")
def alone() -> list[Said]:
    with models.serving() as engine:
        return asyncio.run(in_turn(engine, asked()))


@pytest.mark.parametrize(
    "options",
    [
        {"rows": 32},
        {"rows": 32, "overlap": True, "prefill_chunk": 48},
        {"rows": 32, "speculative_tokens": 3},
        {"rows": 24, "page_size": 4, "pages": 60, "max_model_len": 200, "prefill_chunk": 200},
    ],
    ids=["among 31 others", "overlapped", "guessed", "preempted"],
)
def test_100_requests_with_these_options_say_the_same_in_any_company(
    options: dict[str, Any], alone: list[Said]
) -> None:
    with models.serving(**options) as engine:
        got = asyncio.run(together(engine, asked()))
        assert (engine.status().details["preemptions"] != 0) == ("pages" in options)
        assert engine.status().details["pages_used"] == 0
    for here, there in zip(got, alone, strict=True):
        assert (here.token_ids, here.alternatives) == (there.token_ids, there.alternatives)
        assert here.logprobs == pytest.approx(there.logprobs, abs=1e-4)


def test_no_request_says_a_token_that_it_banned_and_its_log_probabilities_are_the_models() -> None:
    ids, plain = (1, 2, 3), models.sampling(12)

    async def greedy(engine: BatchingEngine, sampling: Sampling) -> fold.Completion:
        return await fold.whole(engine.stream(Prompt(ids), sampling, logprobs=3))

    with models.serving() as engine:
        free = asyncio.run(greedy(engine, plain))
        banned = models.changed(plain, logit_bias={str(free.token_ids[0]): -100})
        told = asyncio.run(greedy(engine, banned))
    assert free.token_ids[0] not in told.token_ids
    first, second = free.logprobs[0].top[:2]
    assert told.logprobs[0].top == free.logprobs[0].top
    assert (told.token_ids[0], told.logprobs[0].logprob) == second
    assert first[0] == free.token_ids[0]


def test_equally_likely_alternatives_come_in_the_order_of_their_ids_however_many_a_neighbour_asks_for() -> None:
    def flat(*arguments: Any, **named: Any) -> Any:
        return (models.served("demo").forward(*arguments, **named) / 8).round() * 4  # a handful of values

    async def ask(engine: BatchingEngine, *asked: int) -> list[Said]:
        return await asyncio.gather(*(say(engine, Asked((5, 6, n), models.sampling(4), n)) for n in asked))

    with models.serving(forward=flat) as engine:
        (alone,) = asyncio.run(ask(engine, 5))
        beside, _ = asyncio.run(ask(engine, 5, 20))
    assert beside.alternatives == alone.alternatives
    for tokens, at in zip(alone.alternatives, range(0, 24, 6), strict=True):
        likely = dict(zip(tokens, alone.logprobs[at + 1 : at + 6], strict=True))
        assert list(tokens) == sorted(tokens, key=lambda token: (-likely[token], token))
        assert len(set(likely.values())) < 5


def test_a_bias_outside_the_vocabulary_is_refused_before_it_is_queued() -> None:
    async def ask(engine: BatchingEngine) -> None:
        engine.stream(Prompt((1,)), models.sampling(2, logit_bias={"3": 1, str(models.VOCAB): 1}))

    with models.serving() as engine, pytest.raises(InvalidRequest) as refused:
        asyncio.run(ask(engine))
    assert refused.value.field == f"logit_bias.{models.VOCAB}"
