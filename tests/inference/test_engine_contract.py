"""The contract of an engine, for each one: a scripted engine, `generate`, and the batching engine on the demo model."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from transformers import AutoModelForCausalLM

from handler.engine.fold import Completion, whole
from handler.engine.protocol import Engine, Prompt
from handler.engine.sampling import Sampling
from handler.engine.scoring import Scored
from handler.engine.stream import Delta, Finish
from handler.errors import ContextLengthExceeded, DeadlineExceeded, EngineFailed, InvalidRequest
from handler.inference.config import EngineOptions
from handler.inference.loop import BatchingEngine
from handler.inference.plan import plan
from handler.model import weights
from handler.model.snapshot import DEMO, find
from handler.model.template import Turn
from handler.model.weights import Loaded
from tests.support.fakes import ScriptedEngine
from tests.support.models import changed
from tests.support.oracle import SerialEngine

T = TypeVar("T")
GREEDY = Sampling(max_tokens=20, temperature=0.0, seed=0)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    """The demo model, made not to end by itself."""
    loaded = weights.load(find("demo", name=None, revision=None, on_runpod=False))
    return loaded._replace(info=replace(loaded.info, stop_token_ids=()))


@pytest.fixture(params=["scripted", "serial", "batching"])
def engine(request: pytest.FixtureRequest, loaded: Loaded) -> Iterator[Engine]:
    model, template, info = loaded
    made: Engine
    match request.param:
        case "scripted":
            made = ScriptedEngine(["one ", "two ", "three "] * 300, step_s=0.002)
        case "serial":
            theirs = AutoModelForCausalLM.from_pretrained(DEMO, local_files_only=True, dtype=model.dtype)
            made = SerialEngine(theirs, info, template.token_bytes)
        case _:
            config = plan(EngineOptions(), model.shape, device="cpu", free_bytes=1 << 30)
            made = BatchingEngine(model, info, template.token_bytes, config, tokens_in_vocab=template.tokens_in_vocab)
    yield made
    made.close()


@pytest.fixture
def prompt(loaded: Loaded) -> Prompt:
    return replace(loaded.template.chat([Turn("user", "a red fox")], 1000).prompt, end_ids=())


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(60):
            return await work()

    return asyncio.run(bounded())


def complete(engine: Engine, prompt: Prompt, sampling: Sampling, deadline: float | None = None) -> Completion:
    async def work() -> Completion:
        return await whole(engine.stream(prompt, sampling, deadline=deadline))

    return run(work)


def test_a_stream_is_deltas_and_then_one_finish(engine: Engine, prompt: Prompt) -> None:
    async def work() -> list[Delta | Finish]:
        return [event async for event in engine.stream(prompt, GREEDY)]

    *deltas, finish = run(work)
    assert isinstance(finish, Finish)
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert deltas


def test_max_tokens_ends_an_answer_and_usage_counts_it(engine: Engine, prompt: Prompt) -> None:
    done = complete(engine, prompt, GREEDY)
    assert (done.finish.reason, len(done.token_ids)) == ("length", 20)
    assert done.finish.usage.prompt_tokens == len(prompt.token_ids)
    assert done.finish.usage.completion_tokens == 20
    timing = done.finish.timing
    assert timing.ttft_s is not None
    assert 0 <= timing.queue_s <= timing.ttft_s <= timing.total_s


def test_the_same_request_and_seed_give_the_same_answer(engine: Engine, prompt: Prompt) -> None:
    sampling = changed(GREEDY, temperature=1.0, top_p=0.9, seed=5)
    assert complete(engine, prompt, sampling).token_ids == complete(engine, prompt, sampling).token_ids


def test_a_stop_string_cuts_the_text_and_ends_the_request(engine: Engine, prompt: Prompt) -> None:
    whole = complete(engine, prompt, GREEDY).text
    stop = whole[8:12]
    cut = complete(engine, prompt, changed(GREEDY, stop=(stop,)))
    assert (cut.text, cut.finish.reason) == (whole[: whole.index(stop)], "stop")
    assert len(cut.token_ids) < 20


@pytest.mark.parametrize("asked", [0, 3])
def test_a_request_for_log_probabilities_gets_one_for_every_token(engine: Engine, prompt: Prompt, asked: int) -> None:
    async def work() -> tuple[Completion, Completion]:
        return await asyncio.gather(
            whole(engine.stream(prompt, GREEDY, logprobs=asked)), whole(engine.stream(prompt, GREEDY))
        )

    done, other = run(work)
    assert (len(done.logprobs), other.logprobs) == (20, ())
    assert done.token_ids == other.token_ids
    for token, entry in zip(done.token_ids, done.logprobs, strict=True):
        assert len(entry.top) == asked
        assert entry.logprob < 0
        if asked:  # what is drawn greedily is the likeliest
            assert entry.top[0] == (token, entry.logprob)
            assert [logprob for _, logprob in entry.top] == sorted((logprob for _, logprob in entry.top), reverse=True)


def test_many_at_once_all_end_and_none_gets_anothers_answer(engine: Engine, prompt: Prompt) -> None:
    async def work() -> list[Completion]:
        return await asyncio.gather(
            *(whole(engine.stream(prompt, changed(GREEDY, max_tokens=1 + index))) for index in range(12))
        )

    alone = complete(engine, prompt, GREEDY)
    for index, done in enumerate(run(work)):
        assert done.token_ids == alone.token_ids[: 1 + index]


def test_a_cancelled_stream_ends_soon_with_the_reason_cancelled(engine: Engine, prompt: Prompt) -> None:
    async def work() -> Completion:
        stream = engine.stream(prompt, changed(GREEDY, max_tokens=700))
        await anext(stream)
        stream.cancel()
        return await whole(stream)

    began = time.monotonic()
    assert run(work).finish.reason == "cancelled"
    assert time.monotonic() - began < 30


def test_cancelling_twice_or_after_the_end_does_nothing(engine: Engine, prompt: Prompt) -> None:
    async def work() -> Completion:
        stream = engine.stream(prompt, GREEDY)
        done = await whole(stream)
        stream.cancel()
        stream.cancel()
        return done

    assert run(work).finish.reason == "length"
    assert complete(engine, prompt, GREEDY).finish.reason == "length"


def test_a_deadline_returns_what_there_is(engine: Engine, prompt: Prompt) -> None:
    done = complete(engine, prompt, changed(GREEDY, max_tokens=700), deadline=time.monotonic() + 0.3)
    assert done.finish.reason == "deadline"
    assert 0 < len(done.token_ids) < 700


def test_a_deadline_that_has_passed_generates_nothing(engine: Engine, prompt: Prompt) -> None:
    async def work() -> list[Delta | Finish]:
        return [event async for event in engine.stream(prompt, GREEDY, deadline=time.monotonic() - 1)]

    *deltas, finish = run(work)
    assert isinstance(finish, Finish)
    assert (finish.reason, finish.usage.completion_tokens) == ("deadline", 0)
    assert all(isinstance(delta, Delta) and (delta.text, delta.token_ids) == ("", ()) for delta in deltas)


@pytest.mark.parametrize("ids", [(), (-1,), (10**9,)])
def test_a_prompt_that_is_none_is_refused_and_others_go_on(
    engine: Engine, prompt: Prompt, ids: tuple[int, ...]
) -> None:
    with pytest.raises(InvalidRequest):
        complete(engine, Prompt(ids), GREEDY)
    assert complete(engine, prompt, GREEDY).finish.reason == "length"


def test_what_does_not_fit_the_context_is_refused(engine: Engine, prompt: Prompt) -> None:
    with pytest.raises(ContextLengthExceeded):
        complete(engine, prompt, changed(GREEDY, max_tokens=engine.max_model_len))


@pytest.mark.parametrize("asked", [0, 3])
def test_a_score_has_one_log_probability_for_each_token_of_the_text(engine: Engine, prompt: Prompt, asked: int) -> None:
    text = (5, 6, 7, 5, 6, 7)

    async def work() -> Scored:
        return await engine.score(prompt, text, top=asked)

    scored = run(work)
    assert len(scored.logprobs) == 6
    assert all(one.logprob < 0 and len(one.top) == asked for one in scored.logprobs)
    assert scored.sum == pytest.approx(sum(one.logprob for one in scored.logprobs))
    assert scored.mean == pytest.approx(scored.sum / 6)
    usage = scored.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt.token_ids) + 6, 0)
    assert 0 <= scored.timing.queue_s <= scored.timing.total_s
    assert scored.timing.ttft_s is None


def test_a_score_that_is_late_or_no_request_is_an_error(engine: Engine, prompt: Prompt) -> None:
    def rate(text: tuple[int, ...], **wishes: Any) -> None:
        run(lambda: engine.score(prompt, text, **wishes))

    with pytest.raises(DeadlineExceeded):
        rate((5,), deadline=time.monotonic() - 1)
    for text, top in (((), 0), ((-1,), 0), ((5,), 21)):
        with pytest.raises(InvalidRequest):
            rate(text, top=top)
    with pytest.raises(ContextLengthExceeded):
        rate((5,) * engine.max_model_len)
    engine.close()
    with pytest.raises(EngineFailed):
        rate((5,))


def test_status_reports_life_and_a_closed_engine_takes_no_request(engine: Engine, prompt: Prompt) -> None:
    assert engine.status().alive
    engine.close()
    assert not engine.status().alive
    with pytest.raises(EngineFailed):
        complete(engine, prompt, GREEDY)
    engine.close()
