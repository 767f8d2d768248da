"""What the SDK is given before it starts."""

from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from handler.queue import sdk
from handler.queue.output import Job, Output
from handler.report import Report

runpod = sdk.load_sdk()
from runpod.serverless.modules import rp_fitness, rp_scale  # noqa: E402  # after `load_sdk`


async def nothing(job: Job) -> AsyncGenerator[Output, None]:
    return
    yield


def checks(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[], str | None], settled: Callable[[float], bool]
) -> list[Any]:
    """The fitness checks as the SDK would run them, in order."""
    monkeypatch.setattr(rp_fitness, "_fitness_checks", [])
    monkeypatch.setattr(rp_fitness, "_gpu_check_registered", False, raising=False)
    monkeypatch.setattr(rp_fitness, "_system_checks_registered", False, raising=False)
    monkeypatch.setattr(rp_scale, "JobScaler", rp_scale.JobScaler)  # so that it is there again after the test
    monkeypatch.setattr(runpod.serverless, "start", lambda config: None)
    sdk.serve(nothing, slots=1, fault=fault, settled=settled, health=Report())
    rp_fitness._ensure_gpu_check_registered()
    rp_fitness._ensure_system_checks_registered()
    return [*rp_fitness._fitness_checks]


def test_the_sdks_own_checks_wait_until_no_graph_is_left_to_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [True, False, False]
    first, *others = checks(monkeypatch, lambda: None, lambda timeout_s: answers.pop())
    assert first.__name__ == "engine_works"
    assert others
    first()
    assert answers == []


def test_the_first_check_ends_at_once_where_the_engine_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = checks(monkeypatch, lambda: "the engine has failed", lambda timeout_s: False)
    with pytest.raises(RuntimeError, match="the engine has failed"):
        first()
