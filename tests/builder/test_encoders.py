"""The encoders' tokenizers: the builder fetches the genuine files, and the worker counts with them."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from builder.__main__ import main
from builder.encoders import ENCODERS
from builder.listing import Digest, Listing
from builder.manifest import NAME as MANIFEST
from handler.enhancement.encoder import load
from tests.support.enhancing import DATA, needs_data
from tests.support.hub import Hub, Repo

#: a genuine tokenizer of the same kind, with its own hash, in place of Wan's tokenizer.json, which is not in the data
STAND_IN = DATA / "t5-v1_1" / "tokenizer.json"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The two repositories that the encoders come from."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    repos = {}
    for folder, source in (("clip", DATA / "clip-vit-l-14"), ("umt5", STAND_IN.parent)):
        listing = ENCODERS[folder]
        for file in listing.files:
            (tmp_path / folder / file.origin).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / file.name, tmp_path / folder / file.origin)
        assert listing.revision is not None
        repos[listing.name] = Repo(tmp_path / folder, listing.revision)
    with Hub(repos) as served:
        yield served
        huggingface_hub.close_session()


def encoders_with_stand_in() -> dict[str, Listing]:
    (file,) = ENCODERS["umt5"].files
    content = STAND_IN.read_bytes()
    own = replace(file, size=len(content), digest=Digest("sha256", hashlib.sha256(content).hexdigest()))
    return {**ENCODERS, "umt5": replace(ENCODERS["umt5"], files=(own,))}


@needs_data
def test_the_worker_counts_with_the_files_that_the_builder_fetched(hub: Hub, tmp_path: Path) -> None:
    environ, secret = {"HF_ENDPOINT": hub.url}, tmp_path / "none"
    arguments = [str(tmp_path / "models"), "--only", "encoders"]
    assert main(arguments, environ, encoders=encoders_with_stand_in(), secret=secret) == 0
    built = tmp_path / "models" / "encoders"
    assert {str(path.relative_to(built)) for path in built.rglob("*") if path.is_file()} == {
        "clip/vocab.json", "clip/merges.txt", f"clip/{MANIFEST}", "umt5/tokenizer.json", f"umt5/{MANIFEST}",
    }  # fmt: skip
    encoders = load(built, "qwen", len)
    assert [encoders[name].measured_with for name in ("clip", "umt5")] == ["clip", "umt5"]
    assert encoders["clip"].count("a photo of a cat") == 5
    assert encoders["umt5"].count("a photo of a cat") == 7
    hub.requests.clear()
    assert main(arguments, environ, encoders=encoders_with_stand_in(), secret=secret) == 0
    assert not hub.requests


@needs_data
def test_a_file_that_is_not_the_pinned_one_is_refused(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fault("tokenizer/vocab.json", wrong=True)
    status = main([str(tmp_path / "models"), "--only", "encoders"], {"HF_ENDPOINT": hub.url}, secret=tmp_path / "none")
    assert status == 1
    assert "vocab.json hashes to" in capsys.readouterr().err
    assert not (tmp_path / "models" / "encoders" / "clip").exists()


def test_every_encoder_is_pinned_to_a_commit_and_to_its_bytes() -> None:
    assert set(ENCODERS) == {"clip", "umt5"}
    for listing in ENCODERS.values():
        assert listing.revision is not None
        assert len(listing.revision) == 40
        assert all(file.digest is not None and len(file.digest.hex) == 64 for file in listing.files)
