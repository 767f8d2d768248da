"""The reply of an enhance on the wire: what was asked for and what applies, nothing else, and only true values."""

from typing import Any

import pytest

from handler.api.reply import to_wire
from handler.errors import InvalidRequest, OutOfMemory
from tests.support.enhancing import pack_json
from tests.support.rewriting import (
    CLIP,
    GOOD,
    MESSAGES,
    PROMPT,
    Line,
    by_pack,
    by_template,
    run,
    wide,
    without_compose,
)

PLAIN = {"prompt": PROMPT, "system_prompt": "Rewrite."}
ENTRY = {"prompt": PROMPT, "job_type": "sdxl_image_fast"}
#: of every reply
ALWAYS = {
    "success", "original_prompt", "enhanced_prompt", "enhancement_source", "cache_hit", "worker_optimizations",
    "finish_reason", "usage", "sampling", "model_info", "prompt_sha256", "timing", "generation_time", "processing_time",
}  # fmt: skip
OF_AN_ENTRY = {"job_type", "quality", "quality_score", "sdxl_optimizations", "enhancement"}
ECHO = {"enhancement_type": "image", "context": {"scene": 3}}


def without_anatomy() -> dict[str, Any]:
    """A pack that has no list `anatomy`."""
    value = pack_json()
    del value["words"]["lexicon"]["anatomy"]
    return value


def test_a_plain_reply_has_at_most_sixteen_names(line: Line) -> None:
    assert set(to_wire(run(line(wide()), **PLAIN))) == ALWAYS
    assert set(to_wire(run(line(wide()), messages=MESSAGES))) == ALWAYS
    echoed = to_wire(run(line(wide()), **PLAIN, **ECHO))
    assert set(echoed) == ALWAYS | set(ECHO)
    assert len(echoed) <= 16


@pytest.mark.parametrize("fields", [ENTRY, {**PLAIN, **ENTRY}], ids=["the entry's messages", "the caller's messages"])
def test_a_reply_by_an_entry_has_at_most_twenty_two_names(line: Line, fields: dict[str, Any]) -> None:
    assert set(to_wire(run(line(wide()), **fields))) == ALWAYS | OF_AN_ENTRY
    full = to_wire(run(line(wide()), **fields, **ECHO, negative_prompt="blurry"))
    assert set(full) == ALWAYS | OF_AN_ENTRY | set(ECHO) | {"negative_prompt"}
    assert len(full) <= 22


def test_nothing_in_a_reply_is_null_but_what_was_sent_so(line: Line) -> None:
    def nulls(value: object, path: str = "") -> list[str]:
        if isinstance(value, dict):
            return [found for name, inner in value.items() for found in nulls(inner, f"{path}.{name}")]
        return [path] if value is None else []

    for fields in (PLAIN, ENTRY, {**PLAIN, **ENTRY}, {**PLAIN, "target": CLIP}, {**ENTRY, "n": 2}):
        assert nulls(to_wire(run(line(wide()), **fields))) == []
    assert nulls(to_wire(run(line(wide()), **ENTRY, enhancement_type=None))) == [".enhancement_type"]


def test_the_enhancement_has_its_facts_under_one_name(line: Line) -> None:
    by_entry: Any = to_wire(by_template(line(wide("a fox, oil painting")), prompt="a fox, rain"))["enhancement"]
    assert set(by_entry) == {"pack", "budget", "score", "retries", "repairs", "failed_checks"}
    assert set(by_entry["budget"]) >= {"tokens", "max_tokens", "input_over_budget", "trimmed"}
    assert set(by_entry["failed_checks"]) == {"words_kept", "coverage", "added_style"}
    assert by_entry["failed_checks"]["added_style"] == {"hard": False, "found": ["oil painting"]}
    measured: Any = to_wire(run(line(wide()), **PLAIN, target=CLIP))["enhancement"]
    assert set(measured) == {"budget", "retries", "repairs", "failed_checks"}


def test_an_enhance_that_failed_wholly_says_so_with_the_original_prompt(line: Line) -> None:
    message = {"code": "out_of_memory", "message": "full"}
    for reply in (
        by_pack(without_compose(line(wide(OutOfMemory("full"))))),
        by_template(line(wide(OutOfMemory("full"))), fallback="original"),
        run(line(wide(OutOfMemory("full"))), messages=MESSAGES, fallback="original"),
    ):
        wire = to_wire(reply)
        assert (wire["success"], wire["error"], wire["degraded"]) == (False, "full", message)
        assert (wire["enhanced_prompt"], wire["enhancement_source"]) == (PROMPT, "emergency_fallback")
        assert wire["cache_hit"] is False
    composed = to_wire(by_pack(line(wide(OutOfMemory("full")))))
    assert (composed["success"], composed["degraded"], "error" in composed) == (True, message, False)


@pytest.mark.parametrize(
    ("fields", "caching", "post_processing", "fallback_ready"),
    [
        (PLAIN, False, False, False),
        ({"messages": MESSAGES}, False, False, False),
        ({**PLAIN, "cache": "use"}, True, False, False),
        ({**PLAIN, "cache": "refresh"}, True, False, False),
        ({**PLAIN, "fallback": "original"}, False, False, True),
        ({**PLAIN, "mode": "extend"}, False, True, False),
        ({**PLAIN, "protect": ["red"]}, False, True, False),
        ({**PLAIN, "target": CLIP}, False, False, False),
        ({**PLAIN, "target": {**CLIP, "fit": True}}, False, True, False),
        ({**PLAIN, "job_type": "universal"}, False, True, False),
        ({**PLAIN, "job_type": "universal", "target": {**CLIP, "fit": False}}, False, False, False),
        (ENTRY, False, True, True),
        ({**ENTRY, "cache": "use"}, True, True, True),
        ({**ENTRY, "seed": 7}, True, True, True),
        ({**ENTRY, "temperature": 0}, True, True, True),
        ({**ENTRY, "temperature": 0, "cache": "off"}, False, True, True),
        ({**ENTRY, "fallback": "error"}, False, True, False),
    ],
)
def test_worker_optimizations_are_true_where_they_were_in_force(
    line: Line, fields: dict[str, Any], caching: bool, post_processing: bool, fallback_ready: bool
) -> None:
    told = to_wire(run(line(wide()), **fields))["worker_optimizations"]
    assert told == {"caching": caching, "post_processing": post_processing, "fallback_ready": fallback_ready}


def test_original_prompt_is_another_name_of_prompt(line: Line) -> None:
    reply = run(line(wide()), original_prompt=PROMPT, job_type="sdxl_image_fast", seed=7)
    assert reply.original_prompt == PROMPT
    assert reply.enhanced == run(line(wide()), **ENTRY, seed=7).enhanced
    assert run(line(wide()), **ENTRY, original_prompt=None).original_prompt == PROMPT
    with pytest.raises(InvalidRequest, match="not both") as caught:
        run(line(wide()), **ENTRY, original_prompt="a fox")
    assert caught.value.field == "original_prompt"
    with pytest.raises(InvalidRequest, match="not both"):
        run(line(wide()), messages=MESSAGES, original_prompt="a fox")


@pytest.mark.parametrize(
    ("target_model", "job_type"),
    [
        ("sdxl", "sdxl_image_fast"),
        ("sdxl", "sdxl_image_high"),
        ("wan", "wan_video_high"),
        ("wan", "wan_7b_enhanced"),
        ("wan", "video_fast"),
        ("universal", "universal"),
    ],
)
@pytest.mark.parametrize("own", [{}, {"system_prompt": "Rewrite."}], ids=["entry's messages", "caller's messages"])
def test_a_job_type_is_taken_with_its_target_model(
    line: Line, target_model: str, job_type: str, own: dict[str, str]
) -> None:
    assert run(line(wide()), prompt=PROMPT, target_model=target_model, job_type=job_type, **own).job_type == job_type


@pytest.mark.parametrize(
    ("target_model", "job_type"),
    [("wan", "sdxl_image_fast"), ("sdxl", "wan_7b_enhanced"), ("sdxl", "universal"), ("poster", "universal")],
)
@pytest.mark.parametrize("own", [{}, {"system_prompt": "Rewrite."}], ids=["entry's messages", "caller's messages"])
def test_a_job_type_of_another_target_model_is_refused(
    line: Line, target_model: str, job_type: str, own: dict[str, str]
) -> None:
    with pytest.raises(InvalidRequest, match=f"{job_type} is not of target_model {target_model}") as caught:
        run(line(wide()), prompt=PROMPT, target_model=target_model, job_type=job_type, **own)
    assert caught.value.field == "target_model"


def test_anatomical_accuracy_is_told_by_the_packs_list_and_absent_where_there_is_none(line: Line) -> None:
    def told(said: str, **fields: Any) -> dict[str, Any]:
        summary: Any = to_wire(by_pack(line(wide(said)), prompt="a woman", **fields))["sdxl_optimizations"]
        return dict(summary)

    assert told("a woman, relaxed pose, soft light")["has_anatomical_accuracy"] is True
    assert told("a woman, soft light")["has_anatomical_accuracy"] is False
    assert "has_anatomical_accuracy" not in told("a woman, relaxed pose", pack=without_anatomy())
    assert set(told(GOOD)) == {
        "has_quality_tags", "has_lighting", "has_technical_terms", "has_resolution", "has_anatomical_accuracy",
        "token_count",
    }  # fmt: skip
    video: Any = to_wire(by_pack(line(wide()), job_type="wan_video_fast"))["wan_optimizations"]
    assert set(video) == {"has_motion", "has_cinematography", "has_temporal_consistency", "has_quality", "token_count"}
