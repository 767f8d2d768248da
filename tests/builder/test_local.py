"""The builder on a directory: a flat snapshot or a hub's cache is copied, verified and described as the hub's is."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from builder.__main__ import main
from builder.errors import BuildError
from builder.manifest import NAME as MANIFEST
from builder.snapshot import REVISION, Wish
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
    """As RunPod lays it out, with the folder's name in other case; blobs are named as the hub names them."""
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
    wished = {"MODEL_SOURCE": str(source), "MODEL_NAME": NAME, "HF_ENDPOINT": "http://127.0.0.1:9", **environ}
    return main([str(models), "--only", "weights"], wished, secret=models / "none")


def described(models: Path) -> Mapping[str, object]:
    told: dict[str, object] = json.loads((models / "weights" / MANIFEST).read_text(encoding="utf-8"))
    return told


@pytest.mark.parametrize("inside", ["", "hub"])
@pytest.mark.parametrize("revision", ["", "main", COMMIT])
def test_a_cache_serves_in_the_hubs_place(
    cache: Path, checkpoint: Path, tmp_path: Path, inside: str, revision: str
) -> None:
    assert build(cache / inside, tmp_path / "models", MODEL_REVISION=revision) == 0
    told = described(tmp_path / "models")
    assert (told["name"], told["revision"]) == (NAME, COMMIT)
    for path in (tmp_path / "models" / "weights").iterdir():
        assert not path.is_symlink()
        assert path.name == MANIFEST or path.read_bytes() == (checkpoint / path.name).read_bytes()
    assert build(cache, tmp_path / "models", MODEL_REVISION=revision) == 0


def test_a_cache_without_a_ref_serves_the_one_snapshot_that_it_has(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model,) = cache.glob("hub/*")
    (model / "refs" / "main").unlink()
    assert build(cache, tmp_path / "models") == 0
    assert described(tmp_path / "models")["revision"] == COMMIT
    (model / "snapshots" / OTHER).mkdir()
    assert build(cache, tmp_path / "others") == 1
    assert f"at {OTHER}, {COMMIT}, not at main" in capsys.readouterr().err


def test_a_flat_snapshot_without_a_manifest_has_no_revision(flat: Path, tmp_path: Path) -> None:
    assert build(flat, tmp_path / "models") == 0
    told = described(tmp_path / "models")
    assert (told["name"], told["revision"], told["licence"]) == (NAME, None, None)


def test_what_the_builder_built_is_a_source_and_keeps_its_revision(cache: Path, tmp_path: Path) -> None:
    assert build(cache, tmp_path / "models") == 0
    assert build(tmp_path / "models" / "weights", tmp_path / "copy", MODEL_REVISION=COMMIT) == 0
    assert described(tmp_path / "copy") == described(tmp_path / "models")
    assert build(tmp_path / "models" / "weights", tmp_path / "again") == 0


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda blob: change(blob), "hashes to"),
        (lambda blob: cut(blob), "hashes to"),
        (lambda blob: blob.unlink(), "leads nowhere: the cache is not whole"),
    ],
)
def test_a_cache_that_is_damaged_is_refused(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None], told: str
) -> None:
    (snapshot,) = cache.glob("hub/*/snapshots/*")
    harm((snapshot / shards(snapshot)[1]).resolve())
    assert build(cache, tmp_path / "models") == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "models" / "weights").exists()


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"MODEL_REVISION": OTHER}, f"has Org/Tiny at {COMMIT}, not at {OTHER}; set MODEL_REVISION"),
        ({"MODEL_NAME": "Org/Other"}, "neither a snapshot (config.json) nor a cache that has Org/Other"),
    ],
)
def test_a_cache_without_what_is_wished_for_is_refused(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], environ: Mapping[str, str], told: str
) -> None:
    assert build(cache, tmp_path / "models", **environ) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("environ", [{"MODEL_REVISION": OTHER}, {"MODEL_NAME": "Org/Other"}])
def test_a_directory_whose_manifest_says_something_else_is_refused(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], environ: Mapping[str, str]
) -> None:
    assert build(cache, tmp_path / "models") == 0
    assert build(tmp_path / "models" / "weights", tmp_path / "copy", **environ) == 1
    assert f"holds Org/Tiny at {COMMIT}, not Org/" in capsys.readouterr().err


def test_a_flat_snapshot_that_is_cut_short_is_refused(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(flat / shards(flat)[1])
    assert build(flat, tmp_path / "models") == 1
    assert "00002-of-00003.safetensors is no whole safetensors file" in capsys.readouterr().err
    assert not (tmp_path / "models" / "weights").exists()


def test_a_copy_is_never_taken_from_a_run_before(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "weights.partial").mkdir(parents=True)
    size = (flat / "LICENSE").stat().st_size
    (tmp_path / "models" / "weights.partial" / "LICENSE").write_bytes(b"?" * size)
    assert build(flat, tmp_path / "models") == 0
    assert (tmp_path / "models" / "weights" / "LICENSE").read_bytes() == (flat / "LICENSE").read_bytes()


@pytest.mark.parametrize(
    ("environ", "wish"),
    [
        ({}, Wish("Qwen/Qwen2.5-7B-Instruct", REVISION, None)),
        ({"MODEL_REVISION": COMMIT}, Wish("Qwen/Qwen2.5-7B-Instruct", COMMIT, None)),
        ({"MODEL_NAME": NAME, "ALLOW_UNPINNED": "true"}, Wish(NAME, None, None)),
        ({"MODEL_NAME": NAME, "MODEL_SOURCE": "/models"}, Wish(NAME, None, Path("/models"))),
        ({"MODEL_NAME": "", "MODEL_REVISION": "", "ALLOW_UNPINNED": "", "MODEL_SOURCE": ""},
         Wish("Qwen/Qwen2.5-7B-Instruct", REVISION, None)),
    ],
)  # fmt: skip
def test_the_environment_says_what_is_wished_for(environ: Mapping[str, str], wish: Wish) -> None:
    assert Wish.from_environment(environ) == wish


@pytest.mark.parametrize(
    "environ",
    [{"MODEL_NAME": NAME}, {"MODEL_REVISION": "main"}, {"MODEL_REVISION": COMMIT[:39], "ALLOW_UNPINNED": "0"}],
)
def test_a_wish_that_is_not_pinned_is_refused(environ: Mapping[str, str]) -> None:
    with pytest.raises(BuildError, match="needs a commit of 40 hex digits"):
        Wish.from_environment(environ)
