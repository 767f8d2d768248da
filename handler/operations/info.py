"""What `info` tells: read from values at hand, waiting for no job and no step."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, assert_never

from handler.api.contracts import SECTIONS, InfoRequest, Section
from handler.api.replies import InfoReply
from handler.engine.protocol import Engine, ModelInfo
from handler.enhancement.enhancer import Enhancer
from handler.machine import memory
from handler.report import Report


@dataclass(frozen=True, slots=True)
class Info:
    """The worker's own facts, section by section."""

    engine: Engine
    model: ModelInfo
    report: Report
    #: the worker's version, its libraries' versions, its face: what does not change while it runs
    worker: Mapping[str, object]
    enhancer: Enhancer

    def reply(self, request: InfoRequest) -> InfoReply:
        """The sections asked for, or all of them."""
        told: dict[str, Any] = {}
        if request.clear_cache:
            cache = self.enhancer.rewriter.cache
            told = {"cache_cleared": cache.clear(), "cache_size": cache.describe()["size"]}
        sections = request.sections or (() if request.clear_cache else SECTIONS)
        return InfoReply.model_validate({**told, **{name: self._section(name) for name in sections}})

    def _section(self, name: Section) -> dict[str, Any]:
        match name:
            case "worker":
                return {**self.worker, **self.report.counters()}
            case "model":
                stops = list(self.model.stop_token_ids)
                defaults = dict(self.model.sampling_defaults)
                max_model_len = self.engine.max_model_len
                facts = {**asdict(self.model), "stop_token_ids": stops, "sampling_defaults": defaults}
                return {**facts, "max_model_len": max_model_len}
            case "health":
                status = self.engine.status()
                return {
                    "alive": status.alive,
                    "running": status.running,
                    "waiting": status.waiting,
                    "heartbeat_age_s": round(status.heartbeat_age_s, 3),
                    "engine": dict(status.details),
                }
            case "memory":
                return dict(memory.read())
            case "enhancement":
                return self.enhancer.describe()
            case "startup":
                return self.report.startup()
            case _:
                assert_never(name)
