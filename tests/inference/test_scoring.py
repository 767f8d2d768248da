"""Texts that are scored get the log-probabilities that transformers gives to them, in any company."""

import asyncio
import random
import threading
import time
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from handler.engine.fold import whole
from handler.engine.protocol import Prompt
from handler.engine.scoring import Scored
from handler.engine.stream import Logprob
from handler.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    OutOfMemory,
    Overloaded,
    WorkerError,
)
from handler.inference.config import SCORED_AT_ONCE
from handler.inference.loop import BatchingEngine
from handler.inference.request import Request
from handler.inference.sampler import Sampler
from tests.inference.test_engine_equality import EDGES, Ids
from tests.inference.test_loop import Faulty, held, out_of_memory, settled
from tests.support import models
from tests.support.oracle import log_probabilities

Pair = tuple[Ids, Ids]
MAX_TOKENS = 24
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "chunks of 48": {"prefill_chunk": 48, "rows": 20},
    "tiny cache": {"page_size": 4, "pages": 1 + 80, "max_model_len": 320, "rows": 24, "prefill_chunk": 100},
}


@cache
def pairs() -> list[Pair]:
    """48 prompts and texts, 1 to 150 tokens each: around pages and chunks, and several texts after one beginning."""
    dice = random.Random(11)

    def draw(size: int) -> Ids:
        return tuple(dice.choices(range(models.VOCAB), k=size))

    sizes = [(size % 150 + 1, EDGES[-at] % 150 + 1) for at, size in enumerate(EDGES)]
    beginning = draw(150)
    alike = [(beginning[: dice.choice((64, 100, 150))], draw(dice.randint(1, 90))) for _ in range(16)]
    others = [(draw(dice.randint(1, 150)), draw(dice.randint(1, 150))) for _ in range(32 - len(sizes))]
    return [*((draw(prompt), draw(text)) for prompt, text in sizes), *alike, *others]


@cache
def expected(name: str, prompt: Ids, text: Ids) -> tuple[Logprob, ...]:
    """By transformers, with the three likeliest tokens at each position."""
    return log_probabilities(models.oracle(name), (*prompt, *text), len(text), 3)


def same(name: str, pair: Pair, scored: Scored, top: int = 0) -> None:
    """Each log-probability is that of transformers to 1e-5."""
    prompt, text = pair
    right = expected(name, prompt, text)
    assert [one.logprob for one in scored.logprobs] == pytest.approx([one.logprob for one in right], abs=1e-5)
    assert scored.sum == pytest.approx(sum(one.logprob for one in right), abs=1e-5 * len(text))
    assert scored.mean == scored.sum / len(text)
    assert (scored.usage.prompt_tokens, scored.usage.completion_tokens) == (len(prompt) + len(text), 0)
    for here, there in zip(scored.logprobs, right, strict=True):
        assert [token for token, _ in here.top] == [token for token, _ in there.top[:top]]
        assert [value for _, value in here.top] == pytest.approx([value for _, value in there.top[:top]], abs=1e-5)


async def begun(engine: BatchingEngine) -> None:
    """Until a request has got pages."""
    for _ in range(1000):
        if engine.status().details["pages_used"]:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("nothing runs")


async def score(engine: BatchingEngine, pair: Pair, **wishes: Any) -> Scored:
    return await engine.score(Prompt(pair[0]), pair[1], **wishes)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", models.NAMES)
def test_texts_in_a_crowd_of_requests_that_draw_get_the_scores_of_transformers(name: str, setting: str) -> None:
    dice = random.Random(12)
    drawing = [tuple(dice.choices(range(models.VOCAB), k=dice.randint(1, 90))) for _ in range(32)]

    async def together(engine: BatchingEngine) -> None:
        async def draw(ids: Ids) -> None:
            done = await whole(engine.stream(Prompt(ids), models.sampling(MAX_TOKENS)))
            assert done.token_ids == models.greedy(name, ids, MAX_TOKENS)

        async def rate(at: int, pair: Pair) -> None:
            same(name, pair, await score(engine, pair, top=at % 4), at % 4)

        work = [*map(draw, drawing), *(rate(at, pair) for at, pair in enumerate(pairs()))]
        await asyncio.gather(*dice.sample(work, len(work)))
        await settled(engine)

    overlap = name == "qwen2" or setting == "tiny cache"
    with models.serving(name, overlap=overlap, **SETTINGS[setting]) as engine:
        asyncio.run(together(engine))
        details = engine.status().details
    assert details["pages_used"] == details["step_failures"] == 0
    assert details["prefix_hit_tokens"] != 0
    assert (details["preemptions"] != 0) == (setting == "tiny cache")


def test_a_text_gets_the_same_score_through_the_modules_of_transformers() -> None:
    async def main(engine: BatchingEngine) -> None:
        for pair, scored in zip(pairs(), await asyncio.gather(*(score(engine, p) for p in pairs())), strict=True):
            same("qwen3", pair, scored)

    with models.serving("qwen3", model=models.modules("qwen3"), prefill_chunk=48, rows=20) as engine:
        asyncio.run(main(engine))


def test_in_bfloat16_a_text_scores_alone_as_in_a_crowd_and_as_transformers_says_but_for_noise() -> None:
    theirs = models.build("qwen2").bfloat16()
    prompt, text = pairs()[20]
    right = log_probabilities(theirs, (*prompt, *text), len(text))

    async def main(engine: BatchingEngine) -> tuple[Scored, Scored]:
        alone = await score(engine, (prompt, text))
        crowd = await asyncio.gather(*(score(engine, pair) for pair in [*pairs()[:20], (prompt, text)]))
        return alone, crowd[-1]

    with models.serving("qwen2", model=models.merged(theirs)) as engine:
        alone, crowded = asyncio.run(main(engine))
    mean = sum(one.logprob for one in right) / len(right)
    assert alone.mean == pytest.approx(mean, abs=0.05)
    assert crowded.mean == pytest.approx(mean, abs=0.05)


def test_logits_are_computed_for_the_scored_tokens_alone_and_a_few_at_a_time() -> None:
    rows = list[int]()
    model = models.served("demo")

    class Counted(models.Changed):
        def head(self, hidden: Tensor) -> Tensor:
            rows.append(len(hidden))
            return super().head(hidden)

    kept = list[int]()

    def forward(ids: Tensor, positions: Tensor, keep: Tensor | None, *rest: Any, **named: Any) -> Tensor:
        kept.append(len(ids) if keep is None else len(keep))
        return model.forward(ids, positions, keep, *rest, **named)

    pair = tuple(range(200)), tuple(range(3 * SCORED_AT_ONCE - 5))
    with models.serving(model=Counted(model, forward)) as engine:
        same("demo", pair, asyncio.run(score(engine, pair)))
    assert rows == [SCORED_AT_ONCE, SCORED_AT_ONCE, SCORED_AT_ONCE - 5]
    assert kept == [0]


def test_a_text_that_is_scored_takes_no_part_in_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("sampled")

    monkeypatch.setattr(Sampler, "assign", never)
    monkeypatch.setattr(Sampler, "sample", never)
    with models.serving(prefill_chunk=48) as engine:
        same("demo", pairs()[-1], asyncio.run(score(engine, pairs()[-1])))


def test_the_prefix_of_texts_that_follow_one_prompt_is_computed_once_and_only_for_its_salt() -> None:
    prompt, _ = pairs()[0]
    prompt = prompt * 3 + tuple(range(100))
    texts = [tuple(range(begin, begin + 20)) for begin in range(0, 200, 20)]

    async def main(engine: BatchingEngine) -> None:
        first = await engine.score(Prompt(prompt, b"a"), texts[0])
        assert first.usage.cached_tokens == 0
        others = await asyncio.gather(*(engine.score(Prompt(prompt, b"a"), text) for text in texts))
        for text, scored in zip(texts, others, strict=True):
            # Full pages before the prompt's last token, the logits of which score the text's first.
            assert scored.usage.cached_tokens == (len(prompt) - 1) // 16 * 16 > 0
            same("demo", (prompt, text), scored)
        stranger = await engine.score(Prompt(prompt, b"b"), texts[0])
        assert stranger.usage.cached_tokens == 0
        longer = await engine.stream(Prompt((*prompt, *texts[0]), b"a"), models.sampling(1)).__anext__()
        assert longer.token_ids == models.greedy("demo", (*prompt, *texts[0]), 1)  # type: ignore[union-attr]

    with models.serving() as engine:
        asyncio.run(main(engine))


def test_a_text_that_is_preempted_midway_keeps_what_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    preempted = list[int]()
    long: Pair = (tuple(range(10)), tuple(range(20, 70)))

    async def main(engine: BatchingEngine) -> None:
        stop = engine._scheduler._stop

        def spy(one: Request) -> None:
            if one.sampling is None and one.length < one.full_length:
                preempted.append(one.scored)
            stop(one)

        monkeypatch.setattr(engine._scheduler, "_stop", spy)
        with held(engine):
            stream = engine.stream(Prompt((1, 2, 3, 4)), models.sampling(60))
            scored = asyncio.create_task(score(engine, long))
            await asyncio.sleep(0)
        done = await whole(stream)
        assert done.token_ids == models.greedy("demo", (1, 2, 3, 4), 60)
        same("demo", long, await scored)

    for overlap in (False, True):
        with models.serving(page_size=4, pages=1 + 18, max_model_len=70, prefill_chunk=3, overlap=overlap) as engine:
            asyncio.run(main(engine))
            assert engine.status().details["preemptions"] != 0
    assert len(preempted) == 2
    assert all(0 < scored < 50 for scored in preempted)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_call_that_is_cancelled_frees_its_pages_and_changes_no_other(overlap: bool) -> None:
    steps, reached, gate = list[int](), threading.Event(), threading.Event()

    def forward(ids: Tensor, *rest: Any, **named: Any) -> Tensor:
        steps.append(len(ids))
        if len(steps) == 3:
            reached.set()
            gate.wait(10)
        return models.served("demo").forward(ids, *rest, **named)

    async def main(engine: BatchingEngine) -> None:
        doomed = [asyncio.create_task(score(engine, (tuple(range(100)), tuple(range(500))))) for _ in range(3)]
        other = asyncio.create_task(score(engine, pairs()[-1]))
        assert await asyncio.to_thread(reached.wait, 10)
        for task in doomed:
            task.cancel()
        ends = await asyncio.gather(*doomed, return_exceptions=True)
        assert [type(end) for end in ends] == [asyncio.CancelledError] * 3
        gate.set()
        same("demo", pairs()[-1], await other)
        await settled(engine)
        assert engine.status().details["pages_used"] == 0

    with models.serving(overlap=overlap, prefill_chunk=8, forward=forward) as engine:
        asyncio.run(main(engine))
    assert len(steps) < 100  # 1,800 tokens in chunks of 8 would take 225


def test_a_deadline_in_the_middle_or_before_the_first_step_is_an_error() -> None:
    async def main(engine: BatchingEngine) -> None:
        with pytest.raises(DeadlineExceeded):
            await score(engine, pairs()[0], deadline=time.monotonic() - 1)
        late = asyncio.create_task(
            score(engine, (tuple(range(20)), tuple(range(400))), deadline=time.monotonic() + 0.2)
        )
        with pytest.raises(DeadlineExceeded, match="before the text was scored"):
            await late
        same("demo", pairs()[0], await score(engine, pairs()[0], deadline=time.monotonic() + 60))

    def slow(*step: Any, **named: Any) -> Tensor:
        time.sleep(0.02)
        return models.served("demo").forward(*step, **named)

    with models.serving(prefill_chunk=4, forward=slow) as engine:
        asyncio.run(main(engine))
        assert engine.status().details["pages_used"] == 0


@pytest.mark.parametrize("overlap", [False, True])
def test_out_of_memory_once_changes_no_score(overlap: bool) -> None:
    async def main(engine: BatchingEngine) -> None:
        with held(engine):
            work = [asyncio.create_task(score(engine, pair)) for pair in pairs()[:12]]
            await asyncio.sleep(0)
        for pair, scored in zip(pairs(), await asyncio.gather(*work), strict=False):
            same("demo", pair, scored)

    for at in range(1, 5):
        with models.serving(forward=Faulty(out_of_memory, at), overlap=overlap, rows=8, prefill_chunk=40) as engine:
            asyncio.run(main(engine))
            assert engine.status().details["out_of_memory"] == 1


def test_out_of_memory_again_fails_the_largest_which_may_be_a_text_to_score() -> None:
    async def main(engine: BatchingEngine) -> tuple[Any, Any, Any]:
        with held(engine):
            drawn = asyncio.create_task(whole(engine.stream(Prompt(tuple(range(40))), models.sampling(4))))
            large = asyncio.create_task(score(engine, ((1, 2, 3), tuple(range(300)))))
            small = [asyncio.create_task(score(engine, pairs()[0])) for _ in range(2)]  # half of four is two
            await asyncio.sleep(0)
        return await asyncio.gather(large, small[0], drawn, return_exceptions=True)

    with models.serving(forward=Faulty(out_of_memory, 1, 2)) as engine:
        large, small, drawn = asyncio.run(main(engine))
    assert isinstance(large, OutOfMemory)
    same("demo", pairs()[0], small)
    assert drawn.token_ids == models.greedy("demo", tuple(range(40)), 4)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_failed_step_fails_the_texts_that_it_scores_and_the_next_ones_are_scored_afresh(overlap: bool) -> None:
    async def main(engine: BatchingEngine) -> None:
        with held(engine):
            work = [asyncio.create_task(score(engine, pair)) for pair in pairs()[:4]]
            await asyncio.sleep(0)
        ends = await asyncio.gather(*work, return_exceptions=True)
        assert any(isinstance(end, EngineFailed) for end in ends)
        for pair in pairs()[:4]:
            same("demo", pair, await score(engine, pair))

    fault = Faulty(lambda: RuntimeError("device assert"), 3)
    with models.serving(forward=fault, overlap=overlap, prefill_chunk=40) as engine:
        asyncio.run(main(engine))
        assert engine.status().details["step_failures"] == 1


@pytest.mark.parametrize(
    ("prompt", "text", "top", "error"),
    [
        ((), (1,), 0, InvalidRequest),
        ((1,), (), 0, InvalidRequest),
        ((1,), (models.VOCAB,), 0, InvalidRequest),
        ((1,), (-1,), 0, InvalidRequest),
        ((1,), (1 << 70,), 0, InvalidRequest),
        ((1,), (1,), 21, InvalidRequest),
        ((1,) * 350, (1,) * 351, 0, ContextLengthExceeded),
    ],
)
def test_what_no_step_could_compute_is_refused_before_admission(
    prompt: Ids, text: Ids, top: int, error: type[WorkerError]
) -> None:
    async def main(engine: BatchingEngine) -> None:
        with pytest.raises(error):
            await engine.score(Prompt(prompt), text, top=top)
        full: Pair = ((1,) * 350, (1,) * 350)
        same("demo", full, await score(engine, full))

    with models.serving() as engine:
        asyncio.run(main(engine))


def test_a_full_queue_and_a_closed_engine_refuse_a_text() -> None:
    async def main(engine: BatchingEngine) -> None:
        with held(engine):
            work = [asyncio.create_task(score(engine, pairs()[0])) for _ in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await score(engine, pairs()[0])
        await asyncio.gather(*work)
        engine.close()
        with pytest.raises(EngineFailed):
            await score(engine, pairs()[0])

    with models.serving(rows=1, max_waiting=2) as engine:
        asyncio.run(main(engine))


def test_closing_the_engine_ends_the_texts_that_it_scores() -> None:
    async def main(engine: BatchingEngine) -> None:
        task = asyncio.create_task(score(engine, (tuple(range(100)), tuple(range(500)))))
        await begun(engine)
        await asyncio.to_thread(engine.close)
        with pytest.raises(EngineFailed, match="closed before the text was scored"):
            await task

    with models.serving(prefill_chunk=2) as engine:
        asyncio.run(main(engine))


def test_a_log_probability_that_is_not_finite_is_an_error_and_no_score() -> None:
    class Broken(models.Changed):
        def head(self, hidden: Tensor) -> Tensor:
            return super().head(hidden).fill_(torch.nan)

    model = models.served("demo")
    with (
        models.serving(model=Broken(model, model.forward)) as engine,
        pytest.raises(EngineFailed, match="no finite log-probability"),
    ):
        asyncio.run(score(engine, pairs()[0]))


def test_ids_that_have_no_token_are_no_alternatives() -> None:
    engine = BatchingEngine(
        models.served("demo"), models.info("demo"), models.token_bytes, models.config(), tokens_in_vocab=6
    )
    try:
        scored = asyncio.run(engine.score(Prompt((1, 2)), (3, 500), top=5))
    finally:
        engine.close()
    assert all(token < 6 for one in scored.logprobs for token, _ in one.top)
    assert scored.logprobs[1].logprob == pytest.approx(expected("demo", (1, 2), (3, 500))[1].logprob, abs=1e-5)
