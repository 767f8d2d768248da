"""Finding the checkpoint: the named one is served, and one that cannot be served stops the start with its reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder import snapshot as builder
from handler.errors import StartError
from handler.model.snapshot import DEMO, INDEX, MODEL, Places, Snapshot, find

COMMIT, OTHER = "a" * 40, "b" * 40
Find = Callable[..., Snapshot]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A machine on which nothing lies anywhere yet."""
    return Places(tmp_path / "hub", tmp_path / "baked", tmp_path / "encoders")


@pytest.fixture
def found(places: Places) -> Find:
    """`find` on that machine, as a worker on RunPod."""

    def search(model_path: str | None = None, **options: Any) -> Snapshot:
        return find(
            model_path,
            **{"name": None, "revision": None, "on_runpod": True, "download": None, **options},
            places=places,
        )

    return search


def checkpoint(path: Path, shards: int = 1) -> Path:
    """A directory that looks like a checkpoint."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    names = [f"model-{number}.safetensors" for number in range(shards)] if shards > 1 else ["model.safetensors"]
    for name in names:
        (path / name).write_bytes(b"weights")
    if shards > 1:
        weight_map = {f"layer.{number}": name for number, name in enumerate(names)}
        (path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return path


def cached(places: Places, *commits: str, model: str = MODEL, main: str | None = None) -> Path:
    """A model in RunPod's cache; returns its directory."""
    repository = places.cache / f"models--{model.replace('/', '--')}"
    for commit in commits:
        checkpoint(repository / "snapshots" / commit)
    if main is not None:
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(main + "\n")
    return repository


def baked(places: Places, name: str = MODEL, revision: str | None = COMMIT) -> Path:
    """Weights in the image, as the builder leaves them."""
    path = checkpoint(places.baked)
    content = {"manifest": 1, "name": name, "revision": revision, "licence": None, "builder": "0", "files": {}}
    (path / "manifest.json").write_text(json.dumps(content))
    return path


def test_a_named_directory_comes_before_all_others(found: Find, places: Places, tmp_path: Path) -> None:
    cached(places, COMMIT)
    baked(places)
    snapshot = found(str(checkpoint(tmp_path / "my-model")))
    assert (snapshot.source, snapshot.name, snapshot.revision) == ("path", "my-model", None)


def test_runpods_cache_comes_before_the_image_and_the_image_before_a_download(found: Find, places: Places) -> None:
    baked(places)
    assert found(name=MODEL, download=None).source == "baked"
    cached(places, COMMIT)
    assert found().source == "cache"


def test_a_model_that_is_nowhere_is_downloaded_where_that_is_allowed(found: Find, tmp_path: Path) -> None:
    asked = []

    def download(name: str, revision: str | None) -> Path:
        asked.append((name, revision))
        return checkpoint(tmp_path / "models--Org--Name" / "snapshots" / COMMIT)

    snapshot = found(name="Org/Name", revision="main", download=download)
    assert (snapshot.source, snapshot.name, snapshot.revision) == ("download", "Org/Name", COMMIT)
    assert asked == [("Org/Name", "main")]


@pytest.mark.parametrize(
    ("name", "revision", "expected"),
    [(MODEL, None, builder.REVISION), (MODEL, OTHER, OTHER), ("Org/Name", None, None)],
)
def test_the_default_model_is_downloaded_at_the_commit_of_an_image(
    found: Find, tmp_path: Path, name: str, revision: str | None, expected: str | None
) -> None:
    asked = []

    def download(name: str, revision: str | None) -> Path:
        asked.append((name, revision))
        return checkpoint(tmp_path / "model")

    found(name=name, revision=revision, download=download)
    assert asked == [(name, expected)]
    assert builder.NAME == MODEL


@pytest.mark.parametrize("on_runpod", [False, True])
def test_a_model_that_is_named_and_nowhere_stops_the_start_and_no_other_stands_in(found: Find, on_runpod: bool) -> None:
    with pytest.raises(StartError, match="there are no weights"):
        found(name="Org/Name", on_runpod=on_runpod)


def test_a_name_chooses_within_the_cache_and_the_very_same_before_another_spelling(found: Find, places: Places) -> None:
    for model in (MODEL, "org/name", "Org/Name", "ORG/NAME"):
        cached(places, COMMIT, model=model)
    for model in ("org/name", "Org/Name", "ORG/NAME"):
        assert found(name=model).path.parents[1].name == f"models--{model.replace('/', '--')}"


def test_only_a_named_model_is_downloaded(found: Find) -> None:
    with pytest.raises(StartError, match="MODEL_PATH is not set"):
        found(download=lambda name, revision: pytest.fail("asked for"))


def test_the_demo_model_is_served_locally_and_by_name_alone_on_runpod(found: Find) -> None:
    assert found(on_runpod=False).source == "demo"
    assert found("demo").source == "demo"
    with pytest.raises(StartError, match="MODEL_PATH=demo"):
        found()


def test_a_file_is_refused_as_checkpoint(found: Find, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(StartError, match=r"MODEL_PATH=.*model.gguf: config.json is missing; set it to a directory"):
        found(str(tmp_path / "model.gguf"))


def test_the_error_without_any_checkpoint_names_the_places_searched(found: Find, places: Places) -> None:
    cached(places, COMMIT, model="qwen/qwen2.5-3b-instruct")
    places.baked.mkdir()
    with pytest.raises(StartError) as nothing:
        found()
    assert f"{MODEL} is not in {places.cache}, which has qwen/qwen2.5-3b-instruct: set MODEL_NAME" in str(nothing.value)
    assert "baked is empty, perhaps because a volume is mounted over it" in str(nothing.value)


def test_a_caches_directory_is_found_whatever_its_case_and_keeps_the_public_name(found: Find, places: Places) -> None:
    cached(places, COMMIT, model=MODEL.lower())
    snapshot = found()
    assert (snapshot.name, snapshot.revision, snapshot.path.name) == (MODEL, COMMIT, COMMIT)


@pytest.mark.parametrize(
    ("main", "revision", "commit"),
    [(COMMIT, None, COMMIT), (OTHER, None, OTHER), (OTHER, COMMIT, COMMIT), (COMMIT, "main", COMMIT)],
)
def test_of_two_snapshots_the_named_one_is_taken_else_main(
    found: Find, places: Places, main: str, revision: str | None, commit: str
) -> None:
    cached(places, COMMIT, OTHER, main=main)
    assert found(revision=revision).revision == commit


def test_the_only_snapshot_needs_no_ref_and_two_without_one_are_named(found: Find, places: Places) -> None:
    repository = cached(places, COMMIT)
    assert found().revision == COMMIT
    checkpoint(repository / "snapshots" / OTHER)
    with pytest.raises(StartError, match=f"{COMMIT}, {OTHER}: set MODEL_REVISION"):
        found()


def test_a_revision_that_the_cache_has_not_is_looked_for_in_the_image(found: Find, places: Places) -> None:
    cached(places, OTHER, main=OTHER)
    with pytest.raises(StartError, match=f"has no snapshot {COMMIT}, only {OTHER}: set MODEL_REVISION"):
        found(revision=COMMIT)
    baked(places)
    assert found(revision=COMMIT).source == "baked"


def test_a_cached_model_without_the_snapshot_that_main_names_is_an_error(found: Find, places: Places) -> None:
    repository = cached(places, COMMIT, main=OTHER)
    with pytest.raises(StartError, match=f"has no snapshot {OTHER}; RunPod's cached model is incomplete"):
        found()
    shutil.rmtree(repository / "snapshots")
    with pytest.raises(StartError, match="has no snapshot"):
        found()


def test_name_and_revision_of_the_image_come_from_its_manifest(found: Find, places: Places) -> None:
    baked(places, "Org/Name")
    snapshot = found()
    assert (snapshot.source, snapshot.name, snapshot.revision) == ("baked", "Org/Name", COMMIT)
    assert snapshot.manifest is not None
    assert snapshot.encoders(places) == places.encoders


@pytest.mark.parametrize("option", [{"name": "Org/Another"}, {"revision": OTHER}, {"name": MODEL, "revision": OTHER}])
def test_an_image_with_another_model_is_not_used_and_the_error_names_it(
    found: Find, places: Places, option: dict[str, str]
) -> None:
    baked(places)
    with pytest.raises(StartError, match=f"the image has {MODEL} at {COMMIT}: unset MODEL_NAME"):
        found(**option)


def test_another_model_than_the_images_is_downloaded_where_that_is_allowed(
    found: Find, places: Places, tmp_path: Path
) -> None:
    baked(places)
    snapshot = found(name="Org/Another", download=lambda name, revision: checkpoint(tmp_path / "Another"))
    assert (snapshot.source, snapshot.name) == ("download", "Org/Another")


def test_weights_in_the_image_without_a_manifest_were_not_made_by_the_builder(found: Find, places: Places) -> None:
    checkpoint(places.baked)
    with pytest.raises(StartError, match=r"has no manifest\.json; rebuild the image"):
        found()


@pytest.mark.parametrize("place", ["path", "cache", "baked"])
@pytest.mark.parametrize("what", ["config.json", "model.safetensors", "link"])
def test_an_incomplete_checkpoint_is_an_error_in_every_place(
    found: Find, places: Places, tmp_path: Path, place: str, what: str
) -> None:
    match place:
        case "path":
            path = checkpoint(tmp_path / "model")
        case "cache":
            path = cached(places, COMMIT) / "snapshots" / COMMIT
        case _:
            path = baked(places)
    (path / ("config.json" if what == "config.json" else "model.safetensors")).unlink()
    if what == "link":
        (path / "model.safetensors").symlink_to("../../blobs/gone")
    with pytest.raises(
        StartError, match="is a link to a missing file" if what == "link" else f"{what} is missing"
    ) as broken:
        found(str(path) if place == "path" else None)
    assert str(path) in str(broken.value)
    assert "\n" not in str(broken.value)


def test_a_shard_that_the_index_names_must_be_there(found: Find, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "model", shards=3)
    whole = found(str(path))
    assert [shard.name for shard in whole.shards()] == [f"model-{number}.safetensors" for number in range(3)]
    assert whole.bytes() == 3 * len(b"weights")
    (path / "model-1.safetensors").unlink()
    with pytest.raises(StartError, match=r"model-1\.safetensors is missing"):
        found(str(path))
    for broken in ("[]", "{}", '{"weight_map": {"x": 1}}'):
        (path / INDEX).write_text(broken)
        with pytest.raises(StartError, match="not an index of weight files"):
            found(str(path))


def test_a_download_that_left_something_out_is_an_error(found: Find, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StartError, match=r"config\.json is missing; delete that directory"):
        found(name="Org/Name", download=lambda name, revision: tmp_path / "empty")


def test_name_and_revision_come_from_a_hub_caches_directory_unless_they_are_set(found: Find, places: Places) -> None:
    path = str(cached(places, COMMIT, model="Org/Name") / "snapshots" / COMMIT)
    snapshot = found(path)
    assert (snapshot.name, snapshot.revision, snapshot.source) == ("Org/Name", COMMIT, "path")
    set_ = found(path, name="public", revision="abc")
    assert (set_.name, set_.revision) == ("public", "abc")
    demo = found("demo", name="public", revision="abc")
    assert (demo.name, demo.revision, demo.source) == ("public", "abc", "demo")


def test_encoders_beside_the_weights_come_before_the_images(found: Find, places: Places, tmp_path: Path) -> None:
    snapshot = found(str(checkpoint(tmp_path / "models" / "qwen")))
    assert snapshot.encoders(places) == places.encoders
    (tmp_path / "models" / "encoders").mkdir()
    assert snapshot.encoders(places) == tmp_path / "models" / "encoders"


def test_a_directory_that_cannot_be_read_is_named(found: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, **_: Any) -> str:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(StartError, match=r"config\.json cannot be read: Permission denied|cannot be read"):
        found(str(checkpoint(tmp_path / "model")))


def test_the_demo_model_is_complete() -> None:
    assert Snapshot(DEMO, "demo", "demo", None).shards() == (DEMO / "model.safetensors",)
