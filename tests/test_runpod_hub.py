"""What RunPod Hub reads of the repository is what the worker takes."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import snapshot
from handler.api import parse as door
from handler.api.failure import Failure
from handler.job import Jobs
from handler.report import Report
from handler.settings import Settings
from handler.start import start

ROOT = Path(__file__).parents[1]
HUB, TESTS = (json.loads((ROOT / ".runpod" / name).read_text(encoding="utf-8")) for name in ("hub.json", "tests.json"))
INPUTS: list[tuple[str, dict[str, Any]]] = [(entry["key"], entry["input"]) for entry in HUB["config"]["env"]]
JOBS: list[dict[str, Any]] = [test["input"] for test in TESTS["tests"]]


def as_environment(value: object, told: dict[str, Any]) -> str:
    """A form's value as the Hub sets it."""
    if told["type"] == "boolean":
        return str(told["trueValue"] if value else told["falseValue"])
    return str(value)


def test_there_is_one_input_for_every_setting() -> None:
    assert [key for key, _ in INPUTS] == [name.upper() for name in Settings.model_fields]


def test_a_deployment_that_takes_every_default_is_one_that_sets_nothing() -> None:
    environment = {key: as_environment(told.get("default", ""), told) for key, told in INPUTS}
    assert Settings.from_environment(environment) == Settings.from_environment({})


@pytest.mark.parametrize(("key", "told"), INPUTS, ids=[key for key, _ in INPUTS])
def test_what_an_input_offers_is_what_the_setting_takes(key: str, told: dict[str, Any]) -> None:
    match told["type"]:
        case "boolean":
            offered: list[object] = [True, False]
        case "number":
            offered = [told.get("min", 0.5)]
        case _:
            offered = [option["value"] for option in told.get("options", ())]
    taken = [Settings.from_environment({key: as_environment(value, told)}) for value in offered]
    assert len({settings.model_dump_json() for settings in taken}) == len(offered)


def test_the_listing_has_what_the_hub_requires() -> None:
    assert {"title", "description", "type", "category", "config"} <= set(HUB)
    assert (HUB["type"], HUB["category"], HUB["config"]["runsOn"]) == ("serverless", "language", "GPU")
    assert {entry["input"]["type"] for entry in HUB["config"]["env"]} == {"string", "number", "boolean"}
    for name in ("Dockerfile", "README.md", ".runpod/handler.py"):
        assert (ROOT / name).is_file()


def test_the_hubs_tests_run_where_the_listing_runs() -> None:
    assert TESTS["config"]["allowedCudaVersions"] == HUB["config"]["allowedCudaVersions"]
    environment = {entry["key"]: entry["value"] for entry in TESTS["config"]["env"]}
    assert set(environment) <= {key for key, _ in INPUTS}
    settings = Settings.from_environment(environment)
    # an image with other weights, or damaged ones, does not start
    assert (settings.model_name, settings.model_revision) == (snapshot.NAME, snapshot.REVISION)
    assert settings.verify_weights == "hash"


@pytest.mark.parametrize("job", JOBS, ids=[test["name"] for test in TESTS["tests"]])
def test_the_hubs_jobs_are_requests_that_the_door_lets_in(job: dict[str, Any]) -> None:
    door.parse(job)


@pytest.fixture(scope="module")
def demo() -> Iterator[Jobs]:
    worker = start(Settings.from_environment({"MODEL_PATH": "demo"}), Report())
    yield worker.jobs
    worker.engine.close()


def test_a_model_that_says_something_else_fails_the_hubs_tests(demo: Jobs) -> None:
    """The Hub looks at the status alone, so a wrong answer has to be an error. The demo model speaks no Chinese."""
    job = next(job for job in JOBS if job.get("language") == "zh")
    answer = asyncio.run(demo.answer({"id": "hub", "input": job}))
    assert isinstance(answer, Failure)
    assert answer.code == "bad_answer"


def test_the_hubs_entry_is_the_worker() -> None:
    job = json.dumps({"input": {"operation": "info", "sections": ["model"]}})
    ran = subprocess.run(
        [sys.executable, ROOT / ".runpod" / "handler.py", "--test_input", job],
        env={"MODEL_PATH": "demo", "PATH": "/usr/bin:/bin"},
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"source": "demo"' in ran.stdout
