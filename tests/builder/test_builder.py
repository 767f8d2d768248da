"""The builder on a hub: what is whole, verified and described gets its name, and nothing else does."""

import hashlib
import json
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest

import builder
import handler
from builder.assembly import assemble
from builder.errors import BuildError, of_disk
from builder.hub import Hub as Source
from builder.listing import File, Listing, Tell
from builder.manifest import NAME as MANIFEST
from builder.progress import Progress
from handler.model import weights
from handler.model.snapshot import find
from tests.support.building import NAME, Build, change_tensor, sharded, shards
from tests.support.hub import COMMIT, LISTING, Hub, Repo

TOKEN = "hf_secretsecretsecret"
SHARD = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharded(tmp_path_factory.mktemp("repo") / "tiny")


@pytest.fixture
def hub(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with Hub({NAME: Repo(checkpoint)}) as served:
        yield served
        huggingface_hub.close_session()


@pytest.fixture
def build(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Build:
    return Build(hub, tmp_path / "models", capsys)


@pytest.fixture
def broken(hub: Hub, checkpoint: Path, tmp_path: Path) -> Path:
    """The hub's checkpoint, to break."""
    shutil.copytree(checkpoint, tmp_path / "broken")
    hub.repos[NAME] = Repo(tmp_path / "broken")
    return tmp_path / "broken"


def test_the_command_builds_what_the_worker_loads_and_describes_every_byte_of_it(
    build: Build, checkpoint: Path
) -> None:
    with build.process() as process:
        out, _ = process.communicate()
    assert process.returncode == 0, out
    assert "\r" not in out
    assert [path.name for path in build.models.iterdir()] == ["weights"]
    manifest = json.loads((build.weights / MANIFEST).read_text(encoding="utf-8"))
    files = manifest.pop("files")
    assert manifest == {
        "manifest": 1, "name": NAME, "revision": COMMIT, "licence": "apache-2.0", "builder": builder.__version__,
    }  # fmt: skip
    assert set(files) == {path.name for path in build.weights.iterdir()} - {MANIFEST}
    assert set(files) == {
        "LICENSE", "chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", INDEX, *shards(checkpoint),
    }  # fmt: skip
    for name, told in files.items():
        content = (checkpoint / name).read_bytes()
        assert (build.weights / name).read_bytes() == content
        assert told == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    found = find(str(build.weights), name=None, revision=None, on_runpod=True)
    info = weights.load(found, device="cpu").info
    assert (info.name, info.revision, info.dtype) == (NAME, COMMIT, "bfloat16")


def test_the_builders_version_is_the_workers() -> None:
    assert builder.__version__ == handler.__version__


def test_a_second_run_says_so_and_asks_for_nothing(build: Build, hub: Hub) -> None:
    assert build() == 0
    hub.requests.clear()
    assert build() == 0
    assert (build.out.count("\n"), hub.requests) == (1, [])
    assert "is in place" in build.out


def test_a_killed_run_leaves_nothing_that_a_start_would_take_and_the_next_goes_on(
    build: Build, hub: Hub, checkpoint: Path
) -> None:
    hub.fault(SHARD, held=True)
    others = {LISTING, "config.json", INDEX, "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"}
    with build.process() as process:
        assert process.stdout is not None
        brought: set[str] = set()
        while not brought > set(shards(checkpoint)) - {SHARD}:
            brought.add(process.stdout.readline().strip().partition(",")[0])
        process.kill()
    hub.go_on.set()
    assert [path.name for path in build.models.iterdir()] == ["weights.partial"]
    hub.requests.clear()
    assert build() == 0
    assert "are here from a run before" in build.out
    assert {name for _, name, _, _ in hub.requests} & others == {LISTING}
    (asked,) = set(hub.asked(SHARD))
    assert asked is not None
    assert asked.startswith("bytes=")


def test_an_interrupted_run_says_so_in_a_line(build: Build, hub: Hub) -> None:
    hub.fault(SHARD, held=True)
    with build.process() as process:
        assert process.stdout is not None
        while "verified" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        hub.go_on.set()
        out = process.stdout.read()
    assert process.returncode == 1
    assert "builder: interrupted; run again" in out, out


@pytest.mark.parametrize(
    ("file", "fault", "waits"),
    [
        (LISTING, {"status": 503, "times": 2}, [1.0, 2.0]),
        ("config.json", {"status": 500}, [1.0]),
        (SHARD, {"status": 429, "headers": {"Retry-After": "7"}}, [7.0]),
        (SHARD, {"status": 429, "headers": {"RateLimit": '"resolvers";r=0;t=51'}}, [51.0]),
        (SHARD, {"status": 429, "headers": {"Retry-After": "9999"}}, [300.0]),
        (SHARD, {"drop_after": 1000, "times": 3}, [1.0, 1.0, 1.0]),
        (SHARD, {"drop_after": 0, "times": 2}, [1.0, 2.0]),
        (SHARD, {"cut_to": 1000}, [1.0]),
    ],
)
def test_what_passes_is_waited_for(
    build: Build, hub: Hub, file: str, fault: dict[str, Any], waits: list[float]
) -> None:
    hub.fault(file, **fault)
    assert build() == 0
    assert build.waits == waits


@pytest.mark.parametrize(
    ("file", "fault", "told"),
    [
        (LISTING, {"status": 401}, r"shows no such model; check MODEL_NAME"),
        (LISTING, {"status": 403}, r"is gated: accept its terms .* hf_token"),
        (
            LISTING,
            {"status": 404, "headers": {"X-Error-Code": "RevisionNotFound"}},
            r"no such revision; check MODEL_REV",
        ),
        (LISTING, {"status": 503, "times": 9}, r"the hub answered 503; try again later"),
        (LISTING, {"status": 429, "times": 9}, r"allows no more requests for now \(429\); wait"),
        ("config.json", {"status": 404}, r"config.json of Org/Tiny at 0123\w+: the hub does not have it \(404\)"),
        (SHARD, {"status": 403, "headers": {"X-Error-Code": ""}}, r"refuses access \(403\); it needs a token"),
        (SHARD, {"status": 502, "times": 9}, r"the hub answered 502"),
        (SHARD, {"drop_after": 0, "times": 9}, r"no connection to http://127.0.0.1:\d+, 5 times"),
        (SHARD, {"cut_to": 1000, "times": 9}, r"00002-of-00003.safetensors .*: the hub (answered 416|sent less)"),
        (SHARD, {"wrong": True}, r"00002-of-00003.safetensors hashes to \w{64}, not to \w{64} .*run again"),
        ("config.json", {"wrong": True}, r"config.json hashes to \w{40}, not to \w{40} .*run again"),
    ],
)
def test_what_does_not_pass_ends_in_one_line(
    build: Build, hub: Hub, file: str, fault: dict[str, Any], told: str
) -> None:
    hub.fault(file, **fault)
    line = build.fails()
    assert line.startswith("builder: ")
    assert re.search(told, line), line
    assert len(build.waits) <= 4
    hub.heal()
    assert build() == 0


def test_no_network_names_the_ways_round_it(build: Build) -> None:
    line = build.fails(HF_ENDPOINT="http://127.0.0.1:9")
    assert "check the network, or name a mirror with HF_ENDPOINT or a directory with MODEL_SOURCE" in line


def test_an_endpoint_that_is_no_hub_is_told(build: Build, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fault(LISTING, status=200)
    assert "does not answer as a hub does; check HF_ENDPOINT" in build.fails()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set: unset it" in build.fails()


def drop_shard(path: Path) -> None:
    (path / SHARD).unlink()


def add_shard(path: Path) -> None:
    shutil.copy(path / SHARD, path / "consolidated.safetensors")


def drop_index(path: Path) -> None:
    (path / INDEX).unlink()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (drop_shard, f"{INDEX} names {SHARD}, which the source does not have"),
        (add_shard, f"{INDEX} does not name consolidated.safetensors"),
        (drop_index, f"{INDEX} does not name model-00001"),
        (lambda path: (path / INDEX).write_text("{}"), f"{INDEX} cannot be read"),
        (lambda path: change_tensor(path / SHARD), f"{SHARD} holds other tensors than {INDEX} says"),
        (lambda path: (path / "config.json").unlink(), "has no config.json"),
        (lambda path: (path / "tokenizer.json").unlink(), "has no tokenizer.json, nor vocab.json"),
        (lambda path: [(path / name).unlink() for name in shards(path)], "has no weights as safetensors"),
    ],
)
def test_a_snapshot_that_is_not_whole_is_refused(
    build: Build, broken: Path, harm: Callable[[Path], object], told: str
) -> None:
    harm(broken)
    assert told in build.fails()


def test_shards_are_not_fetched_for_an_index_that_does_not_fit(build: Build, hub: Hub, broken: Path) -> None:
    drop_shard(broken)
    build.fails()
    assert not any(name.endswith(".safetensors") for _, name, _, _ in hub.requests)


def test_another_snapshots_beginning_is_never_built_upon(build: Build, hub: Hub, broken: Path) -> None:
    hub.fault("tokenizer.json", wrong=True)
    build.fails()
    (broken / "config.json").write_bytes((broken / "config.json").read_bytes() + b"\n")
    (build.models / "weights.partial" / "left-over.safetensors").touch()
    assert build() == 0
    assert (build.weights / "config.json").read_bytes() == (broken / "config.json").read_bytes()
    assert "left-over.safetensors" not in {path.name for path in build.weights.iterdir()}


@pytest.mark.parametrize("by", ["secret", "environment"])
def test_a_gated_model_takes_a_token_that_is_written_nowhere(build: Build, hub: Hub, checkpoint: Path, by: str) -> None:
    hub.repos[NAME] = Repo(checkpoint, token=TOKEN)
    assert "is gated" in build.fails()
    assert "is gated" in build.fails(HF_TOKEN="hf_wrongwrongwrong")
    assert "wrongwrong" not in build.out + build.err
    if by == "secret":
        build.secret.write_text(TOKEN + "\n", encoding="utf-8")
    environ = {} if by == "secret" else {"HF_TOKEN": TOKEN}
    hub.fault(SHARD, status=403)
    failed = build.fails(**environ)
    assert build(**environ) == 0
    build.secret.unlink(missing_ok=True)
    assert TOKEN not in failed + build.out + build.err
    for path in build.models.parent.rglob("*"):
        assert TOKEN not in str(path)
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes()


def test_a_token_that_someone_logged_in_with_is_not_sent(build: Build, hub: Hub) -> None:
    login = build.models.parent / ".cache" / "huggingface" / "token"
    login.parent.mkdir(parents=True)
    login.write_text(TOKEN, encoding="utf-8")
    with build.process() as process:
        process.communicate()
    assert {authorization for *_, authorization in hub.requests} == {None}


def test_what_cannot_be_a_token_is_not_sent_and_not_shown(build: Build, hub: Hub) -> None:
    assert build.fails(HF_TOKEN="two words") == "builder: HF_TOKEN does not hold a token of the hub's\n"
    assert not hub.requests


@pytest.mark.parametrize("revision", ["", "main", "v1.0", COMMIT[:12]])
def test_a_name_that_moves_is_refused(build: Build, hub: Hub, revision: str) -> None:
    assert "needs a commit of 40 hex digits" in build.fails(MODEL_REVISION=revision)
    assert "ALLOW_UNPINNED=maybe: 1 or 0" in build.fails(MODEL_REVISION=revision, ALLOW_UNPINNED="maybe")
    assert not hub.requests


@pytest.mark.parametrize("revision", ["", "main"])
def test_a_name_that_moves_becomes_a_commit_where_it_is_allowed(build: Build, revision: str) -> None:
    for _ in range(2):
        assert build(MODEL_REVISION=revision, ALLOW_UNPINNED="1") == 0
        assert json.loads((build.weights / MANIFEST).read_text(encoding="utf-8"))["revision"] == COMMIT


def test_the_default_model_has_a_commit_of_its_own(build: Build, hub: Hub, checkpoint: Path) -> None:
    pinned = "a09a35458c702b33eeacc393d103063234e8bc28"
    hub.repos["Qwen/Qwen2.5-7B-Instruct"] = Repo(checkpoint, pinned)
    assert build(MODEL_NAME="", MODEL_REVISION="") == 0
    manifest = json.loads((build.weights / MANIFEST).read_text(encoding="utf-8"))
    assert (manifest["name"], manifest["revision"]) == ("Qwen/Qwen2.5-7B-Instruct", pinned)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda path: (path / SHARD).unlink(), "is missing or damaged; remove"),
        (lambda path: (path / "config.json").write_text("{}"), "is missing or damaged; remove"),
        (lambda path: (path / MANIFEST).unlink(), f"is there, and has no {MANIFEST}; remove"),
        (lambda path: (path / MANIFEST).write_text("[]"), "is not a manifest"),
        (lambda path: (path / MANIFEST).write_text('{"files": {}, "name": "o/m", "revision": null, "licence": null}'),
         "holds o/m at a revision that is not known, not Org/Tiny at 0123"),
    ],
)  # fmt: skip
def test_what_stands_in_the_place_and_is_not_wished_for_is_left_alone(
    build: Build, hub: Hub, harm: Callable[[Path], object], told: str
) -> None:
    assert build() == 0
    harm(build.weights)
    before = {path: path.stat().st_mtime_ns for path in build.weights.iterdir()}
    assert build() == 1
    assert told in build.err
    assert before == {path: path.stat().st_mtime_ns for path in build.weights.iterdir()}


def test_a_full_disk_is_told_and_what_came_in_is_kept(build: Build, checkpoint: Path, hub: Hub) -> None:
    digest = hashlib.sha256((checkpoint / SHARD).read_bytes()).hexdigest()
    (build.models / "weights.partial").mkdir(parents=True)
    part = build.models / "weights.partial" / f"{SHARD}.{digest[:12]}.part"
    part.symlink_to("/dev/full")
    assert "the disk is full; make room, then run again" in build.fails()
    part.unlink()
    hub.requests.clear()
    assert build() == 0
    assert not hub.asked("config.json")


def test_a_range_that_the_hub_ignores_begins_the_file_anew(build: Build, hub: Hub) -> None:
    hub.fault(SHARD, drop_after=100_000)
    hub.fault(SHARD, whole=True)
    assert build() == 0


def test_a_beginning_that_is_longer_than_the_file_is_thrown_away(build: Build, checkpoint: Path) -> None:
    digest = hashlib.sha256((checkpoint / SHARD).read_bytes()).hexdigest()
    (build.models / "weights.partial").mkdir(parents=True)
    too_long = (checkpoint / SHARD).read_bytes() + b"?"
    (build.models / "weights.partial" / f"{SHARD}.{digest[:12]}.part").write_bytes(too_long)
    assert build() == 0


def test_a_disk_that_is_too_small_is_told_before_anything_comes_in(
    build: Build, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "needs 5.79 MB more, and its disk has 1 MB" in build.fails()
    assert {name for _, name, _, _ in hub.requests} == {LISTING}


def test_a_place_that_cannot_be_written_is_told(build: Build) -> None:
    build.models.write_text("a file", encoding="utf-8")
    assert "Not a directory" in build.fails()
    assert "name a directory that can be written" in str(
        of_disk(PermissionError(13, "Permission denied"), build.models)
    )
    assert isinstance(of_disk(OSError(30, "Read-only file system"), build.models), BuildError)


def test_progress_is_a_line_every_ten_seconds() -> None:
    lines: list[str] = []
    now = iter([0.0, 1.0, 12.0, 13.0, 23.0])
    progress = Progress(1_000_000_000, 15_231_000_000, lines.append, lambda: next(now))
    for count in (600_000_000, 600_000_000, -100_000_000, 1_000_000_000):
        progress.add(count)
    assert lines == ["  2.2 GB of 15.2 GB, 100 MB/s", "  3.1 GB of 15.2 GB, 91.3 MB/s"]


def test_one_file_that_fails_stops_the_others(tmp_path: Path) -> None:
    begun, stopped = threading.Event(), threading.Event()

    class Failing:
        def list(self, name: str, revision: str | None) -> Listing:
            raise NotImplementedError

        def fetch(self, listing: Listing, file: File, to: Path, tell: Tell) -> None:
            if file.name == "bad":
                begun.wait(5)
                raise BuildError("no such file")
            try:
                for _ in range(1_000):
                    begun.set()
                    tell(0)
                    time.sleep(0.01)
            except Exception:
                stopped.set()
                raise

    listing = Listing("a/b", None, None, tuple(File(name, 1, None, name) for name in ("bad", "good")))
    with pytest.raises(BuildError, match="no such file"):
        assemble(listing, Failing(), tmp_path / "made", lambda line: None)
    assert stopped.is_set()


def test_a_hub_that_brings_nothing_more_is_given_up_although_it_brought_something_first() -> None:
    tries: list[float] = []

    def attempt() -> None:
        assert len(tries) < 10, "asked without end"
        raise httpx2.ReadTimeout("slow")

    arrived = chain([0], repeat(7)).__next__
    with pytest.raises(BuildError, match="no connection"):
        Source("http://hub", None, tries.append)._patiently(attempt, "a file", arrived)
    assert tries == [1, 2, 4, 8]
