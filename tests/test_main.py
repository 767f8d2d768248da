"""`python -m handler` as a person runs it: a reply or one error, never a traceback."""

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from handler.errors import DeviceLost, StartError
from handler.model import manifest
from handler.model.snapshot import DEMO
from handler.report import Report
from handler.settings import Settings
from handler.start import restart_on_plain_torch, start

CHAT = {"operation": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 12}


def run(*arguments: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-m", "handler", *arguments],
        cwd=cwd or root,
        env={**os.environ, "PYTHONPATH": str(root), "MODEL_PATH": "demo", **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def logged(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The log: each line is JSON of the same three keys, and facts."""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(set(line) >= {"requestId", "message", "level"} for line in lines)
    return lines


def given(request: Any) -> tuple[str, str]:
    return "--test_input", json.dumps({"input": request})


def test_test_input_json_is_answered_with_readable_json_after_the_start_by_phase() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply["success"] is True
    assert all(word in reply["enhanced_prompt"] for word in reply["original_prompt"].split())
    phases = ["find", "imports", "device", "weights", "packs", "engine", "warm-up"]
    lines = logged(done)
    assert lines[0]["model"] == "demo"
    assert [line["phase"] for line in lines[1 : len(phases) + 1]] == phases


def test_a_chat_on_the_command_line_gets_a_finished_answer() -> None:
    done = run(*given({**CHAT, "max_tokens": 200, "temperature": 0}))
    assert (done.returncode, json.loads(done.stdout)["finish_reason"]) == (0, "stop")


def test_a_job_that_is_streamed_prints_chunks_and_then_the_reply() -> None:
    done = run(*given({**CHAT, "stream": True}), STREAMING="true")
    assert "STREAMING has no effect" in done.stderr
    chunks, _, reply = done.stdout.partition("\n{\n")
    deltas = [json.loads(line) for line in chunks.splitlines()]
    assert done.returncode == 0
    assert "".join(chunk["delta"] for chunk in deltas) == json.loads("{\n" + reply)["response"]


#: refuses what would change a file, at the interpreter's audit events (docs.python.org); `open` has its flags last
READ_ONLY = """
import errno, os, runpy, sys
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime"}
def hook(event, arguments):
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in CHANGES) and not str(arguments[0]).startswith("/dev/"):
        sys.stderr.write(f"refused: {event} {arguments[0]}\\n")
        raise OSError(errno.EROFS, "Read-only file system", arguments[0])
sys.dont_write_bytecode = True
sys.addaudithook(hook)
runpy.run_module("handler", run_name="__main__", alter_sys=True)
"""


def test_a_read_only_file_system_is_enough_to_serve() -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, *given(CHAT)],
        env={**os.environ, "PYTHONPATH": str(root), "MODEL_PATH": str(root / "handler" / "model" / "demo")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, json.loads(done.stdout)["success"]) == (0, True), done.stderr
    assert "refused" not in done.stderr


def test_a_bad_request_exits_with_one_error_and_no_traceback() -> None:
    done = run(*given({**CHAT, "temperature": 5}))
    assert (done.returncode, json.loads(done.stdout)["error"]["field"]) == (1, "temperature")
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "environ", "cause"),
    [
        ((), {"ALLOW_DOWNLOAD": "perhaps"}, "ALLOW_DOWNLOAD='perhaps'"),
        (("--test_input", "{"), {}, "--test_input is not JSON"),
        (("--test_input", "[]"), {}, "--test_input is not a JSON object"),
        (("--test-input", "{}"), {}, "--test-input is no argument; there are --test_input and --rp_serve_api"),
        ((), {"MODEL_PATH": "/nowhere"}, "MODEL_PATH=/nowhere: config.json is missing"),
        ((), {"MODEL_PATH": "", "RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1:1/$ID?gpu=x"}, "MODEL_PATH is not set"),
        ((), {"MODEL_NAMES": "x"}, "did you mean MODEL_NAME"),
        ((), {"VERIFY_WEIGHTS": "hash"}, "has no manifest.json"),
        ((), {"MAX_MODEL_LEN": "1000000"}, "MAX_MODEL_LEN is 1000000"),
        ((), {"ROPE_SCALING": '{"rope_type": "yarn"}'}, "ROPE_SCALING: Value error, rope of type yarn needs a factor"),
        ((), {"KV_CACHE_GB": "100000"}, "KV_CACHE_GB is 100000"),
        ((), {"ATTENTION": "kernel"}, "kernel"),
        ((), {"PACKS_DIR": "/nowhere"}, "PACKS_DIR='/nowhere': Path does not point to a directory"),
    ],
)
def test_a_start_that_cannot_be_says_why_in_one_line(
    arguments: tuple[str, ...], environ: dict[str, str], cause: str
) -> None:
    done = run(*arguments, cwd=None, **environ)
    assert (done.returncode, done.stdout) == (1, "")
    last = logged(done)[-1]
    assert last["level"] == "ERROR"
    assert cause in last["message"]
    assert last["message"].startswith("cannot start: ")
    assert "Traceback" not in done.stderr


def test_a_start_that_fails_on_a_defect_says_where_and_what_without_a_traceback() -> None:
    script = (
        "import sys; from handler import __main__ as command\n"
        "def fail(*_): raise OSError('no space left')\n"
        "command.start = fail; sys.exit(command.main())\n"
    )
    command = [sys.executable, "-c", script, *given(CHAT)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    defect, last = logged(done)
    assert done.returncode == 1
    assert defect["message"] == "a defect of the worker: OSError"
    assert "fail" in defect["frames"][-1]
    assert last["message"] == "cannot start: no space left"


def lose(how: str, **environ: str) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """A start whose device is lost in the warm-up, and its log."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.losing", *given({**CHAT, "temperature": 0})],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "MODEL_PATH": "demo", "LOSE": how, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done, logged(done)


def test_a_device_that_is_lost_in_the_warm_up_is_served_by_plain_torch_in_the_same_process_started_again() -> None:
    done, lines = lose("kernels")
    assert (done.returncode, json.loads(done.stdout)["success"]) == (0, True)
    pids = [line["message"] for line in lines if line["message"].startswith("pid ")]
    assert len(pids) == 2
    assert pids[0] == pids[1]
    (warning,) = (line for line in lines if line["level"] == "WARN")
    assert warning["reason"] == "AcceleratorError: CUDA error: an illegal memory access was encountered"
    assert "the worker starts again, on plain torch" in warning["message"]


@pytest.mark.parametrize(
    ("how", "environ", "cause", "starts"),
    [
        ("always", {}, "the device failed on plain torch too (AcceleratorError: CUDA error: an illegal", 2),
        ("kernels", {"WORKER_LOST_DEVICE": "x", "ATTENTION": ""}, "the device failed on plain torch too", 1),
    ],
)
def test_a_device_that_is_lost_a_second_time_ends_the_start(
    how: str, environ: dict[str, str], cause: str, starts: int
) -> None:
    done, lines = lose(how, **environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert cause in lines[-1]["message"]
    assert lines[-1]["message"].endswith("start another worker")
    assert sum(line["message"].startswith("pid ") for line in lines) == starts


def test_kernels_that_the_operator_wants_are_not_replaced_after_a_lost_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started again"))
    with pytest.raises(StartError, match="ATTENTION=kernel, but the device failed"):
        restart_on_plain_torch(DeviceLost("a fault"), Settings(attention="kernel"), {})


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """The demo checkpoint with a manifest."""
    path = tmp_path / "weights"
    shutil.copytree(DEMO, path)
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    listed = {name: {"size": len(content), "sha256": sha256(content).hexdigest()} for name, content in files.items()}
    (path / "manifest.json").write_text(
        json.dumps({"manifest": 1, "name": "Org/Demo", "revision": "c" * 40, "files": listed}), encoding="utf-8"
    )
    return path


def test_weights_that_match_their_manifest_are_served_by_its_name(described: Path) -> None:
    done = run(*given(CHAT), MODEL_PATH=str(described), VERIFY_WEIGHTS="hash")
    assert done.returncode == 0, done.stderr
    info = json.loads(done.stdout)["model_info"]
    assert (info["model_name"], info["revision"]) == ("Org/Demo", "c" * 40)
    assert "verify" in done.stderr


@pytest.mark.parametrize("verify", ["size", "hash"])
def test_weights_that_are_not_the_manifests_end_the_start_and_name_the_file(described: Path, verify: str) -> None:
    weights = described / "model.safetensors"
    content = weights.read_bytes()
    # One byte less is seen at once; one bit, by its hash, while torch is being imported.
    weights.write_bytes(content[:-1] if verify == "size" else content[:-1] + bytes([content[-1] ^ 1]))
    done = run(*given(CHAT), MODEL_PATH=str(described), VERIFY_WEIGHTS=verify)
    assert (done.returncode, done.stdout) == (1, "")
    assert logged(done)[-1]["message"].startswith(f"cannot start: {weights} has ")
    assert "imports" not in done.stderr or verify == "hash"
    assert "Traceback" not in done.stderr


def test_nothing_is_served_before_the_last_file_is_hashed(described: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(manifest.Hashing):
        def wait(self) -> None:
            super().wait()
            raise StartError("the last file")

    monkeypatch.setattr(manifest, "Hashing", Late)
    settings = Settings(model_path=str(described), verify_weights="hash")
    with pytest.raises(StartError, match="the last file"):
        start(settings, Report())


def test_once_the_weights_are_found_no_connection_is_attempted(described: Path) -> None:
    """The audit begins before the first import: each resolved name and each connection prints a line."""
    script = (
        "import sys, runpy\n"
        "def audit(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname'):\n"
        "        print('network', event, arguments[1:], file=sys.stderr)\n"
        "sys.addaudithook(audit)\n"
        "sys.argv = ['handler', '--test_input', sys.argv[1]]\n"
        "runpy.run_module('handler', run_name='__main__')\n"
    )
    root = Path(__file__).parents[1]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", script, given(CHAT)[1]],
        env={**environ, "PYTHONPATH": str(root), "MODEL_PATH": str(described)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert json.loads(done.stdout)["success"] is True
    assert "network" not in done.stderr


def test_without_a_job_it_says_where_it_looked(tmp_path: Path) -> None:
    done = run(cwd=tmp_path)
    assert done.returncode == 1
    assert "test_input.json is not here" in done.stderr
