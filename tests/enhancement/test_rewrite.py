"""The flow of an enhancement, through the operations: what the model may answer, and what the caller then reads."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from handler.api.enhance import Enhanced
from handler.api.parse import parse
from handler.api.reply import Reply, to_wire
from handler.api.text import DryRunReply
from handler.engine.fold import Piece
from handler.engine.sampling import Sampling
from handler.engine.spent import Spent
from handler.engine.stream import Timing
from handler.enhancement import rewrite
from handler.enhancement.enhancer import spent_on_all
from handler.enhancement.rewrite import Rewritten
from handler.errors import (
    BadAnswer,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    NoPack,
    OutOfMemory,
    Unsupported,
    WorkerError,
)
from handler.model.snapshot import DEMO
from handler.model.template import Template
from handler.model.tokenizer import read
from handler.operations.operations import Operations
from handler.pool import check_stop
from tests.support.enhancing import pack_json
from tests.support.models import sampling
from tests.support.rewriting import (
    BAD_ANSWERS,
    GOOD,
    PROMPT,
    TOKEN,
    Line,
    Model,
    by_pack,
    code_of,
    failed,
    judged,
    measured,
    run,
    wide,
    without_compose,
)
from tests.support.scripted import TEMPLATES

#: a prompt with which nothing is wrong but styles that the user did not ask for
WORSE = PROMPT + ", oil painting, anime, watercolour"


def test_a_good_answer_comes_back_measured_checked_and_scored(line: Line) -> None:
    reply = by_pack(line(wide()), enhancement_type="image", quality="fast")
    assert (reply.enhanced.enhanced_prompt, reply.enhanced.enhancement_source, reply.success) == (
        GOOD,
        "worker_fallback",
        True,
    )
    assert (code_of(reply), reply.enhanced.error, judged(reply).retries, judged(reply).repairs) == (None, None, 0, ())
    assert (reply.variants, reply.run.reasoning) == (None, None)
    assert (reply.job_type, reply.quality, reply.echo.enhancement_type) == ("sdxl_image_fast", "fast", "image")
    assert (failed(reply), reply.enhanced.cache_hit) == ([], False)
    assert reply.enhanced.quality_score is not None
    score = judged(reply).score
    assert score is not None
    assert 0.5 < reply.enhanced.quality_score <= 1
    assert score.score_original < reply.enhanced.quality_score
    budget = measured(reply)
    assert (budget.measured_with, budget.max_tokens) == ("demo x1.35 (estimate)", 75)
    assert (budget.input_over_budget, budget.trimmed) == (False, ())
    assert reply.enhanced.sdxl_optimizations is not None
    assert reply.enhanced.sdxl_optimizations.has_lighting
    assert reply.enhanced.wan_optimizations is None
    pack = judged(reply).pack
    assert pack is not None
    assert pack.id == "default"


def test_the_pack_asks_the_model_with_every_sampling_value_its_own_and_the_callers_on_top(line: Line) -> None:
    model = wide()
    by_pack(line(model), temperature=0.2)
    assert model.asked == [Sampling(max_tokens=145, temperature=0.2, top_p=0.9, seed=7)]


@pytest.mark.parametrize(("target", "room"), [(225, 435), (20, 145)])
def test_an_answer_for_a_larger_target_than_the_entrys_has_room_for_the_words_it_is_asked_for(
    line: Line, target: int, room: int
) -> None:
    model = wide("two red foxes, no people, soft light")
    prompt = "two red foxes, no people"
    by_pack(line(model), prompt=prompt, target={"encoder": "clip", "max_tokens": target}, temperature=0)
    by_pack(line(model), prompt=prompt, target={"encoder": "clip", "max_tokens": target}, temperature=0, max_tokens=9)
    assert [sampling.max_tokens for sampling in model.asked] == [room, 9]


def test_a_dry_run_shows_the_packs_messages_with_the_prompt_put_in_once(line: Line) -> None:
    async def dry(prompt: str) -> Reply | Piece:
        fields = {"operation": "enhance", "prompt": prompt, "job_type": "sdxl_image_fast", "dry_run": True}
        return await anext(line(wide()).run(parse({**fields, "mode": "rewrite"})))

    reply = asyncio.run(dry("a {{words}} {{prompt}} fox"))
    assert isinstance(reply, DryRunReply)
    assert reply.messages is not None
    system, user = reply.messages
    assert "about 45 words" in system.content
    assert "{{" not in system.content
    assert user.content == "a {{words}} {{prompt}} fox"


@pytest.mark.parametrize(
    "said",
    [
        f"Here is the enhanced prompt: {GOOD}",
        f"Sure! Here's your prompt:\n\n{GOOD}",
        f'"{GOOD}"',
        f"**Prompt:** {GOOD}",
        f"```\n{GOOD}\n```",
        f"- {GOOD}",
        f"<think>\ntwo foxes, hm\n</think>\n\n{GOOD}",
        f"two foxes, hm</think>{GOOD}",
        f"{GOOD}\n\nNote: I kept every word.",
        f"{GOOD}<|im_end|>",
        f"<|im_start|>assistant {GOOD}",
    ],
)
def test_what_is_said_around_a_prompt_is_taken_off(line: Line, said: str) -> None:
    reply = by_pack(line(wide(said)))
    assert reply.enhanced.enhanced_prompt.removeprefix("assistant ") == GOOD
    assert (failed(reply), code_of(reply), judged(reply).retries) == ([], None, 0)


@pytest.mark.parametrize(("said", "fault"), BAD_ANSWERS)
def test_a_bad_answer_is_asked_for_once_more_with_another_seed(line: Line, said: str, fault: str) -> None:
    model = wide(said, GOOD)
    reply = by_pack(line(model))
    assert (reply.enhanced.enhanced_prompt, judged(reply).retries, code_of(reply)) == (GOOD, 1, None)
    assert [sampling.seed for sampling in model.asked] == [7, 8]
    assert reply.run.sampling.seed == 8
    assert reply.run.usage.completion_tokens == sum(len(TOKEN.findall(answer)) for answer in (said, GOOD))


def test_the_seed_after_the_last_is_the_first(line: Line) -> None:
    model = wide("", GOOD)
    by_pack(line(model), seed=2**64 - 1)
    assert [sampling.seed for sampling in model.asked] == [2**64 - 1, 0]


def test_an_answer_that_scores_no_better_than_the_prompt_is_asked_for_once_more(line: Line) -> None:
    model = wide(WORSE, GOOD)
    reply = by_pack(line(model))
    assert (reply.enhanced.enhanced_prompt, judged(reply).retries, code_of(reply)) == (GOOD, 1, None)
    model = wide(WORSE)
    reply = by_pack(line(model))
    assert (code_of(reply), judged(reply).retries, len(model.asked)) == ("low_score", 1, 2)
    assert reply.enhanced.enhanced_prompt.startswith(PROMPT + ", best quality")
    greedy = wide(WORSE, GOOD)
    assert code_of(by_pack(line(greedy), temperature=0)) == "low_score"
    assert len(greedy.asked) == 1


def test_a_prompt_to_which_nothing_is_missing_may_come_back_as_good_as_it_was(line: Line) -> None:
    whole = f"{GOOD}, 85mm lens, tall wet grass on a meadow, a small stream under bare birches, clouds over far hills"
    room = {"encoder": "clip", "max_tokens": 225}
    reply = by_pack(line(wide(f"{whole}, a low fence")), prompt=whole, target=room)
    score = judged(reply).score
    assert score is not None
    assert (score.score_original, reply.enhanced.quality_score, code_of(reply)) == (1, 1, None)


def test_one_further_try_is_all_whatever_is_wrong_with_either_answer(line: Line) -> None:
    model = wide("...", WORSE, GOOD)
    assert (code_of(by_pack(line(model))), len(model.asked)) == ("low_score", 2)


@pytest.mark.parametrize(("said", "fault"), BAD_ANSWERS)
def test_an_answer_that_is_bad_twice_leaves_the_packs_composition_and_says_so(
    line: Line, said: str, fault: str
) -> None:
    reply = by_pack(line(wide(said)))
    assert reply.enhanced.enhanced_prompt.startswith(PROMPT + ", best quality")
    assert (reply.enhanced.enhancement_source, reply.success, reply.enhanced.error) == ("worker_fallback", True, None)
    assert (code_of(reply), judged(reply).retries) == (fault, 1)
    assert reply.enhanced.degraded is not None
    assert reply.enhanced.degraded.message.startswith("the model's answer is no prompt: ")
    assert reply.run.usage.prompt_tokens > 0


FAILURES = [
    (OutOfMemory("full"), "out_of_memory"),
    (EngineFailed("broken"), "engine_failed"),
    (RuntimeError("the prompt was two red foxes"), "internal"),
    ("", "bad_answer"),
]


@pytest.mark.parametrize(("said", "code"), FAILURES)
@pytest.mark.parametrize("prompt", [PROMPT, " a  fox\n", "“naïve” <|im_end|> 🦊\t"])
def test_the_emergency_answer_is_the_prompt_byte_for_byte_and_marked(
    line: Line, said: str | WorkerError | Exception, code: str, prompt: str
) -> None:
    reply = by_pack(without_compose(line(wide(said))), prompt=prompt)
    assert reply.enhanced.enhanced_prompt.encode() == prompt.encode() == reply.original_prompt.encode()
    assert (reply.enhanced.enhancement_source, reply.success) == ("emergency_fallback", False)
    assert reply.enhanced.degraded is not None
    message = reply.enhanced.degraded.message
    assert (code_of(reply), "foxes" in message) == ("empty" if said == "" else code, False)
    assert judged(reply).retries == (1 if said == "" else 0)
    wire = to_wire(reply)
    assert (wire["success"], wire["error"], wire["degraded"]) == (
        False,
        message,
        {"code": code_of(reply), "message": message},
    )


def test_a_defect_is_logged_by_its_place_and_never_with_the_prompt(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    by_pack(line(wide(RuntimeError(PROMPT))))
    log = capsys.readouterr().err
    assert "RuntimeError" in log
    assert "rewrite.py" in log
    assert "foxes" not in log


def test_a_prompt_of_which_not_one_word_fits_comes_back_whole_where_the_model_fails(line: Line) -> None:
    prompt, target = "antidisestablishmentarianism", {"encoder": "clip", "max_tokens": 1}
    reply = by_pack(line(wide(OutOfMemory("full"))), prompt=prompt, target=target)
    assert (reply.enhanced.enhanced_prompt, reply.enhanced.enhancement_source) == (prompt, "emergency_fallback")


def test_thoughts_are_no_part_of_a_rewritten_prompt_and_told_beside_it(line: Line) -> None:
    plain = read(DEMO, "demo")
    template = Template(replace(plain, chat_template=TEMPLATES["choice"]))
    operations = Operations(replace(line(wide(f"<think>\nfoxes\n</think>\n\n{GOOD}")).core, template=template))
    reply = by_pack(operations, enable_thinking=True)
    assert (reply.enhanced.enhanced_prompt, reply.run.reasoning) == (GOOD, "foxes\n")


@pytest.mark.parametrize("error", [InvalidRequest("x"), ContextLengthExceeded("x"), Unsupported("x")], ids=repr)
def test_nothing_stands_in_for_a_request_that_is_itself_at_fault(line: Line, error: WorkerError) -> None:
    with pytest.raises(type(error)):
        by_pack(line(wide(error)))


@pytest.mark.parametrize(("said", "code"), FAILURES)
def test_fallback_error_gives_the_error_instead(line: Line, said: str | WorkerError | Exception, code: str) -> None:
    with pytest.raises(WorkerError) as caught:
        by_pack(line(wide(said)), fallback="error")
    assert caught.value.code == code


def test_a_greedy_model_is_not_asked_the_same_twice(line: Line) -> None:
    model = wide("", GOOD)
    assert code_of(by_pack(line(model), temperature=0)) == "empty"
    assert len(model.asked) == 1


def test_a_deadline_before_the_first_token_falls_back_and_one_later_uses_what_there_is(line: Line) -> None:
    late = by_pack(line(wide(step_s=0.3)), deadline_ms=30)
    assert code_of(late) == "deadline_exceeded"
    endless = PROMPT + "".join(f", stone {index} under tree {2 * index}" for index in range(1000))
    cut = by_pack(line(wide(endless, step_s=0.001)), deadline_ms=250, max_tokens=4000)
    assert (code_of(cut), cut.run.finish_reason) == (None, "deadline")
    assert cut.enhanced.enhanced_prompt.startswith(PROMPT)
    assert failed(cut) == []


def test_a_deadline_while_the_prompt_is_encoded_falls_back_too(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Template, "chat", lambda *_: time.sleep(0.5))
    late = by_pack(line(wide()), deadline_ms=30)
    assert (code_of(late), late.run.finish_reason) == ("deadline_exceeded", None)
    with pytest.raises(DeadlineExceeded):
        by_pack(line(wide()), deadline_ms=30, fallback="error")


@pytest.mark.parametrize("work", ["draft", "judged"])
def test_work_on_texts_that_does_not_end_is_an_error_soon_after_the_deadline(
    line: Line, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    def endless(*_: Any, **__: Any) -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            check_stop()

    monkeypatch.setattr(rewrite, work, endless)
    with pytest.raises(DeadlineExceeded):
        by_pack(line(wide()), deadline_ms=100)


def test_nine_hundred_tokens_are_trimmed_to_the_budget_at_a_clause_end(line: Line) -> None:
    things = "".join(f", stone {index} under tree {2 * index}" for index in range(100))
    reply = by_pack(line(wide(f"{PROMPT}, soft light, oil painting{things}")), max_tokens=900)
    assert 40 < measured(reply).tokens <= 75
    assert (failed(reply), reply.run.finish_reason) == ([], "stop")
    assert {one.kind for one in measured(reply).trimmed} == {"subject"}
    assert "soft light" in reply.enhanced.enhanced_prompt


def test_a_dropped_colour_and_count_are_put_back_before_their_noun(line: Line) -> None:
    rest = "in deep snow, no people, soft light falls through bare birches"
    reply = by_pack(line(wide(f"foxes {rest}")))
    assert reply.enhanced.enhanced_prompt == f"two red foxes {rest}"
    assert [(one.kind, one.text) for one in judged(reply).repairs] == [("inserted", "two"), ("inserted", "red")]
    assert failed(reply) == []


def test_a_reversed_negation_is_taken_out_and_put_right(line: Line) -> None:
    reply = by_pack(line(wide("two red foxes in the snow, happy people around, soft light")))
    assert reply.enhanced.enhanced_prompt == "two red foxes in the snow, no people, soft light"
    assert {one.kind for one in judged(reply).repairs} == {"removed", "inserted"}
    assert failed(reply) == []


def test_a_subject_that_goes_with_a_reversed_negation_is_put_back(line: Line) -> None:
    reply = by_pack(line(wide("dogs and cats playing, soft light")), prompt="dogs, no cats")
    assert reply.enhanced.enhanced_prompt == "dogs, no cats, soft light"
    assert [(one.kind, one.text) for one in judged(reply).repairs] == [
        ("removed", "dogs and cats playing"),
        ("inserted", "dogs"),
        ("inserted", "no cats"),
    ]


def test_an_answer_in_lines_becomes_clauses(line: Line) -> None:
    reply = by_pack(line(wide("- two red foxes\n- no people\n\n- snow.\n- soft light")))
    assert reply.enhanced.enhanced_prompt == "two red foxes, no people, snow. soft light"
    assert failed(reply) == []


def test_a_prompt_over_its_budget_is_trimmed_without_the_model_and_says_so(line: Line) -> None:
    model = wide()
    long = ", ".join(["a fox"] * 10 + [f"a tree of kind {index}" for index in range(90)])
    reply = by_pack(line(model), prompt=long)
    assert (measured(reply).input_over_budget, code_of(reply), reply.success) == (True, None, True)
    assert measured(reply).tokens <= 75
    assert (model.asked, reply.run.finish_reason, reply.run.prompt_sha256, reply.run.usage.total_tokens) == (
        [],
        None,
        None,
        0,
    )


def test_what_a_prompt_over_its_budget_may_not_ask_for_is_refused_as_with_any_other(line: Line) -> None:
    for wish in ({"max_tokens": 100_000}, {"enable_thinking": True}):
        for prompt in (PROMPT, "a fox, " * 100):
            with pytest.raises(WorkerError) as caught:
                by_pack(line(wide()), prompt=prompt, **wish)
            assert caught.value.field == next(iter(wish))


def test_the_dry_run_of_a_prompt_over_its_budget_shows_that_the_model_would_read_nothing(line: Line) -> None:
    fields = {"operation": "enhance", "job_type": "sdxl_image_fast", "dry_run": True}

    async def dry(prompt: str) -> Reply | Piece:
        return await anext(line(Model(max_model_len=1000)).run(parse({**fields, "prompt": prompt})))

    for prompt in ("a fox, " * 100, "a fox, " * 2000):  # the second would not fit the model's context either
        reply = asyncio.run(dry(prompt))
        assert isinstance(reply, DryRunReply)
        assert (reply.messages, reply.rendered, reply.token_ids) == (None, "", ())
        assert (reply.prompt_sha256, reply.usage.prompt_tokens) == (None, 0)


@pytest.mark.parametrize("piece", ["no cat{0}, ", "{0}, ", '"a{0}", ', "(({0})), "])
def test_a_prompt_full_of_constraints_costs_no_more_than_a_few_seconds(
    line: Line, seconds: Callable[[], float], piece: str
) -> None:
    prompt = "".join(map(piece.format, range(4000)))[:20_000]
    answer = f"{prompt}, soft light on wet stones"
    reply = by_pack(line(wide(answer)), prompt=prompt, target={"encoder": "qwen", "max_tokens": 100_000})
    assert (measured(reply).input_over_budget, code_of(reply)) == (False, None)
    assert seconds() < 12


def test_protect_puts_the_callers_texts_into_the_result(line: Line) -> None:
    reply = by_pack(line(wide()), protect=["ohwx", "red"])
    assert "ohwx" in reply.enhanced.enhanced_prompt
    assert failed(reply) == []


def test_another_language_is_asked_for_and_checked(line: Line) -> None:
    reply = by_pack(line(wide("两只红狐在雪中")), language="zh")
    assert (reply.enhanced.enhanced_prompt, code_of(reply), failed(reply)) == ("两只红狐在雪中", None, [])
    assert code_of(by_pack(line(wide(GOOD)), language="zh")) == "language"


def test_a_language_that_the_pack_has_not_is_refused(line: Line) -> None:
    value = pack_json()
    del value["languages"]["de"]
    with pytest.raises(InvalidRequest, match="no language de") as caught:
        by_pack(line(wide()), pack=value, language="de")
    assert caught.value.field == "language"


def test_the_negative_prompt_is_the_callers_else_the_packs(line: Line) -> None:
    assert by_pack(line(wide()), negative_prompt="blurry ").negative_prompt == "blurry "
    value = pack_json()
    value["entries"]["sdxl_image_fast"]["negative_prompt"] = "text"
    assert by_pack(line(wide()), pack=value).negative_prompt == "text"


def test_variants_have_seeds_of_their_own_and_come_in_one_reply(line: Line) -> None:
    model = wide()
    reply = by_pack(line(model), n=4)
    assert reply.variants is not None
    assert [one.seed for one in reply.variants] == [7, 8, 9, 10] == sorted(one.seed for one in model.asked)
    assert (reply.enhanced.enhanced_prompt, reply.run.sampling.seed) == (reply.variants[0].enhanced_prompt, 7)
    assert reply.run.usage.prompt_tokens == 4 * by_pack(line(wide())).run.usage.prompt_tokens
    drawn = run(line(wide()), prompt=PROMPT, job_type="universal", n=3).variants
    assert drawn is not None
    assert [one.seed for one in drawn] == [4242, 4243, 4244]


def test_of_several_variants_the_first_that_is_the_models_leads(line: Line) -> None:
    reply = by_pack(line(wide(RuntimeError("broken"), GOOD)), n=2)
    assert reply.variants is not None
    assert [one.degraded is not None for one in reply.variants] == [True, False]
    assert (reply.enhanced.enhanced_prompt, code_of(reply), reply.run.sampling.seed) == (GOOD, None, 8)
    with pytest.raises(OutOfMemory):
        by_pack(line(wide(OutOfMemory("full"))), n=2, fallback="error")


def test_variants_run_beside_each_other_from_the_first_that_began_to_the_last_that_ended() -> None:
    made = Enhanced(enhanced_prompt="x", enhancement_source="worker_fallback", cache_hit=False)
    times = (Timing(0.2, None, 1.0), Timing(0.1, 0.6, 3.0), Timing(0.3, 0.5, 2.0))
    answers = tuple(Rewritten(made, Spent(sampling(), timing=time)) for time in times)
    assert spent_on_all(answers).timing == Timing(0.1, 0.5, 3.0)


def test_target_model_and_quality_name_an_entry_too(line: Line) -> None:
    operations = line(wide())
    video = run(operations, prompt=PROMPT, target_model="wan", quality="high")
    assert (video.job_type, video.quality) == ("wan_video_high", "high")
    assert video.enhanced.wan_optimizations is not None
    assert run(operations, prompt=PROMPT, target_model="sdxl").job_type == "sdxl_image_fast"
    assert run(operations, prompt=PROMPT, target_model="universal", quality="high").quality == "high"


def test_an_unknown_entry_is_no_pack_and_names_those_there_are(line: Line) -> None:
    for fields in ({"job_type": "poster"}, {"target_model": "poster"}):
        with pytest.raises(NoPack, match=r"sdxl_image_fast.*wan") as caught:
            run(line(wide()), prompt=PROMPT, **fields)
        assert caught.value.field == next(iter(fields))


def test_an_inline_pack_is_checked_and_used_instead(line: Line) -> None:
    value = pack_json()
    value["id"] = "mine"
    value["entries"]["poster"] = value["entries"].pop("universal")
    value["targets"] = {}
    reply = run(line(wide()), prompt=PROMPT, job_type="poster", pack=value)
    used = judged(reply).pack
    assert used is not None
    assert used.id == "mine"
    value["entries"]["poster"]["surprise"] = 1
    with pytest.raises(InvalidRequest) as caught:
        run(line(wide()), prompt=PROMPT, job_type="poster", pack=value)
    assert caught.value.field == "pack.entries.poster.surprise"


def test_a_quality_that_the_entry_has_not_is_refused(line: Line) -> None:
    with pytest.raises(InvalidRequest) as caught:
        by_pack(line(wide()), quality="high")
    assert caught.value.field == "quality"


def test_a_bad_answer_is_worth_another_try_to_a_client() -> None:
    assert BadAnswer.retryable


@pytest.mark.parametrize(
    ("prompt", "absent"),
    [
        ("a night street in the rain", "light"),
        ("an attic lit by candlelight", "light"),
        ("a low angle shot of a tower", "framing"),
        ("a wide-angle view of a bay", "composition"),
        ("a masterpiece of a cake", "quality"),
    ],
)
@pytest.mark.parametrize("job_type", ["sdxl_image_fast", "wan_video_fast"])
def test_a_composition_says_nothing_of_light_camera_or_quality_that_the_prompt_speaks_of(
    line: Line, prompt: str, absent: str, job_type: str
) -> None:
    reply = by_pack(line(wide("...")), prompt=prompt, job_type=job_type)
    assert reply.enhanced.enhancement_source == "worker_fallback"
    added = reply.enhanced.enhanced_prompt.removeprefix(prompt)
    assert added
    assert absent not in added


def test_a_prompt_that_speaks_of_all_that_a_composition_adds_comes_back_alone(line: Line) -> None:
    prompt = "a fox, best quality, dusk light, balanced composition"
    reply = by_pack(line(wide("...")), prompt=prompt)
    assert (reply.enhanced.enhancement_source, reply.enhanced.enhanced_prompt) == ("emergency_fallback", prompt)


def test_a_good_text_in_other_words_may_score_lower_than_the_prompt(line: Line) -> None:
    said = (
        "a massive grizzly bear prowls through a dense misty forest, its fur glistening with morning dew, keen eyes "
        "fixed on a deer that grazes between the ferns, low light through the pines, soft focus in the background"
    )
    reply = by_pack(line(wide(said)), prompt="a bear hunting for prey")
    score = judged(reply).score
    assert (reply.enhanced.enhancement_source, code_of(reply)) == ("worker_fallback", None)
    assert reply.enhanced.enhanced_prompt.startswith("a massive grizzly bear prowls")
    assert score is not None
    assert reply.enhanced.quality_score is not None
    assert reply.enhanced.quality_score < score.score_original
