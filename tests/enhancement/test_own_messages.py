"""Enhance with the caller's own messages: they run as sent, and nothing is done that was not asked for."""

import asyncio
from typing import Any

import pytest

from handler.api.enhance import EnhanceReply
from handler.api.parse import parse
from handler.api.reply import Reply
from handler.api.text import DryRunReply
from handler.engine.fold import Piece
from handler.engine.sampling import Sampling
from handler.enhancement.score import CAP
from handler.errors import (
    InvalidRequest,
    OutOfMemory,
    WorkerError,
)
from tests.support.enhancing import pack_json
from tests.support.rewriting import (
    BAD_ANSWERS,
    CLIP,
    GOOD,
    MESSAGES,
    PROMPT,
    Line,
    by_template,
    code_of,
    failed,
    judged,
    measured,
    run,
    wide,
)

#: a prompt that is over every budget of these tests
LONG = GOOD + "".join(f", stone {place}, tree {place}" for place in range(30))


def test_the_callers_own_messages_are_answered_as_the_model_said_it_measured_where_asked(line: Line) -> None:
    said = f'Sure: "{GOOD}" '
    plain = run(line(wide(said)), messages=MESSAGES)
    reply = run(line(wide(said)), messages=MESSAGES, target={"encoder": "clip", "max_tokens": 20})
    assert plain.enhanced.enhanced_prompt == reply.enhanced.enhanced_prompt == said
    assert (plain.enhanced.enhancement, plain.enhanced.quality_score) == (None, None)
    assert (measured(reply).max_tokens, reply.enhanced.enhancement_source) == (20, "edge_function")
    assert "budget" in failed(reply)


def test_the_callers_own_messages_are_trimmed_where_asked(line: Line) -> None:
    target = {"encoder": "qwen", "max_tokens": 30, "fit": True}
    reply = run(
        line(wide(LONG)),
        messages=MESSAGES,
        target=target,
    )
    assert reply.enhanced.enhanced_prompt.startswith("two red foxes in the snow, no people")
    assert measured(reply).tokens <= 30


def test_an_error_on_the_callers_own_messages_stays_one_unless_the_original_is_asked_for(line: Line) -> None:
    with pytest.raises(OutOfMemory):
        run(line(wide(OutOfMemory("full"))), messages=MESSAGES)
    reply = run(line(wide(OutOfMemory("full"))), messages=MESSAGES, fallback="original")
    assert (reply.enhanced.enhanced_prompt, reply.enhanced.enhancement_source, reply.success) == (
        PROMPT,
        "emergency_fallback",
        False,
    )


def test_an_enhancement_by_pack_streams_nothing_before_its_reply_and_own_messages_do(line: Line) -> None:
    async def events(**fields: Any) -> list[Piece | Reply]:
        request = parse({"operation": "enhance", "stream": True, **fields})
        return [event async for event in line(wide()).run(request)]

    (reply,) = asyncio.run(events(prompt=PROMPT, job_type="sdxl_image_fast"))
    assert isinstance(reply, EnhanceReply)
    *pieces, _ = asyncio.run(events(messages=MESSAGES))
    assert "".join(piece.text for piece in pieces if isinstance(piece, Piece)) == GOOD


# -- with an entry beside them: `system_prompt` and `job_type` ---------------------------------------------------------


def test_the_model_reads_the_callers_messages_and_nothing_of_the_entry(line: Line) -> None:
    async def dry(**fields: Any) -> Reply | Piece:
        request = {"operation": "enhance", "prompt": PROMPT, "system_prompt": "Rewrite.", "dry_run": True, **fields}
        return await anext(line(wide()).run(parse(request)))

    alone, beside = (asyncio.run(dry(**entry)) for entry in ({}, {"job_type": "sdxl_image_fast"}))
    assert isinstance(alone, DryRunReply)
    assert isinstance(beside, DryRunReply)
    assert beside.messages is not None
    assert [(one.role, one.content) for one in beside.messages] == [("system", "Rewrite."), ("user", PROMPT)]
    assert (beside.token_ids, beside.sampling) == (alone.token_ids, alone.sampling)


def test_an_entry_beside_own_messages_measures_fits_and_scores(line: Line) -> None:
    said = 'Sure: "two red foxes in the snow, no people' + ', soft light, oil painting"' * 30
    reply = by_template(line(wide(said)))
    assert (reply.enhanced.enhancement_source, reply.success, code_of(reply)) == ("edge_function", True, None)
    assert reply.enhanced.enhanced_prompt.startswith('Sure: "two red foxes')
    assert reply.job_type == "sdxl_image_fast"
    budget, score, pack = measured(reply), judged(reply).score, judged(reply).pack
    assert (budget.max_tokens, 40 < budget.tokens <= 75, budget.input_over_budget) == (75, True, False)
    assert budget.trimmed
    assert score is not None
    assert pack is not None
    assert (score.rules_version, pack.id) == ("image/1", "default")
    assert reply.enhanced.quality_score is not None
    assert reply.enhanced.sdxl_optimizations is not None
    assert reply.enhanced.sdxl_optimizations.token_count == budget.tokens
    video = by_template(line(wide()), job_type=None, target_model="wan", quality="high")
    assert (video.job_type, video.quality, measured(video).encoder) == ("wan_video_high", "high", "umt5")
    assert video.enhanced.wan_optimizations is not None


def test_a_target_goes_before_the_entrys_budget(line: Line) -> None:
    long = LONG
    fitted = by_template(line(wide(long)), target={"encoder": "qwen", "max_tokens": 30})
    assert (measured(fitted).max_tokens, measured(fitted).tokens <= 30) == (30, True)
    free = by_template(line(wide(long)), target={**CLIP, "fit": False})
    assert (free.enhanced.enhanced_prompt, failed(free)) == (long, ["budget"])


@pytest.mark.parametrize("said", [said for said, _ in BAD_ANSWERS])
def test_an_answer_to_own_messages_has_no_fault_and_is_asked_for_once(line: Line, said: str) -> None:
    model = wide(said, GOOD)
    reply = by_template(line(model))
    assert reply.enhanced.enhanced_prompt == said
    assert (reply.enhanced.enhancement_source, reply.success, code_of(reply)) == ("edge_function", True, None)
    assert (len(model.asked), judged(reply).retries, judged(reply).repairs) == (1, 0, ())
    assert "language" not in judged(reply).failed_checks


@pytest.mark.parametrize("said", ["foxes in deep snow, soft light", "two red foxes in the snow, happy people around"])
def test_an_answer_to_own_messages_is_not_repaired_and_its_failed_checks_are_told(line: Line, said: str) -> None:
    reply = by_template(line(wide(said)))
    assert (reply.enhanced.enhanced_prompt, judged(reply).repairs) == (said, ())
    assert "negation" in failed(reply)
    assert reply.enhanced.quality_score is not None
    assert reply.enhanced.quality_score <= CAP


def test_own_messages_are_run_where_the_prompt_is_over_the_budget(line: Line) -> None:
    model = wide("a fox under an oak, soft light")
    reply = by_template(line(model), prompt=", ".join(f"a tree of kind {index}" for index in range(90)))
    assert (len(model.asked), reply.enhanced.enhanced_prompt) == (1, "a fox under an oak, soft light")
    assert (measured(reply).input_over_budget, measured(reply).trimmed) == (True, ())


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.2, "max_tokens": 9}])
def test_an_entry_beside_own_messages_has_no_say_in_the_sampling(line: Line, fields: dict[str, Any]) -> None:
    model = wide()
    by_template(line(model), **fields)
    run(line(model), prompt=PROMPT, system_prompt="Rewrite.", seed=7, **fields)
    expected = Sampling.model_validate({"max_tokens": 200, "temperature": 0.7, "top_p": 0.9, "seed": 7, **fields})
    assert model.asked == [expected] * 2


def test_the_answer_to_own_messages_with_an_entry_is_kept_where_asked_alone(line: Line) -> None:
    operations = line(wide())
    uses: list[dict[str, Any]] = [{}, {}, {"cache": "use"}, {"cache": "use"}]
    assert [by_template(operations, **use).enhanced.cache_hit for use in uses] == [False, False, False, True]


@pytest.mark.parametrize("said", [OutOfMemory("full"), RuntimeError("broken")], ids=repr)
def test_an_error_on_own_messages_never_ends_in_the_packs_composition(line: Line, said: Exception) -> None:
    with pytest.raises(WorkerError):
        by_template(line(wide(said)))
    reply = by_template(line(wide(said)), fallback="original")
    assert (reply.enhanced.enhanced_prompt, reply.enhanced.enhancement_source) == (PROMPT, "emergency_fallback")
    assert (reply.success, code_of(reply) is not None, bool(reply.enhanced.error)) == (False, True, True)


def test_what_is_asked_for_beside_an_entry_is_done(line: Line) -> None:
    appended = by_template(line(wide("Deep snow, soft light")), mode="extend")
    assert appended.enhanced.enhanced_prompt == f"{PROMPT}, Deep snow, soft light"
    protected = by_template(line(wide("a fox in deep snow")), protect=["ohwx"])
    assert "ohwx" in protected.enhanced.enhanced_prompt
    assert ("inserted", "ohwx") in [(one.kind, one.text) for one in judged(protected).repairs]
    assert "language" in failed(by_template(line(wide(GOOD)), language="zh"))


def test_an_entrys_own_mode_language_and_negative_prompt_are_for_its_own_messages(line: Line) -> None:
    value = pack_json()
    value["entries"]["sdxl_image_fast"] |= {"mode": "extend", "language": "zh", "negative_prompt": "text"}
    reply = by_template(line(wide("a fox in deep snow")), pack=value)
    assert (reply.enhanced.enhanced_prompt, reply.negative_prompt) == ("a fox in deep snow", None)
    assert "language" not in judged(reply).failed_checks
    assert by_template(line(wide()), pack=value, negative_prompt="blurry").negative_prompt == "blurry"


@pytest.mark.parametrize("fields", [{"job_type": "poster"}, {"job_type": None, "target_model": "poster"}])
def test_an_unknown_entry_beside_own_messages_is_a_mistake_in_the_request(line: Line, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"sdxl_image_fast.*wan") as caught:
        by_template(line(wide()), **fields)
    assert caught.value.field == list(fields)[-1]


def test_messages_with_an_entry_are_refused(line: Line) -> None:
    for fields in ({"job_type": "sdxl_image_fast"}, {"target_model": "wan"}):
        with pytest.raises(InvalidRequest, match="does not go with messages") as caught:
            run(line(wide()), messages=MESSAGES, **fields)
        assert caught.value.field == next(iter(fields))


def test_own_messages_with_an_entry_stream_nothing_before_the_reply(line: Line) -> None:
    async def events() -> list[Piece | Reply]:
        fields = {"operation": "enhance", "stream": True, "prompt": PROMPT, "system_prompt": "Rewrite."}
        request = parse({**fields, "job_type": "sdxl_image_fast"})
        return [event async for event in line(wide()).run(request)]

    (reply,) = asyncio.run(events())
    assert isinstance(reply, EnhanceReply)
