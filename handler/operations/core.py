"""The parts that every operation works with: engine, template, packs, and the sources of time and chance."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import SystemRandom
from uuid import uuid4

from pydantic import JsonValue

from handler.engine.protocol import Engine, ModelInfo
from handler.enhancement.enhancer import Enhancer
from handler.model.template import Template
from handler.pool import Pool
from handler.report import Report
from handler.settings import PrefixSharing


def draw_seed() -> int:
    """A seed for a request that brought none; below 2**53, so that JavaScript reads it without loss."""
    return SystemRandom().randrange(2**53)


def utc_now() -> str:
    """The time of a new turn, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class WorkerConstants:
    """Facts about this worker that do not change while it runs."""

    version: str
    #: the size of the engine, as it was planned
    engine: dict[str, JsonValue]
    python: str
    #: versions by name
    libraries: dict[str, str]


@dataclass(frozen=True, slots=True)
class Core:
    """One engine with its model, and the sources of time and chance."""

    engine: Engine
    template: Template
    model: ModelInfo
    report: Report
    worker: WorkerConstants
    enhancer: Enhancer
    #: the system turn of conversations without one, where the operator wants the model's own; None adds nothing
    default_system: str | None = None
    prefix_sharing: PrefixSharing = "all"
    clock: Callable[[], float] = time.monotonic
    draw_seed: Callable[[], int] = draw_seed
    now: Callable[[], str] = utc_now
    new_id: Callable[[], str] = field(default=lambda: str(uuid4()))
    #: renders and encodes prompts, with the threads that asyncio's own pool would have
    encoding: Pool = field(default_factory=lambda: Pool("encoding", min(32, (os.cpu_count() or 1) + 4)))

    @property
    def adds_nothing(self) -> bool:
        """Whether the model reads the caller's messages and nothing else, for every request."""
        return self.default_system is None
