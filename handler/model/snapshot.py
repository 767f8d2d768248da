"""Where the checkpoint is, and what it is called. Knows paths alone: no tensor and no network."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from handler.errors import StartError
from handler.model import manifest
from handler.model.manifest import Manifest

#: the checkpoint that comes with the code
DEMO = Path(__file__).parent / "demo"
#: what is looked for in a cache where no model is named
MODEL = "Qwen/Qwen2.5-7B-Instruct"

#: `path`: MODEL_PATH; `cache`: RunPod's cached model; `baked`: in the image; `download`: from Hugging Face; `demo`
Source = Literal["path", "cache", "baked", "download", "demo"]
#: (name, revision) -> the directory that it was downloaded to
Download = Callable[[str, str | None], Path]

CURES: dict[Source, str] = {
    "path": "name a directory with the whole checkpoint",
    "cache": "RunPod's cached model is not whole: restart the worker, or set the endpoint's Model anew",
    "baked": "rebuild the image",
    "download": "delete that directory and start again",
    "demo": "install the worker anew",
}


@dataclass(frozen=True, slots=True)
class Places:
    """Where checkpoints lie of which nobody names the directory."""

    #: RunPod's cached models, laid out as a Hugging Face cache
    cache: Path = Path("/runpod-volume/huggingface-cache/hub")
    #: what `python -m builder` put into the image
    baked: Path = Path("/opt/models/weights")
    #: the same for tokenizers of text encoders
    encoders: Path = Path("/opt/models/encoders")


PLACES = Places()

#: which weight file each tensor is in, for checkpoints of several
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A checkpoint directory, and what it is called."""

    path: Path
    source: Source
    name: str
    revision: str | None
    manifest: Manifest | None = None

    def shards(self) -> tuple[Path, ...]:
        """The weight files, as the index names them: beside it, whatever path it calls them by.

        Raises:
            StartError: one of them, or config.json, is not there.
        """
        names = ["model.safetensors"]
        if (index := self.path / INDEX).is_file():
            try:
                told = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
                names = sorted({Path(file).name for file in told})
            except (ValueError, TypeError, KeyError, AttributeError):
                raise StartError(f"{INDEX} is not an index of weights") from None
        for name in ("config.json", *names):
            if not (self.path / name).is_file():
                raise StartError(f"{name} is {'a link to nothing' if (self.path / name).is_symlink() else 'missing'}")
        return tuple(self.path / name for name in names)

    def bytes(self) -> int:
        """Size of the weight files."""
        return sum(shard.stat().st_size for shard in self.shards())

    def encoders(self, places: Places = PLACES) -> Path:
        """Where text encoders' tokenizers are: beside the weights, else in the image."""
        beside = self.path.parent / "encoders"
        return beside if beside.is_dir() else places.encoders


def find(
    model_path: str | None,
    *,
    name: str | None,
    revision: str | None,
    on_runpod: bool,
    download: Download | None = None,
    places: Places = PLACES,
) -> Snapshot:
    """Say which checkpoint to load: MODEL_PATH, RunPod's cached model, the image's, a download, or the demo model.

    `download` is None where that is not allowed. The demo model is never served on RunPod unless it is asked for.

    Raises:
        StartError: there is none, or the one to load is not whole, or it is not the one that `name` asks for.
    """
    try:
        if model_path == "demo":
            return Snapshot(DEMO, "demo", name or "demo", revision)
        if model_path is not None:
            return _whole(Path(model_path).expanduser(), "path", name, revision)
        missed = []
        for look in (_cached, _baked):
            found = look(places, name, revision)
            if isinstance(found, Snapshot):
                return found
            missed.append(found)
        if name is not None and download is not None:
            return _whole(download(name, revision), "download", name, None)
    except OSError as error:
        raise StartError(f"{error.filename} cannot be read: {error.strerror}") from None
    if not on_runpod and name is None:
        return Snapshot(DEMO, "demo", "demo", revision)
    raise StartError(
        f"MODEL_PATH is not set and there are no weights ({'; '.join(missed)}): set the endpoint's Model, build an "
        "image with weights, or set MODEL_NAME with ALLOW_DOWNLOAD=1; MODEL_PATH=demo serves the demo model"
    )


def _whole(path: Path, source: Source, name: str | None, revision: str | None) -> Snapshot:
    """The snapshot at a path, once everything is there that loading needs."""
    told = manifest.read(path)
    snapshot = Snapshot(
        path,
        source,
        name or (told.name if told else _name_of(path)),
        revision or (told.revision if told else _revision_of(path)),
        told,
    )
    try:
        snapshot.shards()
    except StartError as error:
        where = f"MODEL_PATH={path}" if source == "path" else str(path)
        raise StartError(f"{where}: {error}; {CURES[source]}") from None
    return snapshot


def _cached(places: Places, name: str | None, revision: str | None) -> Snapshot | str:
    """RunPod's cached model, or why there is none."""
    wanted = name or MODEL
    models = {_name_in_cache(path): path for path in _folders(places.cache) if path.name.startswith("models--")}
    # The platform may have written the directory's name in lower case.
    spelled = sorted((model for model in models if model.lower() == wanted.lower()), key=lambda model: model != wanted)
    if not spelled:
        others = f", but {', '.join(sorted(models))}: set MODEL_NAME to serve that" if models else ""
        return f"{wanted} is not in {places.cache}{others}"
    repository = models[spelled[0]]
    snapshots = {path.name: path for path in _folders(repository / "snapshots")}
    ref = repository / "refs" / (revision or "main")
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    if commit is None and len(snapshots) == 1:
        (commit,) = snapshots
    if commit in snapshots:
        return _whole(snapshots[commit], "cache", wanted, commit)
    if revision is not None and snapshots:
        return f"{repository} has no snapshot {revision}, but {', '.join(sorted(snapshots))}"
    if commit is None and snapshots:
        raise StartError(f"{repository} has the snapshots {', '.join(sorted(snapshots))}: name one as MODEL_REVISION")
    raise StartError(f"{repository} has no snapshot {commit or ''}; {CURES['cache']}".replace(" ;", ";"))


def _baked(places: Places, name: str | None, revision: str | None) -> Snapshot | str:
    """The image's own weights, or why there are none."""
    if not places.baked.is_dir():
        return f"{places.baked} is not in the image"
    if not any(places.baked.iterdir()):
        return f"{places.baked} is empty, perhaps for a volume mounted over it"
    told = manifest.read(places.baked)
    if told is None:
        raise StartError(f"{places.baked} has no {manifest.FILE}; {CURES['baked']}")
    if (name or told.name).lower() != told.name.lower() or (revision or told.revision) != told.revision:
        return f"the image holds {told.name} at {told.revision}: unset MODEL_NAME and MODEL_REVISION to serve that"
    return _whole(places.baked, "baked", name, revision)


def _folders(path: Path) -> Iterator[Path]:
    return (entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else iter(())


def _name_in_cache(path: Path) -> str:
    """The `Qwen/Qwen3-4B` that `models--Qwen--Qwen3-4B` stands for."""
    return path.name.removeprefix("models--").replace("--", "/")


def _name_of(path: Path) -> str:
    """The directory's name; inside a cache that of the model."""
    resolved = path.resolve()
    repository = next((part for part in (resolved, *resolved.parents) if part.name.startswith("models--")), None)
    return resolved.name if repository is None else _name_in_cache(repository)


def _revision_of(path: Path) -> str | None:
    name = path.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{40}", name) else None
