"""An edge function of an earlier version works unchanged against HTTP: its paths, its bodies, and what it reads."""

import asyncio
from typing import Any, NamedTuple

import pytest

from tests.support.facing import Answer
from tests.support.http_worker import http_worker
from tests.test_callers import BY_ENTRY, CHAT, EDGE, ENHANCE, HISTORY, MESSAGE, MESSAGES, SDXL, WAN, value_at

Json = dict[str, Any]


class Call(NamedTuple):
    """A path, its body (None for a GET), and the names that the answer must have."""

    path: str
    body: Json | None
    names: str


FOX = "a red fox in the snow"
CALLS = (
    Call("/chat", {"messages": MESSAGES, "max_tokens": 20, "temperature": 0.7, "top_p": 0.9}, CHAT),
    Call(
        "/chat",
        {
            "message": "Who are you?", "system_prompt": "Be brief.", "conversation_id": "c-1",
            "context_type": "roleplay", "conversation_history": HISTORY, "project_id": "p-1",
        },
        MESSAGE,
    ),
    Call(
        "/chat/debug/system-prompt",
        {"message": "hi", "system_prompt": "Be brief.", "conversation_history": HISTORY},
        "system_prompt_received system_prompt_used messages_built no_override_detected pure_inference_mode",
    ),
    Call("/generate", {"messages": MESSAGES, "max_tokens": 20, "temperature": 0.7, "top_p": 0.9}, "success text"),
    *(Call(path, {"messages": MESSAGES}, ENHANCE) for path in ("/enhance", "/enhance/intelligent", "/enhance/legacy")),
    Call("/enhance", {**EDGE, "job_type": "sdxl_image_fast", "quality": "fast", "context": {"scene": 3}}, BY_ENTRY),
    Call("/enhance/sdxl", {"prompt": FOX, "quality": "high"}, f"{BY_ENTRY} {SDXL}"),
    Call("/enhance/wan", {"original_prompt": FOX, "job_type": "wan_video_fast"}, f"{BY_ENTRY} {WAN}"),
    Call("/enhance/universal", {"prompt": FOX, "quality": "fast"}, BY_ENTRY),
    Call("/worker/info", None, "worker_type model capabilities.chat capabilities.pure_inference endpoints"),
    Call(
        "/model/info",
        None,
        "model_loaded model_name model_device device_type model_parameters model_size_gb is_eval_mode torch_version "
        "cuda_available cuda_version gpu_name",
    ),
    Call(
        "/memory/status",
        None,
        "total_vram allocated_vram available_vram model_loaded model_device device_type",
    ),
    Call(
        "/health",
        None,
        "status architecture worker_type gpu_utilization memory_usage active_jobs uptime model_loaded "
        "system_prompt_features.pure_inference_engine",
    ),
    Call("/enhancement/info", None, "enhancement_system supported_job_types cache_size model_status endpoints"),
    Call("/enhancement/cache/clear", {}, "success cache_cleared cache_size"),
)  # fmt: skip


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    """The answer to each call, by one worker; the last one is to a path that was removed."""

    async def serve() -> list[Answer]:
        async with http_worker() as worker:
            client = worker.client
            got = [
                await (client.get(call.path) if call.body is None else client.post(call.path, call.body))
                for call in CALLS
            ]
            got += [await client.post("/enhancement/cache/clear", b""), await client.post("/chat/unrestricted", EDGE)]
            return [*got, await client.post("/chat", {"message": "hi", "nsfw_optimization": True})]

    return asyncio.run(serve())


@pytest.mark.parametrize("index", range(len(CALLS)), ids=[f"{i} {call.path}" for i, call in enumerate(CALLS)])
def test_the_call_is_answered_with_every_name_that_its_caller_reads(index: int, answers: list[Answer]) -> None:
    answer, call = answers[index], CALLS[index]
    assert answer.status == 200, answer.text
    assert answer.json["success"] is True
    for path in call.names.split():
        value_at(answer.json, path)


def test_a_post_without_a_body_is_one_with_an_empty_body(answers: list[Answer]) -> None:
    assert answers[len(CALLS)].json == {"success": True, "cache_cleared": 0, "cache_size": 0}


def test_what_was_removed_on_purpose_is_refused_with_the_reason(answers: list[Answer]) -> None:
    path, field = answers[-2:]
    assert (path.status, field.status, field.json["field"]) == (404, 400, "nsfw_optimization")
    for answer in (path, field):
        assert "what may be said is the caller's decision" in answer.json["error"]
