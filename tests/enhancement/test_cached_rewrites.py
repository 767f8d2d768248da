"""The cache, through the operations: which answers are kept, and for which questions."""

import asyncio
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from handler.api.enhance import EnhanceReply
from handler.api.info import CacheSection, InfoReply
from handler.api.parse import parse
from handler.api.reply import Reply, to_wire
from handler.engine.fold import Piece
from handler.errors import (
    EngineFailed,
)
from handler.operations.operations import Operations
from runpod_local import eventually
from tests.support.enhancing import pack_json
from tests.support.rewriting import (
    CLIP,
    GOOD,
    PROMPT,
    Line,
    by_pack,
    by_template,
    code_of,
    failed,
    run,
    wide,
)


def test_the_cache_answers_the_same_question_at_no_cost_and_info_empties_it(line: Line) -> None:
    model = wide()
    operations = line(model)
    first, second = by_pack(operations), by_pack(operations)
    assert (first.enhanced.cache_hit, second.enhanced.cache_hit, len(model.asked)) == (False, True, 1)
    assert (second.enhanced.enhanced_prompt, second.run.usage.total_tokens) == (first.enhanced.enhanced_prompt, 0)
    assert (second.run.timing.total_ms, second.run.generation_time) == (0, 0)
    assert second.run.prompt_sha256 == first.run.prompt_sha256
    assert by_pack(operations, cache="off").enhanced.cache_hit is False
    assert by_pack(operations, cache="refresh").enhanced.cache_hit is False
    assert len(model.asked) == 3

    async def info(**fields: Any) -> Reply | Piece:
        return await anext(operations.run(parse({"operation": "info", **fields})))

    told = asyncio.run(info(sections=["enhancement"]))
    assert isinstance(told, InfoReply)
    assert told.enhancement is not None
    assert told.enhancement.cache == CacheSection(limit=100, hits=1, misses=1, hit_rate=0.5)
    assert told.enhancement.cache_size == 1
    assert "sdxl_image_fast" in told.enhancement.packs[0].entries
    assert "sdxl_image_fast" in told.enhancement.supported_job_types
    cleared = asyncio.run(info(clear_cache=True))
    assert isinstance(cleared, Reply)
    assert to_wire(cleared) == {"success": True, "cache_cleared": 1, "cache_size": 0}
    assert by_pack(operations).enhanced.cache_hit is False


def test_without_a_seed_every_request_is_drawn_anew_unless_it_asks_for_the_cache(line: Line) -> None:
    model = wide()
    operations = Operations(replace(line(model).core, draw_seed=count(11).__next__))
    anew = [run(operations, prompt=PROMPT, job_type="universal") for _ in range(2)]
    assert [reply.enhanced.cache_hit for reply in anew] == [False, False]
    assert [reply.run.sampling.seed for reply in anew] == [sampling.seed for sampling in model.asked]
    assert model.asked[0].seed != model.asked[1].seed
    assert not any(reply.worker_optimizations.caching for reply in anew)
    kept = [run(operations, prompt=PROMPT, job_type="universal", cache="use") for _ in range(2)]
    assert [reply.enhanced.cache_hit for reply in kept] == [False, True]
    assert [reply.run.sampling.seed for reply in kept] == [model.asked[2].seed] * 2
    assert all(reply.worker_optimizations.caching for reply in kept)


@pytest.mark.parametrize("fields", [{"seed": 7}, {"temperature": 0}], ids=["a seed", "greedy"])
def test_a_request_whose_answer_can_come_again_uses_the_cache(line: Line, fields: dict[str, Any]) -> None:
    operations = line(wide())
    replies = [run(operations, prompt=PROMPT, job_type="universal", **fields) for _ in range(2)]
    assert [reply.enhanced.cache_hit for reply in replies] == [False, True]
    assert all(reply.worker_optimizations.caching for reply in replies)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a fox", "job_type": "sdxl_image_fast"},
        {"messages": [{"role": "user", "content": PROMPT}], "target": {"encoder": "clip", "max_tokens": 75}},
    ],
    ids=["a soft check failed", "nothing was checked"],
)
def test_an_answer_that_breaks_no_hard_rule_is_kept(line: Line, fields: dict[str, Any]) -> None:
    operations = line(wide(f"{PROMPT}, mist"))
    assert [run(operations, **fields, seed=7, cache="use").enhanced.cache_hit for _ in range(2)] == [False, True]


def twins() -> dict[str, Any]:
    """A pack with one entry by two names."""
    value = pack_json()
    value["entries"]["twin"] = value["entries"]["sdxl_image_fast"]
    return value


def reweighed() -> dict[str, Any]:
    """A pack that asks as the default one does, and scores otherwise."""
    value = pack_json()
    value["rules"]["image"]["score"]["coverage"] += 1
    return value


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"seed": 8}),
        ({}, {"temperature": 0.5}),
        ({}, {"n": 2}),
        ({}, {"mode": "extend"}),
        ({}, {"protect": ["foxes"]}),
        ({}, {"language": "de"}),
        ({"pack": pack_json()}, {"pack": reweighed()}),
        ({"pack": twins()}, {"pack": twins(), "job_type": "twin"}),
        ({"target": CLIP}, {"target": {**CLIP, "encoder": "umt5"}}),
        ({"target": CLIP}, {"target": {**CLIP, "max_tokens": 74}}),
        ({"target": CLIP}, {"target": {**CLIP, "fit": False}}),
    ],
    ids=lambda fields: "-".join(fields),
)
def test_an_answer_is_kept_for_its_own_question_alone(
    line: Line, first: dict[str, Any], second: dict[str, Any]
) -> None:
    operations = line(wide())
    assert [by_pack(operations, **fields).enhanced.cache_hit for fields in (first, first, second)] == [
        False,
        True,
        False,
    ]


def test_the_answer_to_the_callers_own_messages_is_kept_where_asked_alone(line: Line) -> None:
    fields = {"messages": [{"role": "user", "content": PROMPT}], "target": CLIP, "seed": 7}
    operations = line(wide())
    uses: list[dict[str, Any]] = [{}, {}, {"cache": "use"}, {"cache": "use"}]
    assert [run(operations, **fields, **use).enhanced.cache_hit for use in uses] == [False, False, False, True]


def test_an_answer_that_breaks_a_hard_rule_is_told_and_not_kept(line: Line) -> None:
    operations = line(wide())
    cut = {"max_tokens": 9, "target": {"encoder": "clip", "max_tokens": 75, "fit": False}, "cache": "use"}
    replies = [by_template(operations, **cut) for _ in range(2)]
    assert [(failed(reply), reply.enhanced.cache_hit) for reply in replies] == [(["complete"], False)] * 2


def test_fallbacks_and_answers_that_break_a_rule_are_never_kept(line: Line) -> None:
    model = wide(EngineFailed("broken"), "", "", GOOD)
    operations = line(model)
    assert [code_of(by_pack(operations)) for _ in range(3)] == ["engine_failed", "empty", None]
    assert by_pack(operations).enhanced.cache_hit


def test_an_answer_that_a_deadline_cut_is_not_kept_and_a_bad_one_not_asked_for_again(line: Line) -> None:
    operations = line(wide(PROMPT + ", soft light" * 2000, GOOD, step_s=0.001))
    cut, whole = by_pack(operations, max_tokens=4000, deadline_ms=250), by_pack(operations, max_tokens=4000)
    assert (cut.run.finish_reason, whole.run.finish_reason, whole.enhanced.cache_hit) == ("deadline", "stop", False)
    model = wide("... " * 2000, step_s=0.001)
    assert code_of(by_pack(line(model), max_tokens=4000, deadline_ms=250)) == "empty"
    assert len(model.asked) == 1


def crowd(operations: Operations, **fields: Any) -> list[EnhanceReply]:
    """The replies to 64 equal requests that come at once."""
    request = parse({"operation": "enhance", "prompt": PROMPT, "job_type": "sdxl_image_fast", **fields})

    async def gather() -> list[Reply | Piece]:
        return await asyncio.gather(*(anext(operations.run(request)) for _ in range(64)))

    return [reply for reply in asyncio.run(gather()) if isinstance(reply, EnhanceReply)]


def test_sixty_four_equal_requests_in_flight_make_one_generation_and_one_of_them_pays(line: Line) -> None:
    model = wide(step_s=0.01)
    replies = crowd(line(model), seed=7)
    assert len(model.asked) == 1
    assert [reply.enhanced.enhanced_prompt for reply in replies] == [GOOD] * 64
    assert sorted(reply.enhanced.cache_hit for reply in replies) == [False] + [True] * 63
    for reply in replies:
        assert (reply.run.usage.total_tokens == 0) is reply.enhanced.cache_hit
        assert (reply.run.generation_time == 0) is reply.enhanced.cache_hit


def test_a_fault_that_was_shared_in_flight_costs_one_of_them_alone(line: Line) -> None:
    model = wide("... " * 30, step_s=0.01)
    replies = crowd(line(model), seed=7, mode="rewrite")
    assert (len(model.asked), {code_of(reply) for reply in replies}) == (2, {"empty"})
    assert sum(reply.run.usage.total_tokens > 0 for reply in replies) == 1


def test_equal_requests_in_flight_share_nothing_where_the_cache_is_off(line: Line) -> None:
    model = wide(step_s=0.001)
    replies = crowd(line(model))
    assert len(model.asked) == 64
    assert not any(reply.enhanced.cache_hit for reply in replies)


def test_a_crowds_generation_goes_on_until_its_last_member_leaves(line: Line) -> None:
    model = wide(step_s=0.02)
    operations = line(model)
    request = parse({"operation": "enhance", "prompt": PROMPT, "job_type": "sdxl_image_fast", "seed": 7})

    async def leave() -> bool:
        crowd = [asyncio.ensure_future(_first(operations, request)) for _ in range(3)]
        await eventually(lambda: model.running == 1)
        crowd[0].cancel()
        crowd[1].cancel()
        stayed = isinstance(await crowd[2], EnhanceReply)
        alone = asyncio.ensure_future(_first(operations, replace_seed(request)))
        await eventually(lambda: model.running == 1)
        alone.cancel()
        await eventually(lambda: model.running == 0)
        return stayed

    assert asyncio.run(leave())
    assert (len(model.asked), model.cancelled) == (2, 1)


def replace_seed(request: Any) -> Any:
    return request.model_copy(update={"seed": 99})


async def _first(operations: Operations, request: Any) -> Reply | Piece:
    return await anext(operations.run(request))
