"""What is installed is what the lock files name: one version of each library, and no file without a known hash."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-cuda.lock", "requirements-dev.lock", "requirements-sbom.lock")


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """The version and the hashes of each library of a lock file."""
    text = (ROOT / name).read_text(encoding="utf-8")
    entries = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    found = {}
    for entry in entries:
        match = re.match(r"([a-z0-9-]+)==(\S+)", entry)
        assert match, entry
        assert match[1] not in found
        found[match[1]] = match[2], re.findall(r"--hash=sha256:([0-9a-f]{64})\b", entry)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_library_has_hashes(name: str) -> None:
    libraries = locked(name)
    assert libraries
    assert not [library for library, (_, hashes) in libraries.items() if not hashes]


def test_no_library_has_two_versions() -> None:
    worker, cuda, dev = (locked(name) for name in LOCKS[:3])
    assert not worker.keys() & cuda.keys()
    both = {**worker, **cuda}
    assert {name: one for name, one in dev.items() if name in both} == {
        name: both[name] for name in dev.keys() & both.keys()
    }


def test_torch_is_in_the_lock_of_cudas_libraries_at_the_projects_version() -> None:
    assert "torch" not in locked("requirements.lock")
    version, _ = locked("requirements-cuda.lock")["torch"]
    assert f'"torch=={version}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_image_installs_nothing_without_a_hash_and_gets_every_file_that_it_copies() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    installs = re.findall(r"pip install [^&\n]*", dockerfile)
    assert len(installs) == 2
    assert all("--require-hashes" in install for install in installs)
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    for path in " ".join(copied).split():
        assert any(path.startswith(entry[1:].rstrip("/")) for entry in allowed if entry.startswith("!")), path
