"""By the report of ptxas, without a GPU: what the sampler's kernels take on each of RunPod's GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="there is no Triton for this platform")

ROOT = Path(__file__).parents[2]
ARCHITECTURES = (80, 86, 89, 90, 100, 120)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TRITON")}
    environ["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-m", "tests.support.registers"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def of(kernels: list[dict[str, Any]], what: str, *names: str) -> dict[tuple[str, int], Any]:
    return {(k["kernel"], k["architecture"]): k[what] for k in kernels if k["kernel"] in names}


def test_three_programs_of_the_sampler_fit_a_multiprocessor(kernels: list[dict[str, Any]]) -> None:
    """65,536 registers for 3 programs of 256 threads. With 218, one fitted, and a step's search took 37 waves."""
    registers = of(kernels, "registers", "_process", "_narrow", "_draw")
    assert len(registers) == 3 * len(ARCHITECTURES)
    assert {at: count for at, count in registers.items() if count > 85} == {}
    assert {*of(kernels, "spilled", "_process", "_narrow", "_draw", "_pick").values()} == {0}


def test_a_draw_compares_its_tokens_in_float32(kernels: list[dict[str, Any]]) -> None:
    """Desktop GPUs compute float64 at a 64th of the rate."""
    assert {*of(kernels, "double", "_draw").values()} == {False}


def test_noise_is_the_same_on_every_gpu(kernels: list[dict[str, Any]]) -> None:
    """Divisions and logarithms are rounded correctly, not approximated by the device."""
    found = of(kernels, "inexact", "_process", "_draw")
    assert {at: names for at, names in found.items() if names} == {}
