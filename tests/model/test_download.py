"""Downloading at the start: from a hub on loopback into the cache and onto the wire, or one line that says why not."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handler.model.snapshot import DEMO
from tests.support.hub import COMMIT, Hub, Repo

ROOT = Path(__file__).parents[2]
CHAT = {"input": {"operation": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}}


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    """The URL of a hub with the demo model as `Org/Name`."""
    with Hub({"Org/Name": Repo(DEMO)}) as server:
        yield server.url


def run(home: Path, hub: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A local start that knows no more than a model's name."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MODEL_"))}
    return subprocess.run(
        [sys.executable, "-m", "handler", "--test_input", json.dumps(CHAT)],
        env={**inherited, "PYTHONPATH": str(ROOT), "HF_HOME": str(home), "HF_ENDPOINT": hub, **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_model_is_downloaded_by_its_name_and_served_from_the_cache_when_the_hub_is_gone(
    hub: str, tmp_path: Path
) -> None:
    first = run(tmp_path, hub, MODEL_NAME="Org/Name")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["model_info"]["revision"] == COMMIT
    lines = [json.loads(line) for line in first.stderr.splitlines()]
    assert lines[0]["message"] == "downloading Org/Name, revision main"
    assert "download" in [line.get("source") for line in lines]
    again = run(tmp_path, "http://127.0.0.1:1", MODEL_NAME="Org/Name")
    assert json.loads(again.stdout)["model_info"] == json.loads(first.stdout)["model_info"]


FETCH = "from handler.model.download import fetch; print(fetch('Org/Name', {revision!r}, lambda line: None))"


def fetched(home: Path, hub: str, revision: str | None) -> subprocess.CompletedProcess[str]:
    """A download without a start."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(home), "HF_ENDPOINT": hub}
    environ.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", FETCH.format(revision=revision)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_files_in_folders_of_the_repository_are_not_downloaded(tmp_path: Path) -> None:
    repository = shutil.copytree(DEMO, tmp_path / "repository")
    for name in ("original/params.json", "onnx/deep/model.safetensors", "original/merges.txt", "a/chat_template.jinja"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("{}")
    with Hub({"Org/Name": Repo(repository)}) as server:
        done = fetched(tmp_path / "home", server.url, None)
        names = {name for _, name, _, _ in server.requests}
    path = Path(done.stdout.strip())
    assert path.name == COMMIT, done.stderr
    assert {file.name for file in path.iterdir()} >= {"config.json", "model.safetensors"}
    assert not [file for file in path.iterdir() if file.is_dir()]
    assert not [name for name in names if "/" in name]


@pytest.mark.parametrize(
    ("name", "gone"), [("Org/Another", False), ("Org/Name", True), ("no name at all", False)], ids=str
)
def test_a_download_that_fails_gives_the_reason_in_one_line(hub: str, tmp_path: Path, name: str, gone: bool) -> None:
    done = run(tmp_path, "http://127.0.0.1:1" if gone else hub, MODEL_NAME=name)
    assert (done.returncode, done.stdout) == (1, "")
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["message"].startswith(f"cannot start: {name} cannot be downloaded (")
    assert "Traceback" not in done.stderr


def test_on_runpod_nothing_is_downloaded_without_leave(hub: str, tmp_path: Path) -> None:
    environ = {"MODEL_NAME": "Org/Name", "RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1:1/$ID?gpu=x"}
    refused = run(tmp_path, hub, **environ)
    assert (refused.returncode, list(tmp_path.iterdir())) == (1, [])
    assert "ALLOW_DOWNLOAD=1" in refused.stderr
    allowed = run(tmp_path, hub, **environ, ALLOW_DOWNLOAD="1")
    assert json.loads(allowed.stdout)["success"] is True


def test_progress_comes_as_lines_with_what_there_is_and_what_there_will_be(hub: str, tmp_path: Path) -> None:
    script = "from handler.model import download; download.PROGRESS_S = 0; download.fetch('Org/Name', 'main', print)"
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub}
    environ.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert "downloading Org/Name: 0.01 of 0.01 GB" in done.stdout.splitlines()
    assert all(line.startswith("downloading Org/Name") for line in done.stdout.splitlines())
