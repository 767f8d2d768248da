"""A directory as a source: a flat snapshot, or a Hugging Face cache. Files are copied. Knows no network."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from builder import manifest
from builder.errors import BuildError
from builder.listing import Digest, File, Listing


class Directory:
    """A `Source`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._snapshot = path

    def list(self, name: str, revision: str | None) -> Listing:
        """As `Source.list`. A flat snapshot has the revision that its manifest names, if it has a manifest."""
        if (self._path / "config.json").is_file():
            return self._list_flat(name, revision)
        return self._list_cache(name, revision)

    def fetch(self, listing: Listing, files: Sequence[File], directory: Path) -> None:
        """As `Source.fetch`."""
        for file in files:
            try:
                opened = (self._snapshot / file.origin).open("rb")
            except OSError as error:
                raise BuildError(f"MODEL_SOURCE: {error.filename}: {error.strerror}") from None
            with opened, (directory / file.origin).open("wb") as copy:
                shutil.copyfileobj(opened, copy, 1 << 20)

    def _list_flat(self, name: str, revision: str | None) -> Listing:
        found = manifest.read(self._path)
        if found is None:
            return Listing(name, None, None, self._files(self._path))
        if found.name != name or (revision and found.revision and found.revision != revision):
            asked = Listing(name, revision, None, ())
            raise BuildError(f"MODEL_SOURCE={self._path} holds {found}, not {asked}; set MODEL_NAME and MODEL_REVISION")
        return found

    def _list_cache(self, name: str, revision: str | None) -> Listing:
        # RunPod's cache may write the folder's name in lower case.
        folder_name = f"models--{name.replace('/', '--')}".casefold()
        folders = [folder for root in (self._path, self._path / "hub") if root.is_dir() for folder in root.iterdir()]
        found = next((folder for folder in folders if folder.name.casefold() == folder_name), None)
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
        self._snapshot = found / "snapshots" / commit
        return Listing(name, commit, None, self._files(self._snapshot))

    def _files(self, root: Path) -> tuple[File, ...]:
        files = []
        for path in sorted(root.iterdir()):
            if path.is_symlink() and not path.exists():
                raise BuildError(f"MODEL_SOURCE: {path} links to no file: the cache is incomplete; download it again")
            if path.is_file():
                files.append(File(path.name, path.stat().st_size, _digest(path), origin=path.name))
        return tuple(files)


def _digest(path: Path) -> Digest | None:
    """The expected hash of a file in a cache: the name of the blob that it links to. None outside of a cache."""
    blob = path.resolve().name
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob):
        return Digest("sha256" if len(blob) == 64 else "git", blob)
    return None
