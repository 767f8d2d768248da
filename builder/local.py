"""A directory as a source: a flat snapshot, or a Hugging Face cache. Files are copied; knows no network."""

import re
import shutil
from pathlib import Path

from builder import manifest
from builder.errors import BuildError
from builder.listing import Digest, File, Listing, Tell


class Directory:
    """A `Source`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found = path

    def list(self, name: str, revision: str | None) -> Listing:
        """As `Source.list`. A flat snapshot has the revision that its manifest tells, if it has one."""
        if (self._path / "config.json").is_file():
            return self._flat(name, revision)
        return self._cached(name, revision)

    def fetch(self, listing: Listing, file: File, to: Path, tell: Tell) -> None:
        """As `Source.fetch`; what `to` holds already is copied again."""
        try:
            opened = (self._found / file.origin).open("rb")
        except OSError as error:
            raise BuildError(f"MODEL_SOURCE: {error.filename}: {error.strerror}") from None
        with opened, to.open("wb") as copy:
            shutil.copyfileobj(opened, copy, 1 << 20)
        tell(file.size)

    def _flat(self, name: str, revision: str | None) -> Listing:
        told = manifest.read(self._path)
        if told is None:
            return Listing(name, None, None, self._files(self._path))
        if told.name != name or (revision and told.revision and told.revision != revision):
            wished = Listing(name, revision, None, ())
            raise BuildError(f"MODEL_SOURCE={self._path} holds {told}, not {wished}; set MODEL_NAME and MODEL_REVISION")
        return told

    def _cached(self, name: str, revision: str | None) -> Listing:
        """RunPod's cache may have the folder's name in lower case."""
        wished = f"models--{name.replace('/', '--')}".casefold()
        folders = [folder for root in (self._path, self._path / "hub") if root.is_dir() for folder in root.iterdir()]
        found = next((folder for folder in folders if folder.name.casefold() == wished), None)
        if found is None:
            raise BuildError(f"MODEL_SOURCE={self._path}: neither a snapshot (config.json) nor a cache that has {name}")
        reference = found / "refs" / (revision or "main")
        commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
        commits = sorted(folder.name for folder in (found / "snapshots").glob("*"))
        if commit is None and len(commits) == 1:
            commit = commits[0]
        if commit not in commits:
            raise BuildError(
                f"MODEL_SOURCE={self._path} has {name} at {', '.join(commits) or 'no revision'}, not at"
                f" {commit or 'main'}; set MODEL_REVISION"
            )
        self._found = found / "snapshots" / commit
        return Listing(name, commit, None, self._files(self._found))

    def _files(self, root: Path) -> tuple[File, ...]:
        files = []
        for path in sorted(root.iterdir()):
            if path.is_symlink() and not path.exists():
                raise BuildError(f"MODEL_SOURCE: {path} leads nowhere: the cache is not whole")
            if path.is_file():
                files.append(File(path.name, path.stat().st_size, _digest(path), origin=path.name))
        return tuple(files)


def _digest(path: Path) -> Digest | None:
    """What a file in a cache hashes to: its blob there is named so."""
    blob = path.resolve().name
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob):
        return Digest("sha256" if len(blob) == 64 else "git", blob)
    return None
