"""The model that this worker serves, as OpenAI's routes name it. Knows no request."""

import hashlib
import time
from dataclasses import dataclass
from typing import Self

from handler.engine.protocol import Engine, ModelInfo


@dataclass(frozen=True, slots=True)
class Served:
    """The one model, the same in every reply."""

    name: str
    #: a short hash of everything but the request that an answer to a seed depends on
    fingerprint: str
    #: Unix time, in seconds
    created: int

    @classmethod
    def of(cls, model: ModelInfo, engine: Engine, version: str) -> Self:
        """The model that an engine runs; `version` is the worker's."""
        attention = engine.status().details.get("attention")
        parts = (model.name, model.revision, model.dtype, model.forward, model.device_type, attention, version)
        digest = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
        return cls(model.name, f"fp_{digest[:12]}", int(time.time()))
