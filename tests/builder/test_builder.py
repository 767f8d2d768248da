"""The builder with a hub: a complete and verified directory gets its name, and no other does."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import huggingface_hub.file_download
import huggingface_hub.utils._http
import pytest

import builder
import handler
from builder.errors import BuildError, disk_error
from builder.manifest import NAME as MANIFEST
from builder.pins import PINS, Pin
from builder.progress import INTERVAL, Progress, directory_size
from builder.snapshot import NAME as DEFAULT
from builder.snapshot import REVISION
from handler.model import weights
from handler.model.snapshot import find
from tests.support.building import NAME, Build, change_tensor, sharded, shards
from tests.support.hub import COMMIT, ENDLESS, LISTING, Hub, Repo, sha256_of, stored

TOKEN = "hf_secretsecretsecret"
SHARD = "model-00002-of-00003.safetensors"
#: the shard where the hub stores it, which is another server
STORED = stored(SHARD)
#: a second commit of the repository
NEWER = "f" * 40
INDEX = "model.safetensors.index.json"
#: what the worker reads of the repository beside the shards
WORKER_FILES = (
    "LICENSE", "chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", INDEX,
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharded(tmp_path_factory.mktemp("repo") / "tiny")


@pytest.fixture
def hub(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    # the library's own pauses
    for module in (huggingface_hub.file_download, huggingface_hub.utils._http):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None))
    with Hub({NAME: Repo(checkpoint)}) as served:
        yield served
        huggingface_hub.close_session()


@pytest.fixture
def build(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Build:
    return Build(hub, tmp_path / "models", capsys)


@pytest.fixture
def broken(hub: Hub, checkpoint: Path, tmp_path: Path) -> Path:
    """The hub's repository, for a test to break."""
    shutil.copytree(checkpoint, tmp_path / "broken")
    hub.repos[NAME] = Repo(tmp_path / "broken")
    return tmp_path / "broken"


def test_the_worker_loads_a_built_directory_and_its_manifest_describes_every_byte(
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
    assert set(files) == {*WORKER_FILES, *shards(checkpoint)}
    for name, entry in files.items():
        content = (checkpoint / name).read_bytes()
        assert (build.weights / name).read_bytes() == content
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    found = find(str(build.weights), name=None, revision=None, on_runpod=True)
    info = weights.load(found, device="cpu").info
    assert (info.name, info.revision, info.dtype) == (NAME, COMMIT, "bfloat16")


def test_the_builders_version_is_the_workers() -> None:
    assert builder.__version__ == handler.__version__


def test_a_second_run_reports_that_all_is_in_place_and_requests_nothing(build: Build, hub: Hub) -> None:
    assert build() == 0
    hub.requests.clear()
    assert build() == 0
    assert (build.out.count("\n"), hub.requests) == (1, [])
    assert "is in place" in build.out


def test_after_a_killed_run_no_directory_has_the_name_and_the_next_run_keeps_complete_files(
    build: Build, hub: Hub, checkpoint: Path
) -> None:
    hub.fault(SHARD, held=True)
    work = build.models / "weights.partial"
    others = {name for name in shards(checkpoint) if name != SHARD}
    with build.process() as process:
        wait_until(lambda: all((work / name).is_file() for name in others) and hub.asked(SHARD))
        process.kill()
    hub.go_on.set()
    assert [path.name for path in build.models.iterdir()] == ["weights.partial"]
    assert list(work.rglob("*.incomplete"))
    hub.requests.clear()
    assert build() == 0
    assert "are here from an earlier run" in build.out
    assert {name for _, name, _, _ in hub.requests} == {LISTING, SHARD}
    assert set(hub.asked(SHARD)) == {None}
    assert {path.name for path in build.weights.iterdir()} == {*WORKER_FILES, *shards(checkpoint), MANIFEST}


def test_an_interrupted_run_ends_at_once_with_a_line(build: Build, hub: Hub) -> None:
    hub.fault(SHARD, held=True)
    with build.process() as process:
        assert process.stdout is not None
        wait_until(lambda: hub.asked(SHARD))
        process.send_signal(signal.SIGINT)
        process.wait(10)  # while the hub still holds the shard
        out = process.stdout.read()
    assert process.returncode == 1
    assert "builder: interrupted; run again" in out, out


@pytest.mark.parametrize(
    ("file", "fault", "waits"),
    [
        (LISTING, {"status": 503, "times": 2}, [1.0, 2.0]),
        (LISTING, {"status": 429, "headers": {"Retry-After": "7"}}, [7.0]),
        (LISTING, {"status": 429, "headers": {"RateLimit": '"resolvers";r=0;t=51'}}, [51.0]),
        (LISTING, {"status": 429, "headers": {"Retry-After": "9999"}}, [300.0]),
        # the library tries these again itself
        ("config.json", {"status": 500}, []),
        (SHARD, {"status": 429, "headers": {"Retry-After": "7"}}, []),
        (SHARD, {"drop_after": 1000, "times": 3}, []),
        (SHARD, {"drop_after": 0, "times": 2}, []),
        # and gives up at these
        (SHARD, {"drop_after": 0, "times": 6}, [1.0]),
        (SHARD, {"cut_to": 1000}, [1.0]),
        (SHARD, {"cut_to": 1000, "times": 3}, [1.0, 2.0, 4.0]),
        (STORED, {"status": 502}, [1.0]),
    ],
)
def test_a_failure_that_passes_is_waited_for(
    build: Build, hub: Hub, file: str, fault: dict[str, Any], waits: list[float]
) -> None:
    hub.fault(file, **fault)
    assert build() == 0
    assert build.waits == waits


@pytest.mark.parametrize(
    ("file", "fault", "message"),
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
        (SHARD, {"status": 429, "times": 99}, r"00002-of-00003.safetensors of .*allows no more requests for now"),
        (SHARD, {"status": 502, "times": 99}, r"00002-of-00003.safetensors of .*: the hub answered 502"),
        (STORED, {"status": 502, "times": 9}, r"Org/Tiny at 0123\w+: the hub answered 502"),
        (SHARD, {"drop_after": 0, "times": 99}, r"no connection to http://127.0.0.1:\d+, 5 times"),
        (SHARD, {"cut_to": 1000, "times": 9}, r"the hub sent only a part, 5 times .*should be of size \d+ but has"),
        (SHARD, {"wrong": True}, r"00002-of-00003.safetensors hashes to \w{64}, not to \w{64} .*run again"),
        ("config.json", {"wrong": True}, r"config.json hashes to \w{40}, not to \w{40} .*run again"),
    ],
)
def test_a_failure_that_does_not_pass_ends_in_one_line(
    build: Build, hub: Hub, file: str, fault: dict[str, Any], message: str
) -> None:
    hub.fault(file, **fault)
    line = build.fails()
    assert line.startswith("builder: ")
    assert re.search(message, line), line
    assert len(build.waits) <= 4
    hub.heal()
    assert build() == 0


def test_where_the_hub_stays_busy_only_the_library_waits(build: Build, hub: Hub) -> None:
    hub.fault(SHARD, status=429, times=99)
    build.fails()
    assert build.waits == []


def test_the_log_shows_no_url_of_a_file(build: Build, hub: Hub) -> None:
    """A URL that the hub redirects to is signed: it gives access to the file for a while."""
    hub.fault(SHARD, drop_after=0)
    with build.process() as process:
        out, _ = process.communicate()
    assert process.returncode == 0, out
    assert len(hub.asked(SHARD)) == 2
    assert "http" not in out


def test_without_a_network_the_error_names_mirror_and_directory(build: Build) -> None:
    line = build.fails(HF_ENDPOINT="http://127.0.0.1:9")
    assert "check the network, or name a mirror with HF_ENDPOINT or a directory with MODEL_SOURCE" in line


def test_an_endpoint_that_is_no_hub_is_named(build: Build, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fault(LISTING, status=200)
    assert "does not answer as a hub does; check HF_ENDPOINT" in build.fails()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set: unset it" in build.fails()


def test_an_endpoint_that_sends_files_as_no_hub_does_is_named(build: Build, hub: Hub) -> None:
    hub.repos[NAME] = Repo(hub.repos[NAME].path, commit_header=False)
    assert "does not answer as a hub does; check HF_ENDPOINT" in build.fails()


def test_an_error_of_the_library_shows_no_signature(build: Build, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no chunk at https://store/blob?X-Amz-Signature=0123\nmore")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", fail)
    assert build.fails().endswith("the download failed (no chunk at https://store/blob); try again later\n")
    assert build.waits == []


def drop_shard(path: Path) -> None:
    (path / SHARD).unlink()


def add_shard(path: Path) -> None:
    shutil.copy(path / SHARD, path / "consolidated.safetensors")


def drop_index(path: Path) -> None:
    (path / INDEX).unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (drop_shard, f"{INDEX} names {SHARD}, which the source does not have"),
        (add_shard, f"{INDEX} does not name consolidated.safetensors"),
        (drop_index, f"{INDEX} does not name model-00001"),
        (lambda path: (path / INDEX).write_text("{}"), f"{INDEX} cannot be read"),
        (lambda path: (path / INDEX).write_text("[" * 100_000), f"{INDEX} cannot be read"),
        (lambda path: change_tensor(path / SHARD), f"{SHARD} holds other tensors than {INDEX} says"),
        (lambda path: (path / "a\nb.safetensors").touch(), r"has a file 'a\nb.safetensors', whose name cannot be"),
        (lambda path: (path / "config.json").unlink(), "has no config.json"),
        (lambda path: (path / "tokenizer.json").unlink(), "has no tokenizer.json, nor vocab.json"),
        (lambda path: [(path / name).unlink() for name in shards(path)], "has no weights as safetensors"),
    ],
)
def test_an_incomplete_snapshot_is_refused(
    build: Build, broken: Path, harm: Callable[[Path], object], message: str
) -> None:
    harm(broken)
    assert message in build.fails()


def test_shards_are_not_fetched_for_an_index_that_does_not_fit(build: Build, hub: Hub, broken: Path) -> None:
    drop_shard(broken)
    build.fails()
    assert not any(name.endswith(".safetensors") for _, name, _, _ in hub.requests)


def test_files_of_another_snapshot_are_never_used(build: Build, hub: Hub, broken: Path) -> None:
    hub.fault("tokenizer.json", wrong=True)
    build.fails()
    (broken / "config.json").write_bytes((broken / "config.json").read_bytes() + b"\n")
    hub.repos[NAME] = Repo(broken, NEWER)
    (build.models / "weights.partial" / "left-over.safetensors").touch()
    assert build(MODEL_REVISION=NEWER) == 0
    assert (build.weights / "config.json").read_bytes() == (broken / "config.json").read_bytes()
    assert "left-over.safetensors" not in {path.name for path in build.weights.iterdir()}


@pytest.mark.parametrize("by", ["secret", "environment"])
def test_a_gated_model_takes_a_token_and_no_file_and_no_line_holds_it(
    build: Build, hub: Hub, checkpoint: Path, by: str
) -> None:
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


def test_the_token_of_a_login_on_the_machine_is_not_sent(build: Build, hub: Hub) -> None:
    login = build.models.parent / ".cache" / "huggingface" / "token"
    login.parent.mkdir(parents=True)
    login.write_text(TOKEN, encoding="utf-8")
    with build.process() as process:
        process.communicate()
    assert {authorization for *_, authorization in hub.requests} == {None}


def test_a_value_that_cannot_be_a_token_is_not_sent_and_not_shown(build: Build, hub: Hub) -> None:
    assert build.fails(HF_TOKEN="two words") == "builder: HF_TOKEN does not hold a token of the hub\n"
    assert not hub.requests


@pytest.mark.parametrize("revision", ["", "main", "v1.0", COMMIT[:12]])
def test_a_revision_that_is_no_commit_is_refused(build: Build, hub: Hub, revision: str) -> None:
    assert "needs a commit of 40 hex digits" in build.fails(MODEL_REVISION=revision)
    assert "ALLOW_UNPINNED=maybe: must be 1 or 0" in build.fails(MODEL_REVISION=revision, ALLOW_UNPINNED="maybe")
    assert not hub.requests


@pytest.mark.parametrize("revision", ["", "main"])
def test_a_branch_becomes_a_commit_where_it_is_allowed(build: Build, revision: str) -> None:
    for _ in range(2):
        assert build(MODEL_REVISION=revision, ALLOW_UNPINNED="1") == 0
        assert json.loads((build.weights / MANIFEST).read_text(encoding="utf-8"))["revision"] == COMMIT


def test_the_default_model_has_a_commit_of_its_own(build: Build, hub: Hub, checkpoint: Path) -> None:
    pinned = "a09a35458c702b33eeacc393d103063234e8bc28"
    hub.repos["Qwen/Qwen2.5-7B-Instruct"] = Repo(checkpoint, pinned)
    assert build(MODEL_NAME="", MODEL_REVISION="") == 0
    manifest = json.loads((build.weights / MANIFEST).read_text(encoding="utf-8"))
    assert (manifest["name"], manifest["revision"]) == ("Qwen/Qwen2.5-7B-Instruct", pinned)


def test_a_hub_that_answers_with_another_commit_than_the_pinned_one_is_refused(
    build: Build, hub: Hub, checkpoint: Path
) -> None:
    hub.repos[NAME] = Repo(checkpoint, claims=NEWER)
    assert build.fails() == (
        f"builder: {NAME}: {hub.url} was asked for {COMMIT} and lists {NEWER}; check HF_ENDPOINT: a hub answers with"
        " the commit that is asked for\n"
    )
    assert {name for _, name, _, _ in hub.requests} == {LISTING}


@pytest.mark.parametrize("claims", ["main", "../../etc", "0" * 39, "a\nb"])
def test_a_hub_whose_commit_is_no_commit_is_refused(build: Build, hub: Hub, checkpoint: Path, claims: str) -> None:
    hub.repos[NAME] = Repo(checkpoint, claims=claims)
    assert "does not answer as a hub does" in build.fails(MODEL_REVISION="main", ALLOW_UNPINNED="1")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", SHARD])
def test_a_file_that_does_not_end_is_stopped_at_its_size(build: Build, hub: Hub, checkpoint: Path, file: str) -> None:
    hub.fault(file, endless=True)
    size = (checkpoint / file).stat().st_size
    assert f"{file} of {NAME} at {COMMIT}: the hub sends more than the {size} bytes that it lists" in build.fails()
    total = sum(path.stat().st_size for path in checkpoint.iterdir() if path.is_file())
    assert directory_size(build.models) <= total
    assert total < ENDLESS
    assert build.waits == []
    assert build() == 0


@pytest.mark.parametrize("file", ["config.json", SHARD])
def test_a_mirror_that_serves_other_files_under_a_pinned_commit_is_refused(
    build: Build, hub: Hub, checkpoint: Path, broken: Path, file: str
) -> None:
    """It lists the sizes and hashes of its own files; the pins are those of the true ones."""
    path = checkpoint / file
    build.pins = {(NAME, COMMIT): {file: Pin(path.stat().st_size, sha256_of(path))}}
    content = path.read_bytes()
    (broken / file).write_bytes(content + b" ")
    line = build.fails()
    assert f"the source lists {file} with {len(content) + 1} bytes" in line
    assert f"that commit has {len(content)} bytes and {sha256_of(path)}; check HF_ENDPOINT" in line
    (broken / file).write_bytes(content[:-1] + b" ")
    line = build.fails()
    assert sha256_of(path) in line
    assert not any(name.endswith(".safetensors") for method, name, _, _ in hub.requests if method == "GET")
    (broken / file).unlink()
    assert ("has no config.json" if file == "config.json" else f"the source lacks {file}") in build.fails()
    hub.repos[NAME] = Repo(checkpoint)
    assert build() == 0


def test_one_hash_pins_every_file_of_a_model(build: Build, hub: Hub, checkpoint: Path, broken: Path) -> None:
    assert build() == 0
    (pin,) = re.findall(r"MODEL_SHA256=(\w{64}) pins these files", build.out)
    names = sorted({path.name for path in build.weights.iterdir()} - {MANIFEST})
    lines = "".join(f"{sha256_of(build.weights / name)}  {name}\n" for name in names)
    assert pin == hashlib.sha256(lines.encode()).hexdigest(), "not what `sha256sum` makes of them"
    assert build(MODEL_SHA256=pin) == 0
    assert build(MODEL_SHA256="0" * 64) == 1
    assert f"the files have MODEL_SHA256={pin}, not {'0' * 64}" in build.err
    shutil.rmtree(build.weights)
    (broken / "LICENSE").write_text("Everything is allowed.")
    assert f", not {pin}: the source serves other files than those that were pinned" in build.fails(MODEL_SHA256=pin)
    hub.repos[NAME] = Repo(checkpoint)
    assert build(MODEL_SHA256=pin) == 0
    assert build(MODEL_SHA256="short") == 1
    assert "MODEL_SHA256='short': must be 64 hex digits" in build.err


def test_the_default_models_pins_are_of_its_commit() -> None:
    (pinned,) = PINS
    assert pinned == (DEFAULT, REVISION)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: (path / SHARD).unlink(), "is missing or damaged; remove"),
        (lambda path: (path / "config.json").write_text("{}"), "is missing or damaged; remove"),
        (lambda path: (path / MANIFEST).unlink(), f"exists and has no {MANIFEST}; remove"),
        (lambda path: (path / MANIFEST).write_text("[]"), "is not a manifest"),
        (lambda path: (path / MANIFEST).write_text("[" * 100_000), "is not a manifest"),
        (lambda path: (path / MANIFEST).write_text('{"files": {}, "name": "o/m", "revision": null, "licence": null}'),
         "holds o/m at an unknown revision, not Org/Tiny at 0123"),
    ],
)  # fmt: skip
def test_a_directory_that_holds_something_else_is_left_as_it_is(
    build: Build, hub: Hub, harm: Callable[[Path], object], message: str
) -> None:
    assert build() == 0
    harm(build.weights)
    before = {path: path.stat().st_mtime_ns for path in build.weights.iterdir()}
    assert build() == 1
    assert message in build.err
    assert before == {path: path.stat().st_mtime_ns for path in build.weights.iterdir()}


def test_a_full_disk_is_named_and_complete_files_are_kept(
    build: Build, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = huggingface_hub.file_download.http_get

    def fill_the_disk(url: str, *arguments: Any, **options: Any) -> None:
        if url.endswith(".safetensors"):
            raise OSError(errno.ENOSPC, "No space left on device")
        download(url, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(huggingface_hub.file_download, "http_get", fill_the_disk)
        assert "the disk is full; make room, then run again" in build.fails()
    hub.requests.clear()
    assert build() == 0
    assert not hub.asked("config.json")


def test_a_dropped_connection_is_resumed_also_where_the_hub_ignores_the_range(
    build: Build, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    # by default the library writes 10 MB at a time, more than a shard here
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1_000)
    hub.fault(SHARD, drop_after=100_000)
    assert build() == 0
    assert hub.asked(SHARD)[-1] == "bytes=100000-"
    shutil.rmtree(build.weights)
    hub.fault(SHARD, drop_after=100_000)
    hub.fault(SHARD, ignore_range=True)
    assert build() == 0


def test_a_kept_file_that_was_damaged_is_fetched_again(build: Build, hub: Hub, checkpoint: Path) -> None:
    hub.fault(SHARD, wrong=True)
    build.fails()
    config = build.models / "weights.partial" / "config.json"
    config.write_bytes(config.read_bytes() + b"?")
    hub.fault("config.json", status=503, times=99)
    # the library takes a file that exists where the hub does not answer
    assert "config.json of Org/Tiny at" in build.fails()
    hub.heal()
    assert build() == 0
    assert (build.weights / "config.json").read_bytes() == (checkpoint / "config.json").read_bytes()


def test_a_disk_that_is_too_small_is_named_before_the_download(
    build: Build, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "needs 5.79 MB more, and its disk has 1 MB" in build.fails()
    assert {name for _, name, _, _ in hub.requests} == {LISTING}


def test_a_directory_that_cannot_be_written_is_named(build: Build) -> None:
    build.models.write_text("a file", encoding="utf-8")
    assert "Not a directory" in build.fails()
    assert "name a directory that can be written" in str(
        disk_error(PermissionError(13, "Permission denied"), build.models)
    )
    assert isinstance(disk_error(OSError(30, "Read-only file system"), build.models), BuildError)


def test_a_line_of_progress_names_size_and_rate(tmp_path: Path) -> None:
    now = iter([0.0, 12.0, 23.0])
    (tmp_path / "earlier").touch()
    os.truncate(tmp_path / "earlier", 1_000_000_000)
    progress = Progress(tmp_path, 15_231_000_000, lambda line: None, clock=lambda: next(now))
    lines = [progress.line(arrived) for arrived in (2_200_000_000, 3_100_000_000)]
    assert lines == ["  2.2 GB of 15.2 GB, 100 MB/s", "  3.1 GB of 15.2 GB, 91.3 MB/s"]


def test_progress_is_reported_while_files_arrive(tmp_path: Path) -> None:
    lines: list[str] = []
    with Progress(tmp_path, 2_000, lines.append, interval=0.01):
        (tmp_path / "hidden").mkdir()
        (tmp_path / "hidden" / "file").write_bytes(b"?" * 1_000)
        wait_until(lambda: any(line.startswith("  1 kB of 2 kB, ") for line in lines))
    count = len(lines)
    assert directory_size(tmp_path) == 1_000
    assert len(lines) == count
    assert INTERVAL == 10


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
