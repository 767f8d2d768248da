"""The packs of a worker: read from a directory, and searched for the entry that a request names.

Knows no request and no model.
"""

import json
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Self

from pydantic import JsonValue, ValidationError

from handler.api.enhance import PackFacts, Quality
from handler.enhancement.pack import Entry, Pack, Rules, Words
from handler.errors import InvalidRequest, NoPack, StartError


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pack, and the hash of the JSON that it was read from."""

    pack: Pack
    #: over the JSON with sorted keys and no white space, so that the layout of a file does not count
    sha256: str

    @property
    def facts(self) -> PackFacts:
        """The pack as a reply names it."""
        return PackFacts(id=self.pack.id, version=self.pack.version, sha256=self.sha256)

    @classmethod
    def of(cls, value: object) -> Self:
        """Check a pack given as parsed JSON.

        Raises:
            InvalidRequest: naming the field at fault.
        """
        canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        try:
            return cls(Pack.model_validate_json(canonical), sha256(canonical.encode()).hexdigest())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            path = ".".join(str(part)[:100] for part in ("pack", *first["loc"]))
            words = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
            raise InvalidRequest(f"{path}: {words}", field=path) from None


@dataclass(frozen=True, slots=True)
class Found:
    """An entry, with its name, its rules and its pack."""

    name: str
    entry: Entry
    rules: Rules
    loaded: Loaded

    @property
    def words(self) -> Words:
        """The pack's word lists."""
        return self.loaded.pack.words


@dataclass(frozen=True, slots=True)
class Packs:
    """The packs of one worker, or the one that a request brought."""

    loaded: tuple[Loaded, ...] = ()

    def find(self, job_type: str | None, target_model: str | None, quality: Quality | None) -> Found:
        """The entry that a job type names, or a target model and quality (`fast` where none was sent).

        Raises:
            NoPack: there is no such entry; the message lists the entries that there are.
            InvalidRequest: the entry is of the other quality, or of another target model.
        """
        for loaded in self.loaded:
            pack = loaded.pack
            name = job_type or pack.targets.get(target_model or "", {}).get(quality or "fast")
            entry = None if name is None else pack.entries.get(name)
            if name is not None and entry is not None:
                _check(pack, name, entry, target_model, quality)
                return Found(name, entry, pack.rules[entry.rules], loaded)
        entries = ", ".join(sorted(name for loaded in self.loaded for name in loaded.pack.entries)) or "none"
        targets = ", ".join(sorted(name for loaded in self.loaded for name in loaded.pack.targets)) or "none"
        raise NoPack(
            f"no such entry; job types: {entries}; target models: {targets}",
            field="job_type" if job_type is not None else "target_model",
        )


def _check(pack: Pack, name: str, entry: Entry, target_model: str | None, quality: Quality | None) -> None:
    """Refuse an entry that is not what the request names beside it."""
    if quality not in (None, entry.quality) and entry.quality is not None:
        raise InvalidRequest(f"job_type {name} is of quality {entry.quality}", field="quality")
    if target_model is not None and not pack.is_of(entry, target_model):
        raise InvalidRequest(
            f"job_type {name} is not of target_model {target_model}: send one of the two", field="target_model"
        )


def load(directory: Path) -> Packs:
    """Read every pack of a directory.

    Raises:
        StartError: a pack cannot be read, with file and field; or two packs have an entry or target of the same name.
    """
    if not directory.is_dir():
        raise StartError(f"the directory of packs {directory} does not exist: set PACKS_DIR to one that does")
    loaded: list[Loaded] = []
    owners: dict[tuple[str, str], str] = {}
    for path in sorted(directory.glob("*.json")):
        try:
            one = Loaded.of(json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_key_once))
        except InvalidRequest as error:
            raise StartError(f"PACKS_DIR: {path.name}: {error.message}") from None
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            raise StartError(f"PACKS_DIR: {path.name} is not readable JSON: {error}") from None
        for kind, names in (("id", [one.pack.id]), ("entry", one.pack.entries), ("target", one.pack.targets)):
            for name in names:
                if (owner := owners.setdefault((kind, name), path.name)) != path.name:
                    raise StartError(f"PACKS_DIR: {kind} {name} is in {owner} and in {path.name}")
        loaded.append(one)
    return Packs(tuple(loaded))


def _each_key_once(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    """Refuse two equal keys in one object; Python's parser would drop the first of them."""
    for key, times in Counter(key for key, _ in pairs).items():
        if times > 1:
            raise ValueError(f"the key {key!r} is in one object twice")
    return dict(pairs)
