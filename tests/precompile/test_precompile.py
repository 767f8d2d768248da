"""Without a GPU, every kernel of a decode step is compiled for each of RunPod's; a start then finds them all.

In a process of its own: tests of the kernels may have told Triton to interpret.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from handler.model.snapshot import DEMO

pytest.importorskip("triton", reason="there is no Triton for this platform")

KERNELS = {
    "_rms_norm", "_rotate_and_store", "_silu_mul", "_attend_split", "_combine", "_process", "_narrow", "_draw", "_pick",
}  # fmt: skip
#: steps of other sizes than the one that is rehearsed
OTHERS = """
from pathlib import Path
from handler.precompile import __main__ as rehearsal
from handler.precompile import cache as ahead
ahead.listen(lambda name, compiled, _: print(name, compiled))
for rows, width in ((1, 1), (2, 16), (7, 3), (64, 512), (300, 100)):
    with ahead.compiling_for(90):
        rehearsal.rehearse(Path({directory!r}), rows, width)
"""


def python(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TRITON")}
    return subprocess.run(
        [sys.executable, *arguments], env=environ | {"TRITON_CACHE_DIR": str(cache)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def kernels(lines: Sequence[str], word: str) -> list[str]:
    return [line.split()[0] for line in lines if re.search(rf"\b{word}\b", line)]


def test_a_step_of_any_size_finds_what_was_compiled_for_the_checkpoint(tmp_path: Path) -> None:
    done = python(tmp_path, "-m", "handler.precompile", str(DEMO))
    assert done.returncode == 0, done.stderr
    architectures = [line for line in done.stdout.splitlines() if line.startswith("sm_")]
    assert architectures == ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
    compiled = kernels(done.stdout.splitlines(), "compiled")
    assert {*compiled} == KERNELS
    assert len(compiled) == len(KERNELS) * len(architectures)
    again = python(tmp_path, "-c", OTHERS.format(directory=str(DEMO)))
    assert again.returncode == 0, again.stderr
    assert {*kernels(again.stdout.splitlines(), "False")} == KERNELS
    assert not kernels(again.stdout.splitlines(), "True")


def test_without_weights_there_is_nothing_to_compile(tmp_path: Path) -> None:
    done = python(tmp_path, "-m", "handler.precompile", str(tmp_path / "none"))
    assert (done.returncode, list(tmp_path.iterdir())) == (0, [])
    assert "no weights" in done.stdout
