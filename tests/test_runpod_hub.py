"""RunPod Hub's files in .runpod/ agree with the worker: its inputs with the settings, its tests with the requests."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import snapshot
from handler.api import parse
from handler.api.failure import Failure
from handler.job import Jobs
from handler.report import Report
from handler.settings import Settings
from handler.start import start

ROOT = Path(__file__).parents[1]
HUB, TESTS = (json.loads((ROOT / ".runpod" / name).read_text(encoding="utf-8")) for name in ("hub.json", "tests.json"))
INPUTS: list[tuple[str, dict[str, Any]]] = [(entry["key"], entry["input"]) for entry in HUB["config"]["env"]]
JOBS: list[dict[str, Any]] = [test["input"] for test in TESTS["tests"]]


def as_environment(value: object, field: dict[str, Any]) -> str:
    """The environment variable that the Hub sets for the value of a form's field."""
    if field["type"] == "boolean":
        return str(field["trueValue"] if value else field["falseValue"])
    return str(value)


def test_there_is_one_input_for_every_setting() -> None:
    assert [key for key, _ in INPUTS] == [name.upper() for name in Settings.model_fields]


def test_the_defaults_of_all_inputs_are_those_of_the_settings() -> None:
    environment = {key: as_environment(field.get("default", ""), field) for key, field in INPUTS}
    assert Settings.from_environment(environment) == Settings.from_environment({})


@pytest.mark.parametrize(("key", "field"), INPUTS, ids=[key for key, _ in INPUTS])
def test_the_setting_accepts_every_value_that_its_input_offers(key: str, field: dict[str, Any]) -> None:
    match field["type"]:
        case "boolean":
            offered: list[object] = [True, False]
        case "number":
            offered = [field.get("min", 0.5)]
        case _:
            offered = [option["value"] for option in field.get("options", ())]
    accepted = [Settings.from_environment({key: as_environment(value, field)}) for value in offered]
    assert len({settings.model_dump_json() for settings in accepted}) == len(offered)


def test_the_listing_has_what_the_hub_requires() -> None:
    assert {"title", "description", "type", "category", "config"} <= set(HUB)
    assert (HUB["type"], HUB["category"], HUB["config"]["runsOn"]) == ("serverless", "language", "GPU")
    assert {entry["input"]["type"] for entry in HUB["config"]["env"]} == {"string", "number", "boolean"}
    for name in ("Dockerfile", "README.md", ".runpod/handler.py"):
        assert (ROOT / name).is_file()


def test_the_listing_allows_every_cuda_version_from_that_of_the_image_on() -> None:
    versions = HUB["config"]["allowedCudaVersions"]
    image = re.search(r"PyTorch's wheels contain CUDA (\d+)\.(\d+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert image is not None
    major, minor = map(int, image.groups())
    # The list has no "and later". CUDA has a new minor version every few months: those to come are in it too.
    assert versions == [f"{major}.{minor + later}" for later in range(len(versions))]
    assert len(versions) >= 4
    deploy = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert f"| CUDA versions | {', '.join(versions)} and every later one |" in deploy


def test_the_hubs_tests_run_where_the_listing_runs() -> None:
    assert TESTS["config"]["allowedCudaVersions"] == HUB["config"]["allowedCudaVersions"]
    environment = {entry["key"]: entry["value"] for entry in TESTS["config"]["env"]}
    assert set(environment) <= {key for key, _ in INPUTS}
    settings = Settings.from_environment(environment)
    # so that an image with other or damaged weights does not start
    assert (settings.model_name, settings.model_revision) == (snapshot.NAME, snapshot.REVISION)
    assert settings.verify_weights == "hash"


@pytest.mark.parametrize("job", JOBS, ids=[test["name"] for test in TESTS["tests"]])
def test_the_hubs_jobs_are_valid_requests(job: dict[str, Any]) -> None:
    parse.parse(job)


@pytest.fixture(scope="module")
def demo() -> Iterator[Jobs]:
    worker = start(Settings.from_environment({"MODEL_PATH": "demo"}), Report())
    yield worker.jobs
    worker.engine.close()


def test_a_wrong_answer_fails_the_hubs_tests(demo: Jobs) -> None:
    """The Hub checks only the status, so a wrong answer must be an error. The demo model cannot write Chinese."""
    job = next(job for job in JOBS if job.get("language") == "zh")
    answer = asyncio.run(demo.answer({"id": "hub", "input": job}))
    assert isinstance(answer, Failure)
    assert answer.code == "bad_answer"


def test_the_hubs_entry_runs_the_worker() -> None:
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
