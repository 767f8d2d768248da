"""The manifest: a directory is unchanged since its build, or the start ends and names the file that differs."""

import json
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from handler.errors import StartError
from handler.model import manifest
from handler.model.manifest import Hashing, Manifest

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 1000, "nested/merges.txt": b"a b\n"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three files and their manifest."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    files = {name: {"size": len(content), "sha256": sha256(content).hexdigest()} for name, content in FILES.items()}
    written = {"manifest": 1, "name": "Org/Name", "revision": None, "licence": None, "builder": "0.1.0", "files": files}
    (tmp_path / "manifest.json").write_text(json.dumps(written))
    return tmp_path


def read(directory: Path) -> Manifest:
    content = manifest.read(directory)
    assert content is not None
    return content


def test_an_unchanged_directory_passes_and_other_files_do_not_matter(directory: Path) -> None:
    (directory / "README.md").write_text("beside")
    content = read(directory)
    assert (content.name, content.revision, set(content.files)) == ("Org/Name", None, set(FILES))
    content.check_sizes()
    Hashing(content, lambda error: pytest.fail(str(error))).wait()


def test_a_directory_without_a_manifest_has_none(tmp_path: Path) -> None:
    assert manifest.read(tmp_path) is None


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_or_cut_short_is_found_by_its_size(directory: Path, name: str) -> None:
    content = read(directory)
    (directory / name).write_bytes(FILES[name][:-1])
    with pytest.raises(
        StartError, match=f"{name} has {len(FILES[name]) - 1} bytes, but .*says {len(FILES[name])}; rebuild"
    ):
        content.check_sizes()
    (directory / name).unlink()
    with pytest.raises(StartError, match=f"{name} is missing"):
        content.check_sizes()


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found_by_its_hash_while_the_start_goes_on(directory: Path, name: str) -> None:
    (directory / name).write_bytes(FILES[name][:-1] + bytes([FILES[name][-1] ^ 1]))
    content = read(directory)
    content.check_sizes()
    errors: list[StartError] = []
    with pytest.raises(StartError, match=f"{name} has the sha256 .*{content.files[name].sha256}; rebuild"):
        Hashing(content, errors.append).wait()
    assert [name in str(error) for error in errors] == [True]


def test_the_error_of_a_file_that_vanishes_while_it_is_hashed_names_it(directory: Path) -> None:
    content = read(directory)
    (directory / "config.json").unlink()
    with pytest.raises(StartError, match=r"config\.json cannot be read"):
        Hashing(content, lambda error: None).wait()


@pytest.mark.parametrize(
    "break_",
    [
        lambda content: "{",
        lambda content: "[]",
        lambda content: json.dumps({**content, "manifest": 2}),
        lambda content: json.dumps({**content, "files": {"x": {"size": 1}}}),
        lambda content: json.dumps({**content, "files": {"x": {"size": 1, "sha256": "short"}}}),
        lambda content: json.dumps({**content, "files": {"../x": {"size": 1, "sha256": "0" * 64}}}),
        lambda content: json.dumps({**content, "files": {"/etc/passwd": {"size": 1, "sha256": "0" * 64}}}),
        lambda content: json.dumps({key: value for key, value in content.items() if key != "name"}),
    ],
)
def test_a_manifest_in_another_format_is_refused(directory: Path, break_: Callable[[dict[str, object]], str]) -> None:
    file = directory / "manifest.json"
    file.write_text(break_(json.loads(file.read_text())))
    with pytest.raises(StartError, match=r"manifest\.json is not a manifest that this worker reads") as refused:
        manifest.read(directory)
    assert "\n" not in str(refused.value)


def test_a_mismatch_that_is_found_late_is_waited_for(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(self: Manifest, name: str) -> None:
        time.sleep(0.05)
        raise StartError(name)

    monkeypatch.setattr(Manifest, "check_hash", late)
    with pytest.raises(StartError):
        Hashing(read(directory), lambda error: None).wait()
