"""`n` answers to one prompt: side by side, each with its own seed, one reply; all end together."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from handler.api.chat import ChatReply
from handler.api.generate import GenerateReply
from handler.api.parse import parse
from handler.api.reply import Reply, to_wire
from handler.api.text import DryRunReply
from handler.engine.fold import Piece
from handler.engine.protocol import Prompt
from handler.engine.sampling import Sampling
from handler.engine.stream import Stream
from handler.errors import EngineFailed, InvalidRequest, Overloaded
from handler.inference.loop import BatchingEngine
from handler.job import Jobs
from handler.openai.served import Served
from handler.operations.operations import Operations
from handler.queue.output import Chunk, handler
from handler.queue.sdk import overfetched
from handler.report import Report
from tests.enhancement.test_variants import places
from tests.support import models
from tests.support.fakes import ScriptedEngine

HI = [{"role": "user", "content": "hi"}]
CHAT: dict[str, Any] = {"operation": "chat", "messages": HI, "n": 3, "seed": 7}
RAW: dict[str, Any] = {"operation": "generate", "prompt": "Once", "n": 3, "seed": 7}
Line = Callable[[ScriptedEngine], Operations]


async def events(operations: Operations, **fields: Any) -> list[Piece | Reply]:
    return [event async for event in operations.run(parse(fields))]


def run(operations: Operations, **fields: Any) -> tuple[list[Piece], Reply]:
    *pieces, reply = asyncio.run(events(operations, **fields))
    assert isinstance(reply, Reply)
    return [piece for piece in pieces if isinstance(piece, Piece)], reply


def test_a_reply_has_every_answer_with_its_seed_and_the_first_one_at_the_top(line: Line) -> None:
    engine = ScriptedEngine()
    _, chat = run(line(engine), **CHAT)
    assert isinstance(chat, ChatReply)
    assert chat.variants is not None
    assert [(one.response, one.seed, one.same_as) for one in chat.variants] == [
        ("Hello, world!", seed, None) for seed in (7, 8, 9)
    ]
    assert [sampling.seed for _, sampling, _ in engine.seen] == [7, 8, 9]
    assert len({prompt for prompt, _, _ in engine.seen}) == 1
    assert (chat.response, chat.run.sampling.seed) == ("Hello, world!", 7)
    _, raw = run(line(ScriptedEngine()), **RAW)
    assert isinstance(raw, GenerateReply)
    assert raw.variants is not None
    assert [(one.text, one.seed, one.completion_tokens) for one in raw.variants] == [
        ("Hello, world!", seed, 4) for seed in (7, 8, 9)
    ]


def test_seeds_wrap_round_and_one_answer_is_no_list(line: Line) -> None:
    _, reply = run(line(ScriptedEngine()), **{**CHAT, "seed": 2**64 - 1})
    assert isinstance(reply, ChatReply)
    assert [one.seed for one in reply.variants or ()] == [2**64 - 1, 0, 1]
    pieces, one = run(line(ScriptedEngine()), **{**CHAT, "n": 1})
    assert "variants" not in to_wire(one)
    assert {piece.variant for piece in pieces} == {None}


def test_usage_counts_the_prompt_once_and_the_tokens_of_every_answer(line: Line) -> None:
    one, three = (run(line(ScriptedEngine()), **{**CHAT, "n": n})[1] for n in (1, 3))
    assert isinstance(one, ChatReply)
    assert isinstance(three, ChatReply)
    assert three.run.usage.prompt_tokens == one.run.usage.prompt_tokens
    assert three.run.usage.completion_tokens == 3 * one.run.usage.completion_tokens == 12
    assert three.run.usage.total_tokens == three.run.usage.prompt_tokens + 12


def test_at_temperature_0_the_model_runs_once_and_the_others_say_so(line: Line) -> None:
    engine = ScriptedEngine()
    pieces, reply = run(line(engine), **CHAT, temperature=0, logprobs=True)
    assert isinstance(reply, ChatReply)
    assert len(engine.seen) == 1
    assert {piece.variant for piece in pieces} == {0}
    told = [(one.response, one.seed, one.same_as, one.completion_tokens) for one in reply.variants or ()]
    assert told == [("Hello, world!", 7, None, 4), ("Hello, world!", 8, 0, 0), ("Hello, world!", 9, 0, 0)]
    assert reply.run.usage.completion_tokens == 4
    assert reply.variants is not None
    assert reply.run.logprobs is not None
    assert reply.variants[2].logprobs == reply.run.logprobs


def test_pieces_interleave_and_each_says_which_answer_it_belongs_to(line: Line) -> None:
    pieces, reply = run(line(ScriptedEngine(step_s=0.002)), **CHAT)
    order = [piece.variant for piece in pieces]
    assert order != sorted(order, key=lambda variant: variant or 0)
    assert isinstance(reply, ChatReply)
    for variant, one in enumerate(reply.variants or ()):
        assert "".join(piece.text for piece in pieces if piece.variant == variant) == one.response


def test_a_chunk_of_a_stream_names_its_answer(line: Line) -> None:
    operations = line(ScriptedEngine(["a"]))

    async def chunks(**fields: Any) -> list[Any]:
        outputs = handler(Jobs(operations, Report()), Served("scripted", "fp_1", 1))
        return [
            out.value
            async for out in outputs({"id": "j", "input": {**fields, "stream": True}})
            if isinstance(out, Chunk)
        ]

    several = asyncio.run(chunks(**CHAT))
    assert sorted(json.dumps(one) for one in several) == [
        json.dumps({"index": index, "delta": "a", "variant": index}) for index in range(3)
    ]
    assert asyncio.run(chunks(**{**CHAT, "n": 1})) == [{"index": 0, "delta": "a"}]


def test_an_answer_that_fails_fails_the_request_and_ends_the_others(line: Line) -> None:
    with models.serving(max_model_len=700) as engine:
        made = list[Stream]()
        stream = engine.stream

        def failing(prompt: Prompt, sampling: Sampling, **rest: Any) -> Stream:
            made.append(stream(prompt, models.changed(sampling, max_tokens=400), **rest))
            if sampling.seed == 9:
                made[-1].put(EngineFailed("broken"))
            return made[-1]

        async def ask() -> None:
            engine.stream = failing  # type: ignore[method-assign]
            with pytest.raises(EngineFailed, match="broken"):
                await events(line(engine), **RAW)  # type: ignore[arg-type]
            await nothing_runs(engine, but=1)

        asyncio.run(ask())
        assert len(made) == 3


async def nothing_runs(engine: BatchingEngine, but: int = 0) -> None:
    """Within a few steps of the engine; `but` requests of it have an end that the engine did not give them."""
    async with asyncio.timeout(20):
        while engine.status().running + engine.status().waiting > but:  # noqa: ASYNC110 another thread decides
            await asyncio.sleep(0.001)


def test_a_request_that_finds_the_queue_full_halfway_cancels_what_it_has_queued(line: Line) -> None:
    with models.serving(rows=1, max_waiting=1) as engine:

        async def ask() -> None:
            with pytest.raises(Overloaded):
                await events(line(engine), **RAW, max_tokens=400)  # type: ignore[arg-type]
            await nothing_runs(engine)

        asyncio.run(ask())
        assert engine.status().details["steps"] < 100  # type: ignore[operator]


@pytest.mark.parametrize("after", [0, 1, 5])
def test_leaving_ends_every_answer_within_a_few_steps_and_frees_its_pages(line: Line, after: int) -> None:
    with models.serving() as engine:

        async def ask() -> None:
            running = line(engine).run(parse({**RAW, "n": 8, "max_tokens": 600}))  # type: ignore[arg-type]
            for _ in range(after):
                await anext(running)
            if not after:
                reading = asyncio.ensure_future(anext(running))
                while not engine.status().running and not reading.done():  # noqa: ASYNC110 another thread decides
                    await asyncio.sleep(0)
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            await running.aclose()
            await nothing_runs(engine)

        asyncio.run(ask())
        assert engine.status().details["pages_used"] == 0
        assert engine.status().details["steps"] < 300  # type: ignore[operator]


def test_answers_share_the_pages_of_their_prompt_and_are_those_of_single_requests(line: Line) -> None:
    prompt = "0 1 2 3 4 " * 15
    with models.serving() as engine:
        operations = line(engine)  # type: ignore[arg-type]
        fields = {"operation": "generate", "prompt": prompt, "max_tokens": 20, "temperature": 1.0}
        _, reply = run(operations, **fields, n=8, seed=3)
        hits = engine.status().details["prefix_hit_tokens"]
        singles = [run(operations, **fields, seed=3 + place)[1] for place in range(8)]
    assert isinstance(reply, GenerateReply)
    assert [one.text for one in reply.variants or ()] == [one.text for one in singles]  # type: ignore[attr-defined]
    assert len({one.text for one in reply.variants or ()}) > 1
    tokens = reply.run.usage.prompt_tokens
    assert hits == 7 * ((tokens - 1) // 16 * 16)
    assert reply.run.usage.cached_tokens == 0


def test_the_engine_holds_all_answers_of_every_job_that_is_taken() -> None:
    for rows in (1, 2, 3, 8, 9, 32, 64, 128):
        assert 8 * overfetched(rows) <= places(rows)


def test_a_dry_run_of_several_answers_asks_nothing(line: Line) -> None:
    engine = ScriptedEngine()
    _, reply = run(line(engine), **CHAT, dry_run=True, logit_bias={"5": -100})
    assert isinstance(reply, DryRunReply)
    assert engine.seen == []
    assert reply.sampling is not None
    assert (reply.sampling.seed, reply.sampling.logit_bias) == (7, {"5": -100})


def test_biases_reach_the_engine_and_the_echo_of_chat_generate_and_enhance(line: Line) -> None:
    bias = {"7": 1.5, "5": -100.0}
    for fields in (CHAT, RAW, {"operation": "enhance", "prompt": "a fox", "system_prompt": "x"}):
        engine = ScriptedEngine()
        _, reply = run(line(engine), **fields, logit_bias=bias)
        assert {tuple(sampling.logit_bias.items()) for _, sampling, _ in engine.seen} == {tuple(bias.items())}
        sampling = to_wire(reply)["sampling"]
        assert isinstance(sampling, dict)
        assert sampling["logit_bias"] == bias
        # Sent back, it is the same request.
        assert parse({**fields, "logit_bias": sampling["logit_bias"]}).logit_bias == bias  # type: ignore[union-attr]
        _, plain = run(line(ScriptedEngine()), **fields, logit_bias={})
        assert "logit_bias" not in to_wire(plain)["sampling"]  # type: ignore[operator]


def test_a_bias_for_an_id_outside_the_vocabulary_is_refused_by_its_name(line: Line) -> None:
    for token in ("2048", "9999999999"):
        with pytest.raises(InvalidRequest) as refused:
            run(line(ScriptedEngine()), **CHAT, logit_bias={"5": 1, token: 1})
        assert refused.value.field == f"logit_bias.{token}"


@pytest.mark.parametrize(("fields", "most"), [({}, 3809), ({"top_logprobs": 0}, 80_000), ({"n": 8}, 423)])
def test_an_answer_without_max_tokens_is_as_long_as_its_log_probabilities_may_be_and_says_so(
    line: Line, fields: dict[str, Any], most: int
) -> None:
    """Where more would be allowed: the model's own default is long here, as that of OpenAI's API is."""
    operations = line(ScriptedEngine(max_model_len=100_000))
    model = replace(operations.core.model, sampling_defaults={"max_tokens": 90_000})
    wish = {"operation": "chat", "messages": HI, "logprobs": True, "top_logprobs": 20, "sampling_defaults": "model"}
    _, reply = run(Operations(replace(operations.core, model=model)), **{**wish, **fields})
    assert isinstance(reply, ChatReply)
    assert reply.run.sampling.max_tokens == most
