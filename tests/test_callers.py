"""Requests as edge functions already send them get every name that those callers read, over the real loop.

The names are those of earlier versions of this worker; a reply has the ones that apply to its request.
"""

import asyncio
import sys
from typing import Any, NamedTuple

import pytest

from handler.api.parse import parse
from handler.errors import InvalidRequest
from runpod_local import Platform

Json = dict[str, Any]
COMMAND = [sys.executable, "-u", "-m", "handler"]
#: the operator lets callers empty the cache of all, as earlier versions of this worker did
ENV = {"MODEL_PATH": "demo"}
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
HISTORY = [
    {"sender": "user", "content": "hello", "created_at": "2025-01-01T00:00:00Z"},
    {"sender": "assistant", "content": "Hi!", "created_at": "2025-01-01T00:00:01Z"},
]


class Row(NamedTuple):
    """A request, and the paths that its reply must have."""

    request: Json
    names: str
    #: paths with the value that they must have
    values: Json = {}  # noqa: RUF012  read, never written


CHAT = (
    "success response system_prompt_used message_id generation_time processing_time model_info.model_name "
    "model_info.model_loaded"
)
MESSAGE = f"{CHAT} conversation_history conversation_id context_type"
ENHANCE = (
    "success original_prompt enhanced_prompt generation_time enhancement_source cache_hit worker_optimizations.caching "
    "worker_optimizations.post_processing worker_optimizations.fallback_ready"
)
SDXL = " ".join(
    f"sdxl_optimizations.{name}"
    for name in (
        "has_quality_tags", "has_lighting", "has_technical_terms", "has_resolution", "has_anatomical_accuracy",
        "token_count",
    )
)  # fmt: skip
WAN = " ".join(
    f"wan_optimizations.{name}"
    for name in ("has_motion", "has_cinematography", "has_temporal_consistency", "has_quality", "token_count")
)
BY_ENTRY = f"{ENHANCE} job_type quality quality_score"
EDGE: Json = {
    "prompt": "a red fox in the snow",
    "system_prompt": "Rewrite the prompt for SDXL. Answer with the prompt.",
}

ROWS: dict[str, Row] = {
    "chat by messages": Row(
        {"operation": "chat", "messages": MESSAGES, "max_tokens": 20, "temperature": 0.7, "top_p": 0.9},
        CHAT,
        {"success": True, "system_prompt_used": "Be brief.", "model_info.model_loaded": True},
    ),
    "chat by message": Row(
        {
            "operation": "chat", "message": "Who are you?", "system_prompt": "Be brief.", "conversation_id": "c-1",
            "context_type": "roleplay", "conversation_history": HISTORY, "project_id": "p-1",
        },
        MESSAGE,
        {
            "context_type": "roleplay", "conversation_id": "c-1", "project_id": "p-1",
            "conversation_history.0": HISTORY[0],
        },
    ),
    "chat debug": Row(
        {
            "operation": "chat", "dry_run": True, "message": "hi", "system_prompt": "Be brief.",
            "conversation_history": HISTORY,
        },
        "system_prompt_received system_prompt_used messages_built no_override_detected pure_inference_mode",
        {
            "system_prompt_received": "Be brief.", "system_prompt_used": "Be brief.", "no_override_detected": True,
            "pure_inference_mode": True, "messages_built.0.role": "system", "messages_built.3.content": "hi",
        },
    ),
    "generate": Row(
        {"operation": "generate", "messages": MESSAGES, "max_tokens": 20, "temperature": 0.7, "top_p": 0.9},
        "success text",
        {"success": True},
    ),
    "enhance by messages": Row({"operation": "enhance", "messages": MESSAGES}, ENHANCE),
    "enhance by system_prompt": Row(
        {"operation": "enhance", **EDGE, "enhancement_type": "image", "context": {"scene": 3}},
        f"{ENHANCE} enhancement_type context",
        {"enhancement_source": "edge_function", "original_prompt": EDGE["prompt"], "cache_hit": False},
    ),
    "enhance by system_prompt for a job type": Row(
        {
            "operation": "enhance", **EDGE, "job_type": "sdxl_image_fast", "quality": "fast",
            "enhancement_type": "image", "context": {"scene": 3},
        },
        f"{BY_ENTRY} {SDXL} enhancement_type context",
        {
            "enhancement_source": "edge_function", "job_type": "sdxl_image_fast", "quality": "fast",
            "worker_optimizations.caching": False, "worker_optimizations.post_processing": True,
            "worker_optimizations.fallback_ready": False,
        },
    ),
    **{
        f"enhance for {job_type}": Row(
            {"operation": "enhance", "prompt": "a red fox in the snow", "job_type": job_type},
            f"{BY_ENTRY} {SDXL if job_type.startswith('sdxl') else WAN}".replace(
                " quality ", " " if job_type == "wan_7b_enhanced" else " quality "
            ),
            {
                "enhancement_source": "worker_fallback", "job_type": job_type, "worker_optimizations.caching": False,
                "worker_optimizations.post_processing": True, "worker_optimizations.fallback_ready": True,
            },
        )
        for job_type in (
            "sdxl_image_fast", "sdxl_image_high", "video_fast", "wan_video_fast", "video_high", "wan_video_high",
            "wan_7b_enhanced",
        )
    },
    **{
        f"enhance for the model {target}": Row(
            {
                "operation": "enhance", "original_prompt": "a red fox in the snow", "target_model": target,
                "quality": "high",
            },
            BY_ENTRY,
            {"original_prompt": "a red fox in the snow", "quality": "high"},
        )
        for target in ("sdxl", "wan", "universal")
    },
    "enhance for a model and a job type": Row(
        {"operation": "enhance", "prompt": "a red fox", "target_model": "wan", "job_type": "wan_video_high"},
        f"{BY_ENTRY} {WAN}",
        {"job_type": "wan_video_high", "quality": "high"},
    ),
    "an enhance that failed wholly": Row(
        {"operation": "enhance", **EDGE, "fallback": "original", "deadline_ms": 1},
        "success error enhanced_prompt degraded.code degraded.message",
        {
            "success": False, "enhanced_prompt": EDGE["prompt"], "enhancement_source": "emergency_fallback",
            "degraded.code": "deadline_exceeded",
        },
    ),
    "worker info": Row(
        {"operation": "info", "sections": ["worker"]},
        "worker.worker_type worker.model worker.endpoints",
        {
            "worker.worker_type": "pure_inference_engine", "worker.model": "demo",
            **{f"worker.capabilities.{name}": True for name in ("chat", "enhancement", "generation", "pure_inference")},
            **{f"worker.capabilities.{name}": False for name in ("hardcoded_prompts", "prompt_modification")},
        },
    ),
    "health": Row(
        {"operation": "info", "sections": ["health"]},
        "health.gpu_utilization health.memory_usage health.active_jobs health.uptime",
        {
            "health.status": "healthy", "health.architecture": "pure_inference_engine",
            "health.worker_type": "pure_inference_engine", "health.model_loaded": True,
            **{
                f"health.system_prompt_features.{name}": True
                for name in ("pure_inference_engine", "no_prompt_overrides", "respects_provided_prompts")
            },
        },
    ),
    "memory": Row(
        {"operation": "info", "sections": ["memory"]},
        "memory.total_vram memory.allocated_vram memory.available_vram memory.model_device memory.device_type",
        {"memory.model_loaded": True},
    ),
    "model info": Row(
        {"operation": "info", "sections": ["model"]},
        " ".join(
            f"model.{name}"
            for name in (
                "model_device", "device_type", "model_parameters", "model_size_gb", "torch_version", "cuda_available",
                "cuda_version", "gpu_name",
            )
        ),
        {"model.model_loaded": True, "model.model_name": "demo", "model.is_eval_mode": True},
    ),
    "enhancement info": Row(
        {"operation": "info", "sections": ["enhancement"]},
        " ".join(
            f"enhancement.{name}"
            for name in ("enhancement_system", "supported_job_types", "cache_size", "model_status", "endpoints")
        ),
    ),
    "cache clear": Row({"operation": "info", "clear_cache": True}, "success cache_cleared", {"cache_size": 0}),
}  # fmt: skip


@pytest.fixture(scope="module")
def outputs() -> dict[str, Json]:
    """The finished job of each row, by one worker."""

    async def serve() -> dict[str, Json]:
        async with Platform() as platform, platform.worker(COMMAND, env=ENV) as worker:
            await worker.ready()
            return {name: await platform.runsync(row.request) for name, row in ROWS.items()}

    return asyncio.run(serve())


def value_at(reply: Any, path: str) -> Any:
    """The value at a path; a KeyError or an IndexError where there is none."""
    for part in path.split("."):
        reply = reply[int(part)] if isinstance(reply, list) else reply[part]
    return reply


@pytest.mark.parametrize("name", ROWS)
def test_a_callers_request_completes_with_every_name_that_it_reads(name: str, outputs: dict[str, Json]) -> None:
    job, row = outputs[name], ROWS[name]
    assert job["status"] == "COMPLETED", job
    for path in row.names.split():
        value_at(job["output"], path)
    assert {path: value_at(job["output"], path) for path in row.values} == row.values


def test_a_field_that_was_not_asked_for_is_absent(outputs: dict[str, Json]) -> None:
    plain = outputs["enhance by system_prompt"]["output"]
    assert len(plain.keys() - {"enhancement_type", "context"}) <= 16
    assert len(outputs["enhance by system_prompt for a job type"]["output"]) <= 22
    assert len(outputs["enhance for sdxl_image_fast"]["output"]) <= 22
    for job in outputs.values():
        if "model_info" in job["output"]:  # info has nulls, where null is the answer
            assert not [path for path, value in _flat(job["output"]) if value is None]


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _flat(inner, f"{path}.{key}")]
    return [(path, value)]


@pytest.mark.parametrize("name", ["unrestricted_mode", "nsfw_optimization", "enhancement_request"])
def test_a_field_that_was_removed_on_purpose_is_refused_with_the_reason(name: str) -> None:

    with pytest.raises(InvalidRequest, match="what may be said is the caller's decision") as caught:
        parse({"operation": "chat", "message": "hi", name: True})
    assert caught.value.field == name


def test_what_an_operator_adds_to_prompts_turns_every_promise_about_them_false() -> None:
    promises = {
        "worker.capabilities.prompt_modification": True,
        "worker.capabilities.pure_inference": False,
        "health.system_prompt_features.pure_inference_engine": False,
        "health.system_prompt_features.no_prompt_overrides": False,
        "health.system_prompt_features.respects_provided_prompts": False,
    }

    async def scenario() -> None:
        env = {"MODEL_PATH": "demo", "MODEL_DEFAULT_SYSTEM": "true"}
        async with Platform() as platform, platform.worker(COMMAND, env=env) as worker:
            await worker.ready()
            info = (await platform.runsync({"operation": "info"}))["output"]
            assert {path: value_at(info, path) for path in promises} == promises
            dry = (await platform.runsync(ROWS["chat debug"].request))["output"]
            assert (dry["no_override_detected"], dry["pure_inference_mode"]) == (False, False)

    asyncio.run(scenario())
