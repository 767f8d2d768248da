"""Candidate: a text that the request brings is judged, repaired, fitted and scored, and the model does not run."""

import asyncio
from typing import Any

import pytest

from handler.api.enhance import CandidateReply, EnhanceRequest
from handler.api.parse import parse
from handler.api.reply import to_wire
from handler.errors import InvalidRequest
from handler.operations.operations import Operations
from tests.support.rewriting import BAD_ANSWERS, CLIP, GOOD, MESSAGES, PROMPT, Line, by_pack, wide

ENTRY: dict[str, Any] = {"prompt": PROMPT, "job_type": "sdxl_image_fast"}


def judge(operations: Operations, text: str, **fields: Any) -> CandidateReply:
    async def only() -> list[object]:
        request = {"operation": "enhance", "candidate": text, **(fields or ENTRY)}
        return [event async for event in operations.run(parse(request))]

    (reply,) = asyncio.run(only())
    assert isinstance(reply, CandidateReply)
    return reply


def test_a_candidate_is_judged_as_the_models_answer_is_and_the_engine_is_not_asked(line: Line) -> None:
    model = wide(RuntimeError("asked"))
    model.close()
    lossy = "foxes in deep snow, soft light falls through bare birches"
    long = GOOD + "".join(f", stone {index} under tree {2 * index}" for index in range(15))
    for text in (GOOD, f'"{GOOD}"', lossy, long):
        told, answered = judge(line(model), text), by_pack(line(wide(text)))
        assert told.enhanced.enhanced_prompt == answered.enhanced.enhanced_prompt
        assert told.enhanced.quality_score == answered.enhanced.quality_score
        assert told.enhanced.enhancement == answered.enhanced.enhancement
        assert told.enhanced.sdxl_optimizations == answered.enhanced.sdxl_optimizations
    assert (model.seen, model.asked) == ([], [])


def test_the_reply_to_a_candidate_has_no_facts_of_a_run(line: Line) -> None:
    wire = to_wire(judge(line(wide()), GOOD, **ENTRY, context={"scene": 3}, negative_prompt="blurry"))
    assert set(wire) == {
        "success", "enhanced_prompt", "enhancement_source", "cache_hit", "quality_score", "sdxl_optimizations",
        "enhancement", "original_prompt", "negative_prompt", "job_type", "quality", "worker_optimizations", "context",
        "processing_time",
    }  # fmt: skip
    assert (wire["enhancement_source"], wire["cache_hit"], wire["context"]) == ("candidate", False, {"scene": 3})
    assert wire["worker_optimizations"] == {"caching": False, "post_processing": True, "fallback_ready": False}


@pytest.mark.parametrize(("text", "fault"), BAD_ANSWERS)
def test_a_candidate_that_is_no_prompt_stays_and_its_fault_is_told(line: Line, text: str, fault: str) -> None:
    reply = judge(line(wide()), text)
    assert (reply.enhanced.enhanced_prompt, reply.enhanced.enhancement_source) == (text, "candidate")
    assert (reply.success, reply.enhanced.error) == (True, None)
    assert reply.enhanced.degraded is not None
    assert reply.enhanced.degraded.code == fault
    assert reply.enhanced.degraded.message.startswith("the candidate is no prompt: ")


def test_a_candidate_may_score_lower_than_the_prompt_and_the_prompt_itself_says_that_nothing_was_added(
    line: Line,
) -> None:
    worse = judge(line(wide()), PROMPT + ", oil painting, anime, watercolour").enhanced
    assert worse.enhancement is not None
    assert worse.enhancement.score is not None
    assert worse.quality_score is not None
    assert worse.quality_score < worse.enhancement.score.score_original
    assert worse.degraded is None
    assert judge(line(wide()), f" {PROMPT}\n", prompt=PROMPT, target=CLIP).enhanced.reason == "unchanged"


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": MESSAGES},
        {"prompt": PROMPT},
        {"prompt": PROMPT, "system_prompt": "Rewrite."},
        {"original_prompt": PROMPT},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_without_an_entry_a_candidate_is_measured_and_nothing_else(line: Line, fields: dict[str, Any]) -> None:
    text = 'Sure: "a fox" '
    reply = judge(line(wide()), text, **fields, target={"encoder": "clip", "max_tokens": 2})
    assert (reply.enhanced.enhanced_prompt, reply.original_prompt) == (text, PROMPT)
    assert reply.enhanced.enhancement is not None
    assert reply.enhanced.enhancement.budget is not None
    assert reply.enhanced.enhancement.budget.tokens > 2
    checks = reply.enhanced.enhancement.failed_checks
    assert [name for name, check in checks.items() if check.hard] == ["budget"]
    assert (reply.enhanced.quality_score, reply.enhanced.degraded) == (None, None)
    fitted = judge(line(wide()), GOOD, **fields, target={"encoder": "clip", "max_tokens": 20, "fit": True})
    assert fitted.enhanced.enhanced_prompt != GOOD
    assert set(fitted.enhanced.enhanced_prompt.split(", ")) < set(GOOD.split(", "))


def test_in_mode_extend_a_candidate_is_the_text_after_the_prompt(line: Line) -> None:
    reply = judge(line(wide()), " soft light, sharp focus, highly detailed", **ENTRY, mode="extend")
    assert reply.enhanced.enhanced_prompt == GOOD
    nothing = judge(line(wide()), " ", **ENTRY, mode="extend").enhanced
    assert nothing.degraded is not None
    assert (nothing.degraded.code, nothing.enhanced_prompt, nothing.reason) == ("unchanged", PROMPT, "unchanged")


#: a value for each field that a run of the model has, and a candidate has not
RUNS: dict[str, Any] = {
    "temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.1,
    "frequency_penalty": 0.1, "max_tokens": 5, "seed": 7, "stop": "x", "n": 2, "stream": False, "cache": "off",
    "cache_salt": "a", "fallback": "original", "dry_run": True, "logprobs": True, "enable_thinking": False,
    "sampling_defaults": "worker",
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_field_for_a_run_of_the_model_is_refused_by_its_name(line: Line, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name} does not go with candidate") as caught:
        judge(line(wide()), GOOD, **ENTRY, **{name: RUNS[name]})
    assert caught.value.field == name


def test_every_field_either_goes_with_a_candidate_or_is_refused() -> None:
    goes = {
        "operation", "candidate", "prompt", "messages", "system_prompt", "job_type", "target_model", "quality", "pack",
        "target", "mode", "language", "protect", "negative_prompt", "deadline_ms", "context", "enhancement_type",
    }  # fmt: skip
    refused_elsewhere = {"top_logprobs", "continue_final_message"}  # they need a field that is refused
    assert set(EnhanceRequest.model_fields) >= goes | set(RUNS) | refused_elsewhere


def test_a_candidate_has_the_bound_of_a_prompt(line: Line) -> None:
    with pytest.raises(InvalidRequest) as caught:
        judge(line(wide()), "x" * 20_001)
    assert caught.value.field == "candidate"
