"""Kernels that are launched directly are those that Triton would launch, with the same arguments."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="there is no Triton for this platform")

from handler.ops import launching

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What is special in a call -> how it arrived at the launcher; see `tests.support.launches`."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TRITON")}
    environ["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-m", "tests.support.launches"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {call["special"]: call for call in map(json.loads, done.stdout.splitlines())}


def test_the_pinned_triton_is_one_whose_kernels_are_launched_directly() -> None:
    """Look at `CompiledKernel.run` of a new version, then add the version to `launching`."""
    assert launching.DIRECT


def test_each_kind_of_arguments_gets_the_kernel_that_triton_compiled_for_it(calls: dict[str, dict[str, Any]]) -> None:
    for special, call in calls.items():
        assert call["ours"] == [call["triton"]] * 3, special
    # all kinds of arguments are there: Triton has a kernel for each, and none for what changes from step to step
    assert len({call["triton"][0] for call in calls.values()}) == 11


def test_triton_binds_the_arguments_of_a_kind_once(calls: dict[str, dict[str, Any]]) -> None:
    through = {special: call["through"] for special, call in calls.items()}
    assert through.pop("a changing number of 64 bits") == 3  # seldom, and of several types
    assert {*through.values()} == {0, 1}
    for special in ("a changing number", "a changing number of 1", "a changing number that divides by 16"):
        assert through[special] == 0
    assert through["another pointer"] == 0
