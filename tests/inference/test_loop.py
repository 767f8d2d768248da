"""The engine among many callers: each gets its own answer, and none is affected by what happens to another."""

import asyncio
import gc
import json
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
import torch
from torch import Tensor

from handler import log
from handler.engine.fold import Completion, whole
from handler.engine.protocol import Prompt
from handler.engine.stream import Delta, Finish, Stream
from handler.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    OutOfMemory,
    Overloaded,
    StartError,
    WorkerError,
)
from handler.inference.graphs import FIRST_GRAPHS
from handler.inference.loop import STEPS_TO_CAPTURE, BatchingEngine
from handler.inference.request import Event, Request
from handler.inference.runner import Runner
from handler.ops.pages import KVPages, Layout
from handler.ops.parts import Parts
from tests.inference.test_faults import SHORT
from tests.support import models
from tests.support.models import VOCAB, greedy, sampling, serving, unchecked

HEALTHY = (7, 8, 9, 10, 11)
#: longer than two pages, so that its prefix is shared
GUILTY = tuple(range(20, 60))


class Faulty:
    """The model's forward, which raises at the given steps, counted from 1."""

    def __init__(self, error: Callable[[], Exception], *steps: int) -> None:
        self.steps = 0
        #: new tokens of each step
        self.sizes: list[int] = []
        self._error = error
        self._at = steps
        self._forward = models.served("demo").forward

    def fail_next(self) -> None:
        self._at = (*self._at, self.steps + 1)

    def __call__(self, ids: Tensor, positions: Tensor, keep: Tensor | None, layout: Layout, pages: KVPages) -> Tensor:
        self.steps += 1
        self.sizes.append(len(ids))
        if self.steps in self._at:
            raise self._error()
        return self._forward(ids, positions, keep, layout, pages)


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("no room")


async def outcome(stream: Stream) -> Completion | WorkerError:
    try:
        return await whole(stream)
    except WorkerError as error:
        return error


async def events(stream: Stream) -> list[Delta | Finish]:
    return [event async for event in stream]


async def settled(engine: BatchingEngine) -> None:
    """Until nothing runs or waits; a request is gone only a moment after its last event."""
    for _ in range(200):
        status = engine.status()
        if not status.running and not status.waiting:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the engine is still busy")


@contextmanager
def held(engine: BatchingEngine) -> Iterator[None]:
    """The engine sees all that is sent in this block at once."""
    gate = threading.Event()

    def wait() -> None:
        gate.wait(10)

    engine._command(wait)
    yield
    gate.set()


@pytest.fixture(params=[False, True], ids=["in step", "overlapping"])
def overlap(request: pytest.FixtureRequest) -> Any:
    return request.param


# -- one request ---------------------------------------------------------------------------------------------------


def test_an_answer_comes_token_by_token_and_ends_with_counts_and_times(overlap: bool) -> None:
    async def main() -> None:
        with serving(overlap=overlap) as engine:
            events = [event async for event in engine.stream(Prompt(HEALTHY), sampling(6))]
            *deltas, finish = events
            assert isinstance(finish, Finish)
            assert finish.reason == "length"
            assert (finish.usage.prompt_tokens, finish.usage.completion_tokens) == (5, 6)
            assert finish.usage.cached_tokens == 0
            assert finish.timing.ttft_s is not None
            assert 0 <= finish.timing.queue_s <= finish.timing.ttft_s <= finish.timing.total_s
            tokens = [token for delta in deltas if isinstance(delta, Delta) for token in delta.token_ids]
            text = "".join(delta.text for delta in deltas if isinstance(delta, Delta))
            assert tuple(tokens) == greedy("demo", HEALTHY, 6)
            assert text == "".join(f" {token}" for token in tokens)

    asyncio.run(main())


def test_an_end_token_ends_the_answer_and_is_counted_but_is_no_text(overlap: bool) -> None:
    said = greedy("demo", HEALTHY, 12)
    end = said[4]
    length = said.index(end) + 1

    async def main() -> None:
        with serving(stop_token_ids=[end], overlap=overlap) as engine:
            completion = await whole(engine.stream(Prompt(HEALTHY), sampling(12)))
            assert completion.finish.reason == "stop"
            assert completion.token_ids == said[:length]
            assert completion.text == "".join(f" {token}" for token in said[: length - 1])
            assert completion.finish.usage.completion_tokens == length
            assert engine.status().details["pages_used"] == 0

    asyncio.run(main())


def test_a_token_drawn_after_the_end_is_dropped(overlap: bool) -> None:
    def only_three(ids: Tensor, positions: Tensor, keep: Tensor | None, layout: Layout, pages: KVPages) -> Tensor:
        logits = torch.zeros(len(ids) if keep is None else len(keep), VOCAB)
        logits[:, 3] = 1
        return logits

    async def main() -> None:
        with serving(stop_token_ids=[3], overlap=overlap, forward=only_three) as engine:
            for completion in await asyncio.gather(
                *(whole(engine.stream(Prompt(HEALTHY), sampling(9))) for _ in range(3))
            ):
                assert (completion.token_ids, completion.text) == ((3,), "")
                assert completion.finish.usage.completion_tokens == 1
            # By the end of one more request, the engine has read all that those left behind.
            await whole(engine.stream(Prompt(HEALTHY), sampling(9)))
            assert engine.status().details["step_failures"] == 0

    asyncio.run(main())


def test_a_stop_string_ends_the_answer_before_it(overlap: bool) -> None:
    said = greedy("demo", HEALTHY, 12)
    stop = f"{said[3]} {said[4]}"

    async def main() -> None:
        with serving(overlap=overlap) as engine:
            completion = await whole(engine.stream(Prompt(HEALTHY), sampling(12, stop=(stop,))))
            assert completion.finish.reason == "stop"
            assert completion.text == "".join(f" {token}" for token in said[:3]) + " "
            assert completion.finish.usage.completion_tokens == 5

    asyncio.run(main())


def test_max_tokens_of_one_takes_one_step(overlap: bool) -> None:
    async def main() -> None:
        with serving(overlap=overlap) as engine:
            completion = await whole(engine.stream(Prompt((3,)), sampling(1)))
            assert completion.token_ids == greedy("demo", (3,), 1)
            assert engine.status().details["steps"] == 1

    asyncio.run(main())


def test_cancelling_frees_the_pages_within_a_step_and_ends_the_stream(overlap: bool) -> None:
    forward = Faulty(out_of_memory)

    async def main() -> None:
        with serving(overlap=overlap, forward=forward) as engine:
            stream = engine.stream(Prompt(HEALTHY), sampling(500))
            async for event in stream:
                if isinstance(event, Finish):
                    break
                stream.cancel()
                stream.cancel()
            assert isinstance(event, Finish)
            assert event.reason == "cancelled"
            assert engine.status().details["pages_used"] == 0
            await settled(engine)
            steps = forward.steps
            await asyncio.sleep(0.02)
            assert forward.steps == steps < 500

    asyncio.run(main())


def test_cancelling_before_the_first_step_ends_the_stream_too() -> None:
    async def main() -> None:
        with serving(rows=1) as engine:
            first = engine.stream(Prompt(HEALTHY), sampling(200))
            second = engine.stream(Prompt(GUILTY), sampling(200))
            second.cancel()
            completion = await whole(second)
            assert completion.finish.reason == "cancelled"
            assert (completion.token_ids, completion.finish.timing.ttft_s) == ((), None)
            first.cancel()
            assert (await whole(first)).finish.reason == "cancelled"
            first.cancel()  # after the end, nothing happens
            assert (await whole(engine.stream(Prompt(HEALTHY), sampling(4)))).token_ids == greedy("demo", HEALTHY, 4)

    asyncio.run(main())


def test_a_deadline_ends_a_running_and_a_waiting_request_with_what_they_have() -> None:
    slow = Faulty(out_of_memory)
    # Every token might begin a stop string, and waits for the next one.
    stops = tuple({f" {token}!" for token in greedy("demo", HEALTHY, 100)})

    def forward(*args: Any) -> Tensor:
        time.sleep(0.01)
        return slow(*args)

    async def main() -> None:
        with serving(rows=1, forward=forward) as engine:
            now = time.monotonic()
            runs = engine.stream(Prompt(HEALTHY), sampling(500, stop=stops), deadline=now + 0.8)
            waits = engine.stream(Prompt(GUILTY), sampling(500), deadline=now + 0.1)
            free = engine.stream(Prompt(HEALTHY), sampling(5))
            first, second, third = await asyncio.gather(whole(runs), events(waits), whole(free))
            *deltas, finish = second
            assert isinstance(finish, Finish)
            assert first.finish.reason == finish.reason == "deadline"
            assert 0 < len(first.token_ids) < 100
            assert first.text == "".join(f" {token}" for token in first.token_ids)
            assert not any(isinstance(delta, Delta) and delta.token_ids for delta in deltas)
            assert finish.timing.total_s < first.finish.timing.total_s < 5
            assert third.token_ids == greedy("demo", HEALTHY, 5)

    asyncio.run(main())


# -- the door ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "max_tokens", "error"),
    [
        ((), 5, InvalidRequest),
        ((1, VOCAB), 5, InvalidRequest),
        ((1, -1), 5, InvalidRequest),
        ((1, 2.5), 5, InvalidRequest),
        ((1, "2"), 5, InvalidRequest),
        ((1, None), 5, InvalidRequest),
        ((1, 2**70), 5, InvalidRequest),
        ((1, 2), 0, InvalidRequest),
        ((1,) * 690, 11, ContextLengthExceeded),
    ],
    ids=["empty", "past the vocabulary", "negative", "fraction", "text", "none", "huge", "no token", "too long"],
)
def test_a_request_that_would_break_a_step_is_refused_before_admission(
    ids: tuple[Any, ...], max_tokens: int, error: type[WorkerError]
) -> None:
    async def main() -> None:
        with serving() as engine:
            healthy = engine.stream(Prompt(HEALTHY), sampling(20))
            with pytest.raises(error):
                engine.stream(Prompt(ids), unchecked(max_tokens))
            assert (await whole(healthy)).token_ids == greedy("demo", HEALTHY, 20)

    asyncio.run(main())


@pytest.mark.parametrize("alternatives", [-1, 21])
def test_more_alternatives_than_allowed_are_refused_before_admission(alternatives: int) -> None:
    async def main() -> None:
        with serving() as engine:
            with pytest.raises(InvalidRequest) as caught:
                engine.stream(Prompt(HEALTHY), sampling(5), logprobs=alternatives)
            assert caught.value.field == "top_logprobs"

    asyncio.run(main())


def test_the_longest_request_that_is_accepted_is_answered() -> None:
    async def main() -> None:
        with serving(pages=1 + 2, max_model_len=32) as engine:
            assert engine.max_model_len == 32
            assert len((await whole(engine.stream(Prompt((5,) * 20), sampling(12)))).token_ids) == 12

    asyncio.run(main())


def test_a_full_queue_refuses_at_once_and_accepts_again_later() -> None:
    async def main() -> None:
        with serving(rows=2, max_waiting=3) as engine:
            streams = [engine.stream(Prompt(HEALTHY), sampling(50)) for _ in range(5)]
            with pytest.raises(Overloaded) as caught:
                engine.stream(Prompt(HEALTHY), sampling(50))
            assert caught.value.retry_after_s is not None
            assert 1 <= caught.value.retry_after_s <= 60
            for completion in await asyncio.gather(*map(whole, streams)):
                assert completion.token_ids == greedy("demo", HEALTHY, 50)
            await settled(engine)
            await whole(engine.stream(Prompt(HEALTHY), sampling(1)))

    asyncio.run(main())


def test_two_hundred_requests_of_every_kind_leave_nothing_behind(overlap: bool) -> None:
    """They end, are cancelled, come too late, are refused, never read, preempted, and run out of memory."""
    draw = random.Random(0)
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {"temperature": 1.0, "top_p": 0.9},
        {"repetition_penalty": 1.2},
        {"stop": (" 1",)},
    )

    async def one(engine: BatchingEngine) -> None:
        head = GUILTY if draw.random() < 0.5 else ()
        prompt = Prompt(head + tuple(draw.choices(range(VOCAB), k=draw.randint(0, 40))))
        options = unchecked(draw.randint(1, 60), **draw.choice(kinds))
        deadline = time.monotonic() + 0.05 if draw.random() < 0.1 else None
        with suppress(InvalidRequest, Overloaded, OutOfMemory, DeadlineExceeded):
            stream = engine.stream(prompt, options, logprobs=draw.choice((None, 2)), deadline=deadline)
            if draw.random() < 0.1:
                return
            if draw.random() < 0.2:
                await asyncio.sleep(draw.uniform(0, 0.5))
                stream.cancel()
            await whole(stream)

    def tracked() -> tuple[int, int]:
        gc.collect()
        objects = Counter(map(type, gc.get_objects()))
        return objects[Request], objects[Stream]

    async def main() -> None:
        tight: dict[str, Any] = {"rows": 8, "max_waiting": 170, "pages": 14, "max_model_len": 200}
        with serving(overlap=overlap, forward=Faulty(out_of_memory, 30, 31), **tight) as engine:
            await asyncio.gather(*(one(engine) for _ in range(200)))
            await settled(engine)
            turned = threading.Event()  # a turn later no frame of the engine's thread holds a request
            engine._command(turned.set)
            assert await asyncio.to_thread(turned.wait, 10)
            details = engine.status().details
            assert details["preemptions"]
            assert details["out_of_memory"] == 2
            assert details["pages_used"] == 0
            assert not engine._open
            assert len(engine._scheduler._free_rows) == 8
            assert tracked() == before

    before = tracked()
    asyncio.run(main())


# -- nobody notices: what ends every request in flight in transformers' continuous batching (5.23) -------------------


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 1.0, "top_k": VOCAB * 10},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": 1e-30},
        {"temperature": 1.0, "top_p": 1.5},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 1.0, "top_k": -3},
        {"temperature": 1.0, "min_p": 5.0},
        {"temperature": 1.0, "repetition_penalty": 0.0},
        {"temperature": 1.0, "frequency_penalty": math.inf},
        {"temperature": 1.0, "seed": 2**80},
        {"temperature": 1.0, "seed": -1},
        {"temperature": "hot"},
        {"top_k": None},
    ],
    ids=str,
)
def test_sampling_out_of_any_range_fails_its_own_request_only(options: dict[str, Any], overlap: bool) -> None:
    async def main() -> None:
        with serving(overlap=overlap) as engine:
            before = engine.stream(Prompt(HEALTHY), sampling(12))
            guilty = engine.stream(Prompt(GUILTY), unchecked(6, **options))
            alike = engine.stream(Prompt(GUILTY), sampling(6))
            after = engine.stream(Prompt(HEALTHY), sampling(12))
            got = await asyncio.gather(*map(outcome, (before, guilty, alike, after)))
            for healthy in (got[0], got[3]):
                assert isinstance(healthy, Completion)
                assert healthy.token_ids == greedy("demo", HEALTHY, 12)
            assert isinstance(got[2], Completion)
            assert got[2].token_ids == greedy("demo", GUILTY, 6)
            if isinstance(got[1], Completion):
                assert len(got[1].token_ids) == 6
                assert all(0 <= token < VOCAB for token in got[1].token_ids)
            else:
                assert isinstance(got[1], EngineFailed)
            assert engine.status().alive
            assert engine.status().details["step_failures"] == 0

    asyncio.run(main())


def test_a_request_that_cannot_be_set_up_fails_alone(monkeypatch: pytest.MonkeyPatch, overlap: bool) -> None:
    async def main() -> None:
        with serving(overlap=overlap) as engine:
            assign = engine._runner.assign

            def refuse(request: Any) -> None:
                if request.tokens[0] == GUILTY[0]:
                    raise ValueError("not this one")
                assign(request)

            monkeypatch.setattr(engine._runner, "assign", refuse)
            with held(engine):
                streams = [engine.stream(Prompt(ids), sampling(12)) for ids in (GUILTY, HEALTHY)]
            guilty, healthy = await asyncio.gather(*map(outcome, streams))
            assert isinstance(guilty, EngineFailed)
            assert isinstance(healthy, Completion)
            assert healthy.token_ids == greedy("demo", HEALTHY, 12)

    asyncio.run(main())


def test_ids_that_the_tokenizer_does_not_have_are_never_drawn() -> None:
    async def main() -> None:
        made = models.served("demo"), models.info("demo"), models.token_bytes, models.config()
        with closing(BatchingEngine(*made, tokens_in_vocab=5)) as engine:
            completion = await whole(engine.stream(Prompt(HEALTHY), sampling(20, temperature=2.0)))
            assert max(completion.token_ids) < 5

    asyncio.run(main())


def test_the_same_prompt_twice_at_once_is_answered_twice() -> None:
    async def main() -> None:
        with serving() as engine:
            streams = [engine.stream(Prompt(HEALTHY * 8), sampling(12)) for _ in range(4)]
            for completion in await asyncio.gather(*map(whole, streams)):
                assert completion.token_ids == greedy("demo", HEALTHY * 8, 12)

    asyncio.run(main())


def test_text_that_cannot_be_decoded_fails_its_own_request_and_is_logged_with_its_jobs_id(
    overlap: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    poison = next(token for token in greedy("demo", GUILTY, 12) if token not in greedy("demo", HEALTHY, 12))

    def token_bytes(token: int) -> bytes:
        if token == poison:
            raise KeyError(token)
        return b"."

    async def main() -> None:
        engine = BatchingEngine(models.served("demo"), models.info("demo"), token_bytes, models.config(overlap=overlap))
        healthy = engine.stream(Prompt(HEALTHY), sampling(12))
        log.current_job.set("guilty")
        guilty = engine.stream(Prompt(GUILTY), sampling(12))
        answer, error = await asyncio.gather(outcome(healthy), outcome(guilty))
        assert isinstance(error, EngineFailed)
        assert isinstance(answer, Completion)
        assert answer.token_ids == greedy("demo", HEALTHY, 12)
        assert engine.status().details["pages_used"] == 0
        engine.close()

    asyncio.run(main())
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["requestId"], line["message"]) == ("guilty", "a defect of the worker: KeyError")


def test_a_closed_event_loop_does_not_affect_other_requests(overlap: bool) -> None:
    with serving(overlap=overlap) as engine:

        async def leave() -> None:
            engine.stream(Prompt(GUILTY), sampling(600))
            await asyncio.sleep(0.01)

        async def stay() -> None:
            thread = threading.Thread(target=asyncio.run, args=(leave(),))
            stream = engine.stream(Prompt(HEALTHY), sampling(300))
            thread.start()
            assert (await whole(stream)).token_ids == greedy("demo", HEALTHY, 300)
            thread.join()
            await settled(engine)
            assert engine.status().details["pages_used"] == 0
            assert engine.status().details["steps"] < 600  # type: ignore[operator]

        asyncio.run(stay())


def test_a_caller_that_never_reads_delays_no_other() -> None:
    async def main() -> None:
        with serving() as engine:
            silent = engine.stream(Prompt(GUILTY), sampling(40))
            assert (await whole(engine.stream(Prompt(HEALTHY), sampling(60)))).token_ids == greedy("demo", HEALTHY, 60)
            await settled(engine)
            assert (await whole(silent)).token_ids == greedy("demo", GUILTY, 40)

    asyncio.run(main())


# -- when a step fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 5, 50])
def test_out_of_memory_once_changes_no_answer(at: int, overlap: bool) -> None:
    async def main() -> None:
        with serving(forward=Faulty(out_of_memory, at), overlap=overlap, rows=8, prefill_chunk=40) as engine:
            prompts = [(token,) * (5 + token) for token in range(16)]
            with held(engine):
                streams = [engine.stream(Prompt(ids), sampling(30)) for ids in prompts]
            for ids, completion in zip(prompts, await asyncio.gather(*map(whole, streams)), strict=True):
                assert completion.token_ids == greedy("demo", ids, 30)
            assert engine.status().details["out_of_memory"] == 1
            assert engine.status().details["pages_used"] == 0

    asyncio.run(main())


def test_after_out_of_memory_no_request_shares_pages_that_were_never_computed(overlap: bool) -> None:
    async def main() -> None:
        with serving(forward=Faulty(out_of_memory, 1, 2), overlap=overlap) as engine:
            prefix = tuple(range(100))
            with held(engine):  # the second shares the pages of the first, which fails
                first = engine.stream(Prompt((*prefix, 8, 8, 8)), sampling(10))
                second = engine.stream(Prompt(prefix), sampling(10))
            failed, done = await asyncio.gather(outcome(first), outcome(second))
            assert isinstance(failed, OutOfMemory)
            assert isinstance(done, Completion)
            assert done.token_ids == greedy("demo", prefix, 10)

    asyncio.run(main())


@pytest.mark.parametrize("source", SHORT)
def test_out_of_memory_in_the_words_of_any_source_fails_no_request(source: str) -> None:
    async def main() -> None:
        with serving(forward=Faulty(SHORT[source], 3, 9)) as engine:
            assert (await whole(engine.stream(Prompt(HEALTHY), sampling(20)))).token_ids == greedy("demo", HEALTHY, 20)
            assert engine.status().details["out_of_memory"] == 2
            assert engine.status().details["step_failures"] == 0

    asyncio.run(main())


def test_after_out_of_memory_the_pages_of_earlier_steps_are_still_shared(overlap: bool) -> None:
    forward = Faulty(out_of_memory)
    system = tuple(range(300))

    async def main() -> None:
        with serving(forward=forward, overlap=overlap) as engine:
            await whole(engine.stream(Prompt(system), sampling(2)))
            await settled(engine)
            before = len(forward.sizes)
            forward.fail_next()
            prompt = (*system, 9, 8, 7)
            assert (await whole(engine.stream(Prompt(prompt), sampling(5)))).token_ids == greedy("demo", prompt, 5)
            assert engine.status().details["out_of_memory"] == 1
            assert max(forward.sizes[before:]) < 32

    asyncio.run(main())


def test_out_of_memory_while_a_request_is_set_up_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with serving() as engine:
            assign, errors = engine._runner.assign, [out_of_memory()]

            def fail_once(request: Any) -> None:
                if errors:
                    raise errors.pop()
                assign(request)

            monkeypatch.setattr(engine._runner, "assign", fail_once)
            assert (await whole(engine.stream(Prompt(HEALTHY), sampling(5)))).token_ids == greedy("demo", HEALTHY, 5)

    asyncio.run(main())


def test_after_out_of_memory_steps_are_half_as_large_for_a_while() -> None:
    forward = Faulty(out_of_memory, 1, 40)

    async def main() -> None:
        with serving(forward=forward, rows=8, prefill_chunk=40) as engine:
            with held(engine):
                streams = [engine.stream(Prompt((token,) * 10), sampling(100)) for token in range(8)]
            await asyncio.gather(*map(whole, streams))

    asyncio.run(main())
    assert forward.sizes[0] == 40
    assert max(forward.sizes[1:39]) <= 20 + 4
    assert max(forward.sizes[40:100]) <= 10 + 4
    assert max(forward.sizes[110:]) > 4


@pytest.mark.parametrize("at", [1, 5, 50])
def test_out_of_memory_again_fails_the_largest_and_the_others_finish(at: int, overlap: bool) -> None:
    async def main() -> None:
        with serving(forward=Faulty(out_of_memory, at, at + 1), overlap=overlap, rows=4) as engine:
            prompts = [(token,) * size for token, size in enumerate((5, 40, 9, 7))]
            with held(engine):
                streams = [engine.stream(Prompt(ids), sampling(60)) for ids in prompts]
            got = await asyncio.gather(*map(outcome, streams))
            failed = [number for number, answer in enumerate(got) if isinstance(answer, OutOfMemory)]
            assert failed == [1]
            for number in (0, 2, 3):
                answer = got[number]
                assert isinstance(answer, Completion)
                assert answer.token_ids == greedy("demo", prompts[number], 60)

    asyncio.run(main())


def test_out_of_memory_without_end_fails_one_after_the_other_and_the_engine_lives() -> None:
    async def main() -> None:
        with serving(forward=Faulty(out_of_memory, *range(1, 6))) as engine:
            with held(engine):
                streams = [engine.stream(Prompt(HEALTHY), sampling(10)) for _ in range(4)]
            got = await asyncio.gather(*map(outcome, streams))
            assert [isinstance(answer, OutOfMemory) for answer in got].count(True) == 4
            assert engine.status().alive
            assert (await whole(engine.stream(Prompt(HEALTHY), sampling(5)))).token_ids == greedy("demo", HEALTHY, 5)

    asyncio.run(main())


def test_a_failed_step_fails_what_runs_and_the_engine_begins_afresh(overlap: bool) -> None:
    async def main() -> None:
        with serving(forward=Faulty(lambda: RuntimeError("device assert"), 5), overlap=overlap, rows=2) as engine:
            with held(engine):
                streams = [engine.stream(Prompt(HEALTHY), sampling(20)) for _ in range(3)]
            got = await asyncio.gather(*map(outcome, streams))
            assert [type(answer) for answer in got] == [EngineFailed, EngineFailed, Completion]
            again = await whole(engine.stream(Prompt(HEALTHY), sampling(20)))
            assert again.token_ids == greedy("demo", HEALTHY, 20)
            assert engine.status().alive
            assert engine.status().details["step_failures"] == 1

    asyncio.run(main())


def test_a_token_that_was_unread_when_a_step_failed_is_drawn_again_and_not_twice() -> None:
    prompts = [(token,) * 20 for token in range(4)]
    plain = models.served("demo").forward
    failures = 0

    def forward(*arguments: Any) -> Tensor:
        nonlocal failures
        # In this very turn the youngest was preempted: it waits, and its last token is still on the device.
        if not failures and engine.status().details["preemptions"]:
            failures += 1
            raise RuntimeError("device assert")
        return plain(*arguments)

    async def main() -> None:
        with held(engine):
            streams = [engine.stream(Prompt(ids), sampling(30)) for ids in prompts]
        *others, youngest = await asyncio.gather(*map(outcome, streams))
        assert all(isinstance(answer, EngineFailed) for answer in others)
        assert isinstance(youngest, Completion)
        assert youngest.token_ids == greedy("demo", prompts[3], 30)

    with serving(forward=forward, overlap=True, page_size=4, pages=1 + 36, max_model_len=50) as engine:
        asyncio.run(main())
        assert engine.status().details["step_failures"] == failures == 1


def test_a_second_failed_step_ends_the_engine_and_all_requests_fail(overlap: bool) -> None:
    async def main() -> None:
        with serving(forward=Faulty(lambda: RuntimeError("secret"), 3, 7), overlap=overlap, rows=2) as engine:
            with held(engine):
                streams = [engine.stream(Prompt(HEALTHY), sampling(20)) for _ in range(8)]
            got = await asyncio.gather(*map(outcome, streams))
            assert all(isinstance(answer, EngineFailed) for answer in got)
            assert not any("secret" in str(answer) for answer in got)
            assert not engine.status().alive
            with pytest.raises(EngineFailed):
                engine.stream(Prompt(HEALTHY), sampling(20))

    asyncio.run(main())


#: as torch and Triton raise them
LOST: dict[str, Callable[[], Exception]] = {
    "assert": lambda: torch.AcceleratorError("CUDA error: device-side assert triggered\nCUDA kernel errors might be"),
    "address": lambda: torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    "launch": lambda: torch.AcceleratorError("CUDA error: unspecified launch failure"),
    "triton": lambda: RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
}


@pytest.mark.parametrize("error", LOST.values(), ids=LOST)
def test_a_lost_device_ends_the_engine_at_once_and_is_not_used_again(
    error: Callable[[], Exception], overlap: bool
) -> None:
    forward = Faulty(error, 5)

    async def main() -> None:
        with serving(forward=forward, overlap=overlap, rows=2) as engine:
            with held(engine):
                streams = [engine.stream(Prompt(HEALTHY), sampling(20)) for _ in range(4)]
            got = await asyncio.gather(*map(outcome, streams))
            assert [(type(answer), getattr(answer, "retryable", None)) for answer in got] == [(EngineFailed, True)] * 4
            assert not engine.status().alive
            with pytest.raises(EngineFailed):
                engine.stream(Prompt(HEALTHY), sampling(20))
        assert forward.steps == 5
        assert engine._runner._pages.k, "closing asked the device to free its memory"

    asyncio.run(main())


def test_a_device_that_is_lost_while_a_request_is_set_up_is_not_taken_for_that_requests_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        with serving() as engine:

            def assign(request: object) -> None:
                raise LOST["assert"]()

            monkeypatch.setattr(engine._runner, "assign", assign)
            assert isinstance(await outcome(engine.stream(Prompt(HEALTHY), sampling(5))), EngineFailed)
            assert not engine.status().alive

    asyncio.run(main())


@pytest.mark.parametrize("words", ["invalid resource handle", "invalid argument"])
def test_a_cuda_error_that_leaves_the_device_usable_costs_one_step(words: str) -> None:
    async def main() -> None:
        with serving(forward=Faulty(lambda: torch.AcceleratorError(f"CUDA error: {words}"), 3)) as engine:
            assert isinstance(await outcome(engine.stream(Prompt(HEALTHY), sampling(20))), EngineFailed)
            assert (await whole(engine.stream(Prompt(HEALTHY), sampling(5)))).token_ids == greedy("demo", HEALTHY, 5)

    asyncio.run(main())


# -- the whole engine ------------------------------------------------------------------------------------------------


def test_a_long_system_prompt_is_prefilled_once_for_all() -> None:
    system = tuple(range(300))

    async def main() -> None:
        with serving() as engine:
            with held(engine):
                streams = [engine.stream(Prompt((*system, token, 7)), sampling(4)) for token in range(30)]
            completions = await asyncio.gather(*map(whole, streams))
            shared = 300 // 16 * 16
            assert [completion.finish.usage.cached_tokens for completion in completions] == [0] + [shared] * 29
            assert engine.status().details["prefix_hit_tokens"] == 29 * shared

    asyncio.run(main())


def test_status_counts_what_runs_and_what_waits() -> None:
    async def main() -> None:
        with serving(rows=2) as engine:
            assert (engine.status().running, engine.status().waiting) == (0, 0)
            with held(engine):
                streams = [engine.stream(Prompt(HEALTHY), sampling(600)) for _ in range(5)]
            await anext(streams[0])
            status = engine.status()
            assert (status.alive, status.running, status.waiting) == (True, 2, 3)
            assert status.heartbeat_age_s < 5
            assert status.details["attention"] == "paged_reference"
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*map(whole, streams))

    asyncio.run(main())


def test_closing_cancels_what_runs_and_refuses_what_comes(overlap: bool) -> None:
    async def main() -> None:
        with serving(rows=2, overlap=overlap) as engine:
            streams = [engine.stream(Prompt(HEALTHY), sampling(600)) for _ in range(4)]
            await anext(streams[0])
            engine.close()
            engine.close()
            for completion in await asyncio.gather(*map(whole, streams)):
                assert completion.finish.reason == "cancelled"
            assert not engine.status().alive
            with pytest.raises(EngineFailed):
                engine.stream(Prompt(HEALTHY), sampling(5))

    asyncio.run(main())


def test_callers_on_several_event_loops_are_each_answered_on_their_own() -> None:
    with serving() as engine:
        threads: list[tuple[int, int]] = []

        async def one() -> None:
            stream = engine.stream(Prompt(HEALTHY), sampling(30))
            put = stream.put

            def noted(event: Event) -> None:
                threads.append((threading.get_ident(), caller))
                put(event)

            caller = threading.get_ident()
            stream.put = noted  # type: ignore[method-assign]
            assert (await whole(stream)).token_ids == greedy("demo", HEALTHY, 30)

        callers = [threading.Thread(target=asyncio.run, args=(one(),)) for _ in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert len(set(threads)) == 3
        assert all(put_on == caller for put_on, caller in threads)


def test_an_idle_engine_rests_between_signs_of_life() -> None:
    async def main() -> None:
        with serving() as engine:
            await whole(engine.stream(Prompt(HEALTHY), sampling(2)))
            await settled(engine)
            ages = []
            for _ in range(20):
                await asyncio.sleep(0.01)
                ages.append(engine.status().heartbeat_age_s)
            assert max(ages) > 0.05

    asyncio.run(main())


def test_an_engine_is_warm_once_its_first_graphs_are_captured_and_settled_once_all_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    first, others = threading.Event(), threading.Event()

    def capture(self: Runner, at_most: int) -> bool:
        asked.append(at_most)
        (first if at_most == FIRST_GRAPHS else others).wait()
        return len(asked) not in (3, 6)

    monkeypatch.setattr(Runner, "capture_next", capture)
    with serving(rows=64) as engine:
        assert not engine.warm_up(0.01)
        first.set()
        assert engine.warm_up(60)
        assert not engine.settled(0.01)
        others.set()
        assert engine.settled(60)
        assert asked[:6] == [FIRST_GRAPHS] * 3 + [64] * 3


def test_graphs_are_captured_between_the_steps_of_requests_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    captured: list[int] = []
    forward = Faulty(out_of_memory)

    def capture(self: Runner, at_most: int) -> bool:
        if at_most == FIRST_GRAPHS or len(captured) == 3:
            return False
        captured.append(forward.steps)
        return True

    async def main() -> None:
        monkeypatch.setattr(Runner, "capture_next", capture)
        with serving(forward=forward) as engine:
            with held(engine):
                captured[:] = []  # those of the idle engine
                stream = engine.stream(Prompt(HEALTHY), sampling(60))
            assert (await whole(stream)).token_ids == greedy("demo", HEALTHY, 60)
            assert [*captured] == [STEPS_TO_CAPTURE * number for number in (1, 2, 3)]
            assert engine.settled(60)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            RuntimeError("Failed to find C compiler.\nPlease specify one"),
            r"\(RuntimeError: Failed to find C compiler.\)",
        ),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "unspecified launch failure"),
        (StartError("ATTENTION=kernel: a result is off"), "^ATTENTION=kernel: a result is off$"),
    ],
    ids=["kernel", "device", "setting"],
)
@pytest.mark.parametrize("where", ["check", "capture"])
def test_an_engine_that_fails_before_it_is_warm_fails_the_start(
    error: Exception, says: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise error

    if where == "capture":
        monkeypatch.setattr(Runner, "capture_next", fail)
    engine = BatchingEngine(
        models.served("demo"), models.info("demo"), models.token_bytes, models.config(),
        check=fail if where == "check" else None,
    )  # fmt: skip
    with closing(engine):
        with pytest.raises(StartError, match=says) as raised:
            engine.warm_up(60)
        assert error in (raised.value, raised.value.__cause__)
        assert engine.settled(60)
        assert not engine.status().alive


def test_the_check_of_the_parts_runs_once_on_the_engines_thread_before_the_first_capture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []

    def check(parts: Parts) -> Parts:
        order.append(f"check on {threading.current_thread().name}, {torch.is_inference_mode_enabled()}")
        return parts.without({"sampler": "a result is off"})

    def capture(self: Runner, at_most: int) -> bool:
        order.append("capture")
        return False

    monkeypatch.setattr(Runner, "capture_next", capture)
    engine = BatchingEngine(
        models.served("demo"), models.info("demo"), models.token_bytes, models.config(), check=check
    )
    with closing(engine):
        assert engine.warm_up(60)
        assert order[:2] == ["check on engine, True", "capture"]
        assert len([entry for entry in order if entry != "capture"]) == 1
        details: Any = engine.status().details
        assert details["parts"]["sampler"] == {"kernels": False, "reason": "a result is off"}
        assert details["parts"]["decode"] == {"kernels": False, "reason": "the kernels need CUDA, not cpu"}
