"""`python -m handler` as a person runs it: a reply or one error, never a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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


def given(request: Any) -> tuple[str, str]:
    return "--test_input", json.dumps({"input": request})


def test_test_input_json_is_answered_with_readable_json_after_the_start_by_phase() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply["success"] is True
    assert all(word in reply["enhanced_prompt"] for word in reply["original_prompt"].split())
    assert [line.split()[0] for line in done.stderr.splitlines()[:4]] == ["imports", "weights", "packs", "engine"]


def test_a_chat_on_the_command_line_gets_a_finished_answer() -> None:
    done = run(*given({**CHAT, "max_tokens": 200, "temperature": 0}))
    assert (done.returncode, json.loads(done.stdout)["finish_reason"]) == (0, "stop")


def test_the_streaming_face_prints_chunks_and_then_the_reply() -> None:
    done = run(*given({**CHAT, "stream": True}), STREAMING="true")
    chunks, _, reply = done.stdout.partition("\n{\n")
    deltas = [json.loads(line) for line in chunks.splitlines()]
    assert done.returncode == 0
    assert "".join(chunk["delta"] for chunk in deltas) == json.loads("{\n" + reply)["response"]


def test_a_bad_request_exits_with_one_error_and_no_traceback() -> None:
    done = run(*given({**CHAT, "temperature": 5}))
    assert (done.returncode, json.loads(done.stdout)["error"]["field"]) == (1, "temperature")
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "environ", "cause"),
    [
        ((), {"STREAMING": "perhaps"}, "STREAMING='perhaps'"),
        (("--test_input", "{"), {}, "--test_input is not JSON"),
        (("--test_input", "[]"), {}, "--test_input is not a JSON object"),
        ((), {"MODEL_PATH": "/nowhere"}, "MODEL_PATH=/nowhere: no checkpoint there"),
        ((), {"MODEL_PATH": "", "RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1:1/$ID?gpu=x"}, "MODEL_PATH is not set"),
        ((), {"MAX_MODEL_LEN": "1000000"}, "MAX_MODEL_LEN is 1000000"),
        ((), {"KV_CACHE_GB": "100000"}, "KV_CACHE_GB is 100000"),
        ((), {"ATTENTION": "kernel"}, "kernel"),
        ((), {"PACKS_DIR": "/nowhere"}, "PACKS_DIR=/nowhere: no such directory"),
    ],
)
def test_a_start_that_cannot_be_says_why_in_one_line(
    arguments: tuple[str, ...], environ: dict[str, str], cause: str
) -> None:
    done = run(*arguments, cwd=None, **environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert cause in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("cannot start: ")
    assert "Traceback" not in done.stderr


def test_without_a_job_it_says_where_it_looked(tmp_path: Path) -> None:
    done = run(cwd=tmp_path)
    assert done.returncode == 1
    assert "test_input.json is not here" in done.stderr
