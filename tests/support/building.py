"""What the builder's tests share: a repository with a sharded checkpoint, and a call of the builder on it."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file

from builder.__main__ import main
from builder.pins import Pins
from handler.model.snapshot import DEMO
from tests.support.hub import COMMIT, Hub

NAME = "Org/Tiny"
ROOT = Path(__file__).parents[2]


def sharded(path: Path) -> Path:
    """The demo checkpoint in three shards, with files beside it that the worker does not read."""
    shutil.copytree(DEMO, path, ignore=shutil.ignore_patterns("*.safetensors"))
    save_torch_state_dict(load_file(DEMO / "model.safetensors"), path, max_shard_size="2MB")
    for name in ("README.md", "LICENSE", "pytorch_model.bin", "tiny-q4.gguf", "original/consolidated.safetensors"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(f"This is {name}.", encoding="utf-8")
    return path


def shards(path: Path) -> list[str]:
    """Names of a directory's shards, in order."""
    return sorted(file.name for file in path.glob("*.safetensors"))


class Build:
    """Calls the builder on a hub in this process, and keeps its output."""

    def __init__(self, hub: Hub, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._hub, self._capsys = hub, capsys
        self.models = models
        self.weights = models / "weights"
        self.secret = models.parent / "hf_token"
        #: see `builder.pins`
        self.pins: Pins = {}
        #: seconds of every pause
        self.waits: list[float] = []
        self.out = self.err = ""

    def environ(self, **more: str) -> Mapping[str, str]:
        return {"HF_ENDPOINT": self._hub.url, "MODEL_NAME": NAME, "MODEL_REVISION": COMMIT, **more}

    def __call__(self, **more: str) -> int:
        """The exit status."""
        status = main(
            [str(self.models), "--only", "weights"],
            self.environ(**more),
            pins=self.pins,
            secret=self.secret,
            wait=self.waits.append,
        )
        captured = self._capsys.readouterr()
        self.out, self.err = captured.out, captured.err
        return status

    def fails(self, **more: str) -> str:
        """The one line of a build that must fail, and must leave no directory that a start would take."""
        assert self(**more) == 1
        assert not self.weights.exists()
        assert self.err.count("\n") == 1
        return self.err

    def process(self, **more: str) -> subprocess.Popen[str]:
        """The command in a process of its own, for tests that end it or read its standard output."""
        return subprocess.Popen(
            [sys.executable, "-m", "builder", str(self.models), "--only", "weights"],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.models.parent), **self.environ(**more)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell's background jobs ignore SIGINT, and so do the children of such a job.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )


def change_tensor(path: Path) -> None:
    """Give a shard another name for one of its tensors."""
    tensors = load_file(path)
    tensors["renamed"] = tensors.pop(sorted(tensors)[0])
    save_file(tensors, path)
