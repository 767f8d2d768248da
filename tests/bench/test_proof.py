"""`make gpu-proof`: a plan that ends in time, whatever its steps do; what a GPU says in them needs one."""

import json
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bench import harness, proof
from bench.proof import LIMIT_S, STEPS, Step, run, tables
from bench.proof_steps import STEPS as OWN
from tests.support.kernels import CUDA

PRINTS = """
print("noise")
print("**A table**\\n\\n| rows | tok/s |\\n| --- | --- |\\n| 1 | 159 |\\n| 8 | - |")
print("finding: fast enough")
print("written somewhere")
"""


def step(script: str, limit_s: float = 30, **changed: Any) -> Step:
    return Step(
        **{"name": "x", "question": "?", "arguments": ("-c", script), "limit_s": limit_s, "needs": (), **changed}
    )


def test_the_plan_is_the_first_hours_and_ends_within_ten_minutes() -> None:
    assert [one.name for one in STEPS] == [
        "self-check", "tests", "image", "profile", "attention", "captures", "decode", "identical",
        "scoring",
    ]  # fmt: skip
    assert sum(one.limit_s for one in STEPS) <= LIMIT_S < 600
    (image,) = (one for one in STEPS if one.skip)
    assert image.name == "image"


@pytest.mark.parametrize("one", [one for one in STEPS if not one.skip], ids=lambda one: one.name)
def test_each_step_runs_a_module_that_there_is(one: Step) -> None:
    flag, module, *arguments = one.arguments
    assert flag == "-m"
    assert find_spec(module) is not None
    assert module != "bench.proof_steps" or arguments[0] in OWN
    assert one.limit_s >= 2 * proof.LEAST_S


def test_every_step_of_its_own_is_in_the_plan() -> None:
    assert {one.arguments[2] for one in STEPS if "bench.proof_steps" in one.arguments} == {*OWN}


@pytest.mark.skipif(CUDA, reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line_and_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert proof.main(["--results", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("the proof needs a GPU that torch can use, but its torch ")
    assert not [*tmp_path.iterdir()]


def test_without_torch_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "find_spec", lambda _: None)
    assert proof.without_gpu() == "it has no torch"


def test_a_step_gives_its_tables_and_its_finding() -> None:
    result = run(step(PRINTS), 30)
    assert (result.state, result.finding) == ("passed", "fast enough")
    assert result.tables == [{"title": "A table", "columns": ["rows", "tok/s"], "rows": [["1", "159"], ["8", "-"]]}]
    assert result.tail[0] == "noise"


def test_tables_of_the_benches_are_read_as_they_print_them() -> None:
    one, two = harness.Table("Decoding, 7b", ["rows", "ms"]), harness.Table("Of a step", ["", "us"])
    one.add(64, 7.0)
    two.add("gaps", None)
    assert tables([*one.markdown().splitlines(), "", *two.markdown().splitlines()]) == [
        {"title": "Decoding, 7b", "columns": ["rows", "ms"], "rows": [["64", "7.00"]]},
        {"title": "Of a step", "columns": ["", "us"], "rows": [["gaps", "-"]]},
    ]


def test_a_step_that_fails_keeps_its_last_line() -> None:
    result = run(step("raise SystemExit('a kernel is wrong')"), 30)
    assert (result.state, result.finding) == ("failed", "a kernel is wrong")


def test_a_step_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(child)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    result = run(step(script, limit_s=2), 2)
    assert (result.state, result.finding) == ("out of time", "ended after 2 s")
    pid = int(child.read_text(encoding="utf-8"))
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    os.kill(pid, 9)
    raise AssertionError("a child outlives its step")


@pytest.mark.parametrize(
    ("changed", "left_s", "finding"),
    [
        ({"needs": ("pydantic", "no_such_module")}, 30, "this Python lacks no_such_module"),
        ({"skip": "needs the image"}, 30, "needs the image"),
        ({}, 3, "no time was left"),
    ],
)
def test_a_step_that_cannot_run_is_skipped_with_the_reason(
    changed: dict[str, Any], left_s: float, finding: str
) -> None:
    result = run(step("raise SystemExit('it was run')", **changed), left_s)
    assert (result.state, result.finding) == ("skipped", finding)


@pytest.mark.parametrize("failing", [False, True])
def test_all_steps_are_in_one_file_and_one_table_although_one_fails(
    failing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = (
        step(f"raise SystemExit({'1' if failing else '0'})", name="first"),
        step("", name="image", skip="needs the image"),
        step(PRINTS, name="last"),
    )
    monkeypatch.setattr(proof, "STEPS", steps)
    monkeypatch.setattr(proof, "without_gpu", lambda: None)
    monkeypatch.setattr(harness, "machine", lambda _: {"machine": "a GPU", "torch": "2.13.0", "triton": "3.7.1"})
    assert proof.main(["--results", str(tmp_path)]) == int(failing)
    written = json.loads((tmp_path / "proof-cuda.json").read_text(encoding="utf-8"))
    assert (written["machine"], written["torch"], written["triton"]) == ("a GPU", "2.13.0", "3.7.1")
    assert [one["state"] for one in written["steps"]] == ["failed" if failing else "passed", "skipped", "passed"]
    assert written["steps"][2]["tables"][0]["rows"] == [["1", "159"], ["8", "-"]]
    said = capsys.readouterr().out
    assert "torch 2.13.0, triton 3.7.1" in said
    assert "| last | passed |" in said


def test_a_name_that_is_no_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        proof.main(["--only", "decode,speed"])
    assert "no such step: speed" in capsys.readouterr().err
