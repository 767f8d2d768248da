"""Where the checkpoint is, and what it is called. Knows paths alone: no tensor and no network."""

import re
from dataclasses import dataclass
from pathlib import Path

from handler.errors import StartError

#: the checkpoint that comes with the code
DEMO = Path(__file__).parent / "demo"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A checkpoint directory, and what it is called."""

    path: Path
    #: `path` or `demo`
    source: str
    name: str
    revision: str | None


def find(model_path: str | None, *, name: str | None, revision: str | None, on_runpod: bool) -> Snapshot:
    """Say which checkpoint to load. The demo model is never served on RunPod unless it is asked for by name.

    Raises:
        StartError: there is none, or the directory holds none.
    """
    if model_path is None and on_runpod:
        raise StartError("MODEL_PATH is not set: name the directory of the weights, or `demo` for the demo model")
    if model_path is None or model_path == "demo":
        return Snapshot(DEMO, "demo", name or "demo", revision)
    path = Path(model_path).expanduser()
    if not (path / "config.json").is_file():
        raise StartError(f"MODEL_PATH={model_path}: no checkpoint there (config.json is missing)")
    return Snapshot(path, "path", name or _name_of(path), revision or _revision_of(path))


def _name_of(path: Path) -> str:
    """The directory's name; inside a hub cache the `Qwen/Qwen3-4B` that `models--Qwen--Qwen3-4B` stands for."""
    for part in reversed(path.resolve().parts):
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return path.resolve().name


def _revision_of(path: Path) -> str | None:
    name = path.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{40}", name) else None
