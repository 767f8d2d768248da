"""info: facts about the worker, read from values at hand; it waits for no job and no step."""

from collections.abc import AsyncGenerator
from typing import assert_never

from handler.api.info import (
    ARCHITECTURE,
    SECTIONS,
    Capabilities,
    EndTokenFacts,
    HealthSection,
    InfoReply,
    InfoRequest,
    MemorySection,
    ModelSection,
    PromptFeatures,
    Section,
    WorkerFacts,
)
from handler.api.reply import Reply
from handler.api.requests import REQUESTS
from handler.engine.fold import Piece
from handler.machine import gpu, memory
from handler.operations.core import Core

GB = 1e9


async def info(core: Core, request: InfoRequest) -> AsyncGenerator[Piece | Reply, None]:
    """Yield the sections that were asked for, or all of them."""
    reply = InfoReply()
    if request.clear_cache:
        # A caller clears its own: the enhancements of requests with the same salt, or of those without one.
        cleared = core.enhancer.rewriter.cache.clear(request.cache_salt)
        reply = InfoReply(cache_cleared=cleared, cache_size=0)
    for section in request.sections or (() if request.clear_cache else SECTIONS):
        reply = _with(core, reply, section)
    yield reply


def _with(core: Core, reply: InfoReply, section: Section) -> InfoReply:
    match section:
        case "worker":
            return reply.model_copy(update={"worker": _worker(core)})
        case "model":
            return reply.model_copy(update={"model": _model(core)})
        case "health":
            return reply.model_copy(update={"health": _health(core)})
        case "memory":
            return reply.model_copy(update={"memory": _memory(core)})
        case "enhancement":
            return reply.model_copy(update={"enhancement": core.enhancer.describe()})
        case "startup":
            return reply.model_copy(update={"startup": core.report.startup()})
        case _:
            assert_never(section)


def _worker(core: Core) -> WorkerFacts:
    worker, pure = core.worker, core.adds_nothing
    return WorkerFacts(
        worker_type=ARCHITECTURE,
        model=core.model.name,
        capabilities=Capabilities(
            chat="chat" in REQUESTS,
            enhancement="enhance" in REQUESTS,
            generation="generate" in REQUESTS,
            streaming=True,
            thinking=core.template.thinks != "never",
            logprobs=True,
            hardcoded_prompts=False,
            prompt_modification=not pure,
            pure_inference=pure,
        ),
        endpoints=tuple(REQUESTS),
        version=worker.version,
        engine=worker.engine,
        python=worker.python,
        libraries=worker.libraries,
        jobs=core.report.outcomes,
        tokens=core.report.tokens,
    )


def _model(core: Core) -> ModelSection:
    model = core.model
    torch_version, cuda_version = gpu.versions()
    return ModelSection(
        model_loaded=core.engine.status().alive,
        model_name=model.name,
        revision=model.revision,
        source=model.source,
        architecture=model.architecture,
        forward=model.forward,
        is_eval_mode=model.eval_mode,
        dtype=model.dtype,
        model_device=model.device,
        device_type=model.device_type,
        gpu_name=gpu.name(),
        torch_version=torch_version,
        cuda_available=gpu.usable(),
        cuda_version=cuda_version,
        model_parameters=model.parameters,
        model_size_gb=round(model.weight_bytes / GB, 3),
        vocab_size=model.vocab_size,
        context_length=model.context_length,
        max_model_len=core.engine.max_model_len,
        stop_token_ids=model.stop_token_ids,
        end_tokens=tuple(
            EndTokenFacts(token_id=end.token_id, token=end.token, sources=end.sources) for end in model.end_tokens
        ),
        thinking=core.template.thinks,
        sampling_defaults=dict(model.sampling_defaults),
    )


def _health(core: Core) -> HealthSection:
    status, held = core.engine.status(), memory.read()
    return HealthSection(
        status=core.report.state if status.alive else "broken",
        architecture=ARCHITECTURE,
        worker_type=ARCHITECTURE,
        model_loaded=status.alive,
        system_prompt_features=PromptFeatures(
            pure_inference_engine=core.adds_nothing,
            no_prompt_overrides=core.adds_nothing,
            respects_provided_prompts=core.adds_nothing,
        ),
        uptime=core.report.uptime_s,
        active_jobs=status.running + status.waiting,
        waiting=status.waiting,
        memory_usage=_gb(held["device_allocated"] or held["rss"]) or 0.0,
        gpu_utilization=gpu.utilization(),
        heartbeat_age_s=round(status.heartbeat_age_s, 3),
        engine=dict(status.details),
    )


def _memory(core: Core) -> MemorySection:
    held = memory.read()
    return MemorySection(
        model_loaded=core.engine.status().alive,
        model_device=core.model.device,
        device_type=core.model.device_type,
        total_vram=_gb(held["device_total"]),
        allocated_vram=_gb(held["device_allocated"]),
        reserved_vram=_gb(held["device_reserved"]),
        available_vram=_gb(held["device_free"]),
        host_used=_gb(held["rss"]),
        host_peak=_gb(held["peak_rss"]) or 0.0,
        host_available=_gb(held["host_available"]),
    )


def _gb(count: int | None) -> float | None:
    return None if count is None else round(count / GB, 3)
