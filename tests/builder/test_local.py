"""The builder with MODEL_SOURCE: a flat snapshot or a hub's cache is copied and verified as a download is."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from builder.__main__ import main
from builder.errors import BuildError
from builder.manifest import NAME as MANIFEST
from builder.snapshot import REVISION, ModelChoice
from tests.support.building import sharded, shards
from tests.support.hub import git_of, sha256_of

NAME = "Org/Tiny"
COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
OTHER = "0" * 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharded(tmp_path_factory.mktemp("repo") / "tiny")


@pytest.fixture
def flat(checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint, tmp_path / "flat")


@pytest.fixture
def cache(checkpoint: Path, tmp_path: Path) -> Path:
    """A cache as RunPod's, with the folder's name in another case; blobs have the names that the hub gives them."""
    model = tmp_path / "cache" / "hub" / "models--org--Tiny"
    snapshot = model / "snapshots" / COMMIT
    for folder in (snapshot, model / "blobs", model / "refs"):
        folder.mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    for path in (path for path in checkpoint.iterdir() if path.is_file()):
        blob = sha256_of(path) if path.suffix == ".safetensors" else git_of(path)
        shutil.copy(path, model / "blobs" / blob)
        (snapshot / path.name).symlink_to(os.path.relpath(model / "blobs" / blob, snapshot))
    return tmp_path / "cache"


def build(source: Path, models: Path, **environ: str) -> int:
    environment = {"MODEL_SOURCE": str(source), "MODEL_NAME": NAME, "HF_ENDPOINT": "http://127.0.0.1:9", **environ}
    return main([str(models), "--only", "weights"], environment, secret=models / "none")


def read_manifest(models: Path) -> Mapping[str, object]:
    content: dict[str, object] = json.loads((models / "weights" / MANIFEST).read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("inside", ["", "hub"])
@pytest.mark.parametrize("revision", ["", "main", COMMIT])
def test_a_cache_replaces_the_hub(cache: Path, checkpoint: Path, tmp_path: Path, inside: str, revision: str) -> None:
    assert build(cache / inside, tmp_path / "models", MODEL_REVISION=revision) == 0
    content = read_manifest(tmp_path / "models")
    assert (content["name"], content["revision"]) == (NAME, COMMIT)
    for path in (tmp_path / "models" / "weights").iterdir():
        assert not path.is_symlink()
        assert path.name == MANIFEST or path.read_bytes() == (checkpoint / path.name).read_bytes()
    assert build(cache, tmp_path / "models", MODEL_REVISION=revision) == 0


def test_of_a_cache_without_refs_its_only_snapshot_is_taken(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model,) = cache.glob("hub/*")
    (model / "refs" / "main").unlink()
    assert build(cache, tmp_path / "models") == 0
    assert read_manifest(tmp_path / "models")["revision"] == COMMIT
    (model / "snapshots" / OTHER).mkdir()
    assert build(cache, tmp_path / "others") == 1
    assert f"at {OTHER}, {COMMIT}, not at main" in capsys.readouterr().err


def test_a_flat_snapshot_without_a_manifest_has_no_revision(flat: Path, tmp_path: Path) -> None:
    assert build(flat, tmp_path / "models") == 0
    content = read_manifest(tmp_path / "models")
    assert (content["name"], content["revision"], content["licence"]) == (NAME, None, None)


def test_a_built_directory_is_a_source_and_keeps_its_revision(cache: Path, tmp_path: Path) -> None:
    assert build(cache, tmp_path / "models") == 0
    assert build(tmp_path / "models" / "weights", tmp_path / "copy", MODEL_REVISION=COMMIT) == 0
    assert read_manifest(tmp_path / "copy") == read_manifest(tmp_path / "models")
    assert build(tmp_path / "models" / "weights", tmp_path / "again") == 0


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda blob: change(blob), "hashes to"),
        (lambda blob: cut(blob), "hashes to"),
        (lambda blob: blob.unlink(), "links to no file: the cache is incomplete"),
    ],
)
def test_a_damaged_cache_is_refused(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None], message: str
) -> None:
    (snapshot,) = cache.glob("hub/*/snapshots/*")
    harm((snapshot / shards(snapshot)[1]).resolve())
    assert build(cache, tmp_path / "models") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "models" / "weights").exists()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"MODEL_REVISION": OTHER}, f"has Org/Tiny at {COMMIT}, not at {OTHER}; set MODEL_REVISION"),
        ({"MODEL_NAME": "Org/Other"}, "neither a snapshot (config.json) nor a cache that has Org/Other"),
    ],
)
def test_a_cache_without_the_chosen_model_is_refused(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], environ: Mapping[str, str], message: str
) -> None:
    assert build(cache, tmp_path / "models", **environ) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("environ", [{"MODEL_REVISION": OTHER}, {"MODEL_NAME": "Org/Other"}])
def test_a_directory_whose_manifest_names_another_model_is_refused(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], environ: Mapping[str, str]
) -> None:
    assert build(cache, tmp_path / "models") == 0
    assert build(tmp_path / "models" / "weights", tmp_path / "copy", **environ) == 1
    assert f"holds Org/Tiny at {COMMIT}, not Org/" in capsys.readouterr().err


def test_a_flat_snapshot_with_an_incomplete_shard_is_refused(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(flat / shards(flat)[1])
    assert build(flat, tmp_path / "models") == 1
    assert "00002-of-00003.safetensors is not a complete safetensors file" in capsys.readouterr().err
    assert not (tmp_path / "models" / "weights").exists()


def test_a_copy_without_a_published_hash_is_made_again(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "weights.partial").mkdir(parents=True)
    size = (flat / "LICENSE").stat().st_size
    (tmp_path / "models" / "weights.partial" / "LICENSE").write_bytes(b"?" * size)
    assert build(flat, tmp_path / "models") == 0
    assert (tmp_path / "models" / "weights" / "LICENSE").read_bytes() == (flat / "LICENSE").read_bytes()


@pytest.mark.parametrize(
    ("environ", "choice"),
    [
        ({}, ModelChoice("Qwen/Qwen2.5-7B-Instruct", REVISION, None)),
        ({"MODEL_REVISION": COMMIT}, ModelChoice("Qwen/Qwen2.5-7B-Instruct", COMMIT, None)),
        ({"MODEL_NAME": NAME, "ALLOW_UNPINNED": "true"}, ModelChoice(NAME, None, None)),
        ({"MODEL_NAME": NAME, "MODEL_SOURCE": "/models"}, ModelChoice(NAME, None, Path("/models"))),
        ({"MODEL_NAME": "", "MODEL_REVISION": "", "ALLOW_UNPINNED": "", "MODEL_SOURCE": ""},
         ModelChoice("Qwen/Qwen2.5-7B-Instruct", REVISION, None)),
    ],
)  # fmt: skip
def test_the_environment_chooses_the_model(environ: Mapping[str, str], choice: ModelChoice) -> None:
    assert ModelChoice.from_environment(environ) == choice


@pytest.mark.parametrize(
    "environ",
    [{"MODEL_NAME": NAME}, {"MODEL_REVISION": "main"}, {"MODEL_REVISION": COMMIT[:39], "ALLOW_UNPINNED": "0"}],
)
def test_a_choice_that_is_not_pinned_is_refused(environ: Mapping[str, str]) -> None:
    with pytest.raises(BuildError, match="needs a commit of 40 hex digits"):
        ModelChoice.from_environment(environ)
