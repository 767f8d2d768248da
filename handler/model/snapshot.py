"""Finds the checkpoint to load, and its name and revision. Knows only paths, no tensor and no network."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from handler.errors import StartError
from handler.model import manifest
from handler.model.manifest import Manifest
from handler.model.one_line import is_printable

#: the checkpoint in the repository
DEMO = Path(__file__).parent / "demo"
#: model that is looked for in the cache where MODEL_NAME is not set
MODEL = "Qwen/Qwen2.5-7B-Instruct"
#: the commit of it that is downloaded where MODEL_REVISION is not set, as in an image
REVISION = "a09a35458c702b33eeacc393d103063234e8bc28"

#: `path`: MODEL_PATH; `cache`: RunPod's cached model; `baked`: in the image; `download`: from Hugging Face; `demo`
Source = Literal["path", "cache", "baked", "download", "demo"]
#: (name, revision) -> the directory that it was downloaded to
Download = Callable[[str, str | None], Path]

ADVICE: dict[Source, str] = {
    "path": "set it to a directory with a complete checkpoint",
    "cache": "RunPod's cached model is incomplete: restart the worker, or set the endpoint's Model again",
    "baked": "rebuild the image",
    "download": "delete that directory and start the worker again",
    "demo": "install the worker again",
}


@dataclass(frozen=True, slots=True)
class Places:
    """The directories that are searched where MODEL_PATH is not set."""

    #: RunPod's cached models, in the layout of a Hugging Face cache
    cache: Path = Path("/runpod-volume/huggingface-cache/hub")
    #: the checkpoint that `python -m builder` put into the image
    baked: Path = Path("/opt/models/weights")
    #: the tokenizers of text encoders that it put into the image
    encoders: Path = Path("/opt/models/encoders")


PLACES = Places()

#: index of a checkpoint with several weight files: tensor -> file
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A checkpoint directory with its name and revision."""

    path: Path
    source: Source
    name: str
    revision: str | None
    manifest: Manifest | None = None

    def shards(self) -> tuple[Path, ...]:
        """The weight files that the index names. Only file names count: all files are in the checkpoint's directory.

        Raises:
            StartError: a weight file or config.json is missing, or the index is damaged.
        """
        names = ["model.safetensors"]
        if (index := self.path / INDEX).is_file():
            try:
                files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
                names = sorted({Path(file).name for file in files})
            except manifest.DAMAGES:
                raise StartError(f"{INDEX} is not an index of weight files") from None
            if not all(map(is_printable, names)):
                raise StartError(f"{INDEX} names a weight file whose name is not printable")
        for name in ("config.json", *names):
            if not (self.path / name).is_file():
                raise StartError(
                    f"{name} is {'a link to a missing file' if (self.path / name).is_symlink() else 'missing'}"
                )
        return tuple(self.path / name for name in names)

    def bytes(self) -> int:
        """Total size of the weight files, in bytes."""
        return sum(shard.stat().st_size for shard in self.shards())

    def encoders(self, places: Places = PLACES) -> Path:
        """The directory of text encoders' tokenizers: beside the weights, else in the image."""
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
    """Find the checkpoint to load; the first of: MODEL_PATH, RunPod's cached model, the image's, a download, the demo.

    `download` is None where downloads are not allowed. On RunPod the demo model is served only for MODEL_PATH=demo.

    Raises:
        StartError: there is none of this name and revision, or the one to load is incomplete.
    """
    try:
        if model_path == "demo":
            return Snapshot(DEMO, "demo", name or "demo", revision)
        if model_path is not None:
            return _complete(Path(model_path).expanduser(), "path", name, revision)
        reasons = []
        for look in (_cached, _baked):
            found = look(places, name, revision)
            if isinstance(found, Snapshot):
                return found
            reasons.append(found)
        if name is not None and download is not None:
            pinned = REVISION if name == MODEL else None
            return _complete(download(name, revision or pinned), "download", name, None)
    except OSError as error:
        raise StartError(
            f"{error.filename} cannot be read: {error.strerror}; check its permissions and the volume"
        ) from None
    if not on_runpod and name is None:
        return Snapshot(DEMO, "demo", "demo", revision)
    raise StartError(
        f"MODEL_PATH is not set, and there are no weights ({'; '.join(reasons)}): set the endpoint's Model, build an "
        "image with weights, or set MODEL_NAME with ALLOW_DOWNLOAD=1; MODEL_PATH=demo serves the demo model"
    )


def _complete(path: Path, source: Source, name: str | None, revision: str | None) -> Snapshot:
    """The snapshot at a path, once all files that loading needs are found."""
    written = manifest.read(path)
    snapshot = Snapshot(
        path,
        source,
        name or (written.name if written else _name_of(path)),
        revision or (written.revision if written else _revision_of(path)),
        written,
    )
    try:
        snapshot.shards()
    except StartError as error:
        where = f"MODEL_PATH={path}" if source == "path" else str(path)
        raise StartError(f"{where}: {error}; {ADVICE[source]}") from None
    if not (is_printable(snapshot.name) and is_printable(snapshot.revision or "none")):
        raise StartError(
            f"the model's name {snapshot.name!r} or revision {snapshot.revision!r} is not a short line of printable "
            "characters; set MODEL_NAME and MODEL_REVISION"
        )
    return snapshot


def _cached(places: Places, name: str | None, revision: str | None) -> Snapshot | str:
    """RunPod's cached model, or the reason why there is none."""
    wanted = name or MODEL
    models = {_name_in_cache(path): path for path in _folders(places.cache) if path.name.startswith("models--")}
    # The platform may write the name of the directory in lower case.
    spelled = sorted((model for model in models if model.lower() == wanted.lower()), key=lambda model: model != wanted)
    if not spelled:
        others = f", which has {', '.join(sorted(models))}: set MODEL_NAME to serve that" if models else ""
        return f"{wanted} is not in {places.cache}{others}"
    repository = models[spelled[0]]
    snapshots = {path.name: path for path in _folders(repository / "snapshots")}
    ref = repository / "refs" / (revision or "main")
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    if commit is None and len(snapshots) == 1:
        (commit,) = snapshots
    if commit in snapshots:
        return _complete(snapshots[commit], "cache", wanted, commit)
    if revision is not None and snapshots:
        return f"{repository} has no snapshot {revision}, only {', '.join(sorted(snapshots))}: set MODEL_REVISION"
    if commit is None and snapshots:
        raise StartError(f"{repository} has the snapshots {', '.join(sorted(snapshots))}: set MODEL_REVISION to one")
    raise StartError(f"{repository} has no snapshot {commit or ''}; {ADVICE['cache']}".replace(" ;", ";"))


def _baked(places: Places, name: str | None, revision: str | None) -> Snapshot | str:
    """The weights in the image, or the reason why there are none."""
    if not places.baked.is_dir():
        return f"{places.baked} is not in the image"
    if not any(places.baked.iterdir()):
        return f"{places.baked} is empty, perhaps because a volume is mounted over it"
    written = manifest.read(places.baked)
    if written is None:
        raise StartError(f"{places.baked} has no {manifest.FILE}; {ADVICE['baked']}")
    if (name or written.name).lower() != written.name.lower() or (revision or written.revision) != written.revision:
        return f"the image has {written.name} at {written.revision}: unset MODEL_NAME and MODEL_REVISION to serve it"
    return _complete(places.baked, "baked", name, revision)


def _folders(path: Path) -> Iterator[Path]:
    return (entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else iter(())


def _name_in_cache(path: Path) -> str:
    """The model of a cache directory: `Qwen/Qwen3-4B` for `models--Qwen--Qwen3-4B`."""
    return path.name.removeprefix("models--").replace("--", "/")


def _name_of(path: Path) -> str:
    """The name of the directory; inside a Hugging Face cache the name of the model."""
    resolved = path.resolve()
    repository = next((part for part in (resolved, *resolved.parents) if part.name.startswith("models--")), None)
    return resolved.name if repository is None else _name_in_cache(repository)


def _revision_of(path: Path) -> str | None:
    name = path.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{40}", name) else None
