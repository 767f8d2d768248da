"""A checkpoint may be careless or hostile: each one here stops the start with one line, or is served as it should."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from handler.errors import StartError
from handler.model import manifest, trial, weights
from handler.model.config import read_generation_config
from handler.model.shards import find_tensors
from handler.model.snapshot import DEMO, INDEX, find
from handler.model.trial import Trial

#: deeper than the interpreter's stack; valid JSON
NESTED = '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The demo checkpoint, to break."""
    return shutil.copytree(DEMO, tmp_path / "model")


def load(path: Path) -> weights.Loaded:
    return weights.load(find(str(path), name=None, revision=None, on_runpod=False), device="cpu")


def change(path: Path, **values: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **values}), encoding="utf-8")


def config(**values: object) -> Callable[[Path], None]:
    return lambda path: change(path / "config.json", **values)


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda path: void((path / name).write_text(text, encoding="utf-8"))


def template(text: str) -> Callable[[Path], None]:
    return write("chat_template.jinja", text)


def header(text: str) -> Callable[[Path], None]:
    content = text.encode()
    return lambda path: void(
        (path / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content + b"\0" * 8)
    )


def tokenizer(**values: object) -> Callable[[Path], None]:
    return lambda path: change(path / "tokenizer.json", **values)


def tokenizer_config(**values: object) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        (path / "chat_template.jinja").unlink()
        change(path / "tokenizer_config.json", **values)

    return harm


def void(_: object) -> None:
    """Drop a value."""


def without_vocabulary(path: Path) -> None:
    content = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"] |= {"vocab": {}, "merges": []}
    (path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def template_of_bytes(path: Path) -> None:
    (path / "chat_template.jinja").write_bytes(b"\xff\xfe")


def template_of_a_directory(path: Path) -> None:
    (path / "chat_template.jinja").unlink()
    (path / "chat_template.jinja").mkdir()


@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        pytest.param(write("config.json", NESTED), "config.json of the model cannot be read", id="nested config"),
        pytest.param(
            write("tokenizer_config.json", NESTED), "tokenizer_config.json of the model cannot", id="nested tokenizer"
        ),
        pytest.param(write("generation_config.json", NESTED), "generation_config.json of the", id="nested generation"),
        pytest.param(write(INDEX, NESTED), "not an index of weight files", id="nested index"),
        pytest.param(write("manifest.json", NESTED), "is not a manifest that this worker reads", id="nested manifest"),
        pytest.param(header(NESTED), "model.safetensors is damaged: its header is not JSON", id="nested header"),
        pytest.param(config(rms_norm_eps=float("nan")), "rms_norm_eps: .*finite", id="eps of NaN"),
        pytest.param(config(rms_norm_eps=float("inf")), "rms_norm_eps: .*finite", id="endless eps"),
        pytest.param(config(rms_norm_eps=-1.0), "rms_norm_eps: ", id="eps below 0"),
        pytest.param(config(rope_parameters={"rope_theta": float("nan")}), "rope_theta", id="theta of NaN"),
        pytest.param(config(rope_parameters={"rope_theta": [1]}), "rope_theta", id="theta is a list"),
        pytest.param(config(rope_parameters={"rope_theta": 0}), "rope_theta", id="theta of 0"),
        pytest.param(
            config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": float("inf")}),
            "factor",
            id="endless factor",
        ),
        *(
            pytest.param(config(**{name: 10**30}), name, id=f"absurd {name}")
            for name in (
                "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "max_position_embeddings", "head_dim",
            )
        ),
        pytest.param(
            config(num_hidden_layers=10**9, hidden_act="gelu"), "num_hidden_layers", id="a thousand million layers"
        ),
        pytest.param(config(model_type="x" * 1_000_000), "model_type", id="a long value"),
        pytest.param(without_vocabulary, "the model's tokenizer has no tokens", id="empty vocabulary"),
        pytest.param(tokenizer(added_tokens=[]), "no token <|im_start|>", id="no control tokens"),
        pytest.param(tokenizer_config(bos_token={"text": "x"}), "tokenizer cannot be read", id="a token without text"),
        pytest.param(tokenizer_config(chat_template=["x"]), "tokenizer cannot be read", id="templates without names"),
        pytest.param(template_of_bytes, "tokenizer cannot be read", id="a template that is no text"),
        pytest.param(template_of_a_directory, "tokenizer cannot be read", id="a template that is a directory"),
        pytest.param(template("{{ 'a' * 10**11 }}"), "chat template", id="a template beyond memory"),
        pytest.param(template("{{ 1 / 0 }}"), "chat template", id="a template that divides by 0"),
        pytest.param(template("{{ [].x.y }}"), "chat template", id="a template of nothing"),
        pytest.param(template("{{ messages[0].role + 1 }}"), "chat template", id="a template that adds text to 1"),
        pytest.param(template("{{ " + "(" * 5000 + ")" * 5000 + " }}"), "chat template", id="a nested template"),
        pytest.param(
            template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), "chat template", id="a macro without end"
        ),
    ],
)  # fmt: skip
def test_a_hostile_checkpoint_stops_the_start_in_one_line(copy: Path, harm: Callable[[Path], None], cause: str) -> None:
    harm(copy)
    with pytest.raises(StartError, match=cause) as stopped:
        load(copy)
    assert "\n" not in str(stopped.value)
    assert len(str(stopped.value)) < 1_000


def written(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(first: int, last: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": [(last - first) // 4], "data_offsets": [first, last]}


@pytest.mark.parametrize(
    ("tensors", "cause"),
    [
        ({"a": tensor(0, 8), "b": tensor(4, 8)}, "b begins at byte 4 of the tensors, inside a"),
        ({"a": tensor(0, 8), "b": tensor(12, 16)}, "b begins at byte 12 of the tensors, but a ends at byte 8"),
        ({"a": tensor(4, 16)}, "a begins at byte 4 of the tensors, not at 0"),
        ({"a": tensor(0, 8), "b": tensor(0, 8), "c": tensor(12, 16)}, "b begins at byte 0 of the tensors, inside a"),
        ({"a": tensor(0, 16), "line\nbreak": tensor(0, 16)}, "a tensor's name is not printable"),
        ({"a" * 100_000: tensor(0, 4)}, "a tensor's name is not printable, or longer"),
    ],
)
def test_tensors_follow_one_another_without_overlap_or_gap(
    tmp_path: Path, tensors: dict[str, object], cause: str
) -> None:
    (tmp_path / "model.safetensors").write_bytes(written(tensors, b"\0" * 16))
    with pytest.raises(StartError, match=rf"mine: model\.safetensors is damaged: {cause}") as stopped:
        find_tensors([tmp_path / "model.safetensors"], "mine")
    assert "\n" not in str(stopped.value)
    assert len(str(stopped.value)) < 1_000


def test_tensors_may_be_listed_in_any_order_and_be_empty(tmp_path: Path) -> None:
    tensors = {"b": tensor(8, 16), "none": tensor(8, 8), "a": tensor(0, 8)}
    (tmp_path / "model.safetensors").write_bytes(written(tensors, b"\0" * 16))
    assert find_tensors([tmp_path / "model.safetensors"], "mine").keys() == tensors.keys()


@pytest.mark.parametrize(
    "values",
    [
        {"name": "a\nb"}, {"name": "\x1b[2J"}, {"name": ""}, {"name": "x" * 10_000}, {"revision": "a\nb"},
        {"revision": "\u202e"}, {"files": {"a\nb": {"size": 1, "sha256": "0" * 64}}},
        {"files": {"a": {"size": float("inf"), "sha256": "0" * 64}}},
    ],
    ids=repr,
)  # fmt: skip
def test_a_manifest_with_names_that_cannot_be_printed_or_sizes_that_cannot_be_is_refused(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    whole = {"manifest": 1, "name": "Org/Name", "revision": None, "licence": None, "builder": "0", "files": {}}
    (tmp_path / "manifest.json").write_text(json.dumps({**whole, **values}))
    with pytest.raises(StartError, match="is not a manifest that this worker reads") as stopped:
        manifest.read(tmp_path)
    assert str(stopped.value).isprintable()
    assert len(str(stopped.value)) < 1_000


@pytest.mark.parametrize("place", ["directory", "shard"])
def test_a_name_on_the_disk_that_cannot_be_printed_is_refused(copy: Path, place: str) -> None:
    if place == "directory":
        copy = copy.rename(copy.with_name("a\nb"))
    else:
        (copy / INDEX).write_text(json.dumps({"weight_map": {"x": "a\nb.safetensors"}}))
    with pytest.raises(StartError) as stopped:
        load(copy)
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", float("nan")), ("temperature", -1.0), ("temperature", 1e9), ("top_p", 0.0), ("top_p", 2.0),
        ("top_k", -1), ("min_p", -0.1), ("min_p", float("nan")), ("repetition_penalty", 0.0),
        ("repetition_penalty", -5.0), ("repetition_penalty", float("inf")),
    ],
)  # fmt: skip
def test_a_recommended_value_that_no_request_may_send_is_left_out_and_logged(
    copy: Path, capsys: pytest.CaptureFixture[str], field: str, value: float
) -> None:
    sound = {"temperature": 0.6, "top_p": 0.8, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05}
    change(copy / "generation_config.json", do_sample=True, **{**sound, field: value})
    given = read_generation_config(copy, "mine").sampling()
    assert given == {name: number for name, number in sound.items() if name != field}
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert line["level"] == "WARN"
    assert line["message"].startswith(f"mine: generation_config.json: {field}: ")


def test_the_rotary_table_has_the_engines_positions_and_not_the_models(copy: Path) -> None:
    change(copy / "config.json", max_position_embeddings=2_000_000_000)  # a table of 512 GB
    loaded = load(copy)
    loaded.model.reserve(1_000)
    assert loaded.info.context_length == 2_000_000_000


def fill(path: Path, name: str, value: float) -> None:
    tensors = load_file(path / "model.safetensors")
    tensors[name] = torch.full_like(tensors[name], value)
    save_file(tensors, path / "model.safetensors")


def start(path: Path) -> subprocess.CompletedProcess[str]:
    """A local start with one job."""
    job = json.dumps({"input": {"operation": "chat", "message": "hi", "max_tokens": 2}})
    return subprocess.run(
        [sys.executable, "-m", "handler", "--test_input", job],
        env={**os.environ, "MODEL_PATH": str(path)},
        cwd=DEMO.parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


LONG = r"takes longer than \d+ s to render four short messages"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        # one call in C, which holds the interpreter's lock
        pytest.param("{{ 9 ** (9 ** 9) }}", LONG, id="power"),
        pytest.param(
            "{% set n = namespace(t='x') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
            r"fails \(MemoryError\)",
            id="doubling",
        ),
    ],
)
def test_a_template_that_hangs_or_explodes_does_so_in_a_process_of_its_own(copy: Path, text: str, cause: str) -> None:
    template(text)(copy)
    with pytest.raises(StartError, match=rf"^mine: the chat template {cause}; use the template of"):
        Trial(copy).wait("mine")


def test_a_sound_template_passes_and_damaged_files_are_left_to_their_reader(copy: Path) -> None:
    Trial(copy).wait("mine")
    (copy / "tokenizer_config.json").write_text("{")
    Trial(copy).wait("mine")


def test_a_process_that_does_not_come_to_an_end_is_killed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "PATIENCE_S", 0.0)
    with pytest.raises(StartError, match=f"mine: the chat template {LONG}"):
        Trial(copy).wait("mine")


def test_a_template_that_hangs_ends_the_start(copy: Path) -> None:
    template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")(copy)
    done = start(copy)
    assert (done.returncode, done.stdout) == (1, "")
    last = json.loads(done.stderr.splitlines()[-1])
    assert re.match(rf"cannot start: model: the chat template {LONG}; use ", last["message"])


def test_a_model_whose_logits_are_not_finite_ends_the_start(copy: Path) -> None:
    fill(copy, "model.layers.1.mlp.down_proj.weight", float("nan"))
    done = start(copy)
    assert (done.returncode, done.stdout) == (1, "")
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["message"].startswith("cannot start: model computes logits that are not finite")
