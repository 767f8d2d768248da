"""Finding and loading: what is served is what was named, and what cannot be served says so."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from handler.errors import StartError
from handler.model import weights
from handler.model.snapshot import DEMO, Snapshot, find


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The demo checkpoint, to break."""
    path = tmp_path / "models--Org--Name" / "snapshots" / ("0123456789abcdef" * 3)[:40]
    shutil.copytree(DEMO, path)
    return path


def change(path: Path, **values: object) -> None:
    told = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**told, **values}), encoding="utf-8")


def snapshot(path: Path) -> Snapshot:
    return find(str(path), name=None, revision=None, on_runpod=False)


def test_the_demo_model_is_served_locally_and_by_name_alone_on_runpod() -> None:
    assert find(None, name=None, revision=None, on_runpod=False).source == "demo"
    assert find("demo", name=None, revision=None, on_runpod=True).source == "demo"
    with pytest.raises(StartError, match="MODEL_PATH is not set"):
        find(None, name=None, revision=None, on_runpod=True)


def test_a_hub_caches_directory_tells_name_and_revision_and_settings_overrule_it(copy: Path) -> None:
    told = snapshot(copy)
    assert (told.name, told.revision, told.source) == ("Org/Name", copy.name, "path")
    set_ = find(str(copy), name="public", revision="abc", on_runpod=True)
    assert (set_.name, set_.revision) == ("public", "abc")


def test_a_plain_directory_is_called_by_its_name_and_has_no_revision(tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "my-model")
    told = snapshot(tmp_path / "my-model")
    assert (told.name, told.revision) == ("my-model", None)


def test_a_loaded_model_keeps_the_checkpoints_dtype_and_tells_its_facts(copy: Path) -> None:
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
    change(copy / "generation_config.json", **generation)
    model, template, info, bytes_read = weights.load(snapshot(copy), device="cpu")
    assert (model.dtype, info.dtype) == (torch.bfloat16, "bfloat16")
    assert (info.architecture, info.forward, info.device, info.name) == ("qwen2", "merged", "cpu", "Org/Name")
    assert (bytes_read, info.parameters) == (2 * 2_834_688, 2_834_688)
    assert info.vocab_size >= template.tokens_in_vocab
    assert {template.token_bytes(id_) for id_ in info.stop_token_ids} == {b""}
    assert info.sampling_defaults == {name: value for name, value in generation.items() if name != "do_sample"}


def test_a_tokenizer_that_does_not_belong_to_the_model_stops_the_start(copy: Path) -> None:
    change(copy / "tokenizer.json", added_tokens=[
        {"id": 10**6 + index, "content": f"<{index}>", "special": False, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for index in range(5_000)
    ])  # fmt: skip
    with pytest.raises(StartError, match="rows for them"):
        weights.load(snapshot(copy), device="cpu")


def test_a_generation_config_that_does_not_sample_means_greedy(copy: Path) -> None:
    change(copy / "generation_config.json", do_sample=False, temperature=None, top_k=None, top_p=None)
    info = weights.load(snapshot(copy), device="cpu").info
    assert info.sampling_defaults["temperature"] == 0.0


@pytest.mark.parametrize(
    ("values", "cause"),
    [({"model_type": "llama"}, "llama"), ({"quantization_config": {"quant_method": "awq"}}, "quantised")],
)
def test_what_we_do_not_serve_is_refused_by_its_name(copy: Path, values: dict[str, object], cause: str) -> None:
    change(copy / "config.json", **values)
    with pytest.raises(StartError, match=cause):
        weights.load(snapshot(copy), device="cpu")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_missing_or_broken_file_stops_the_start_in_one_line(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"{")
    with pytest.raises(StartError) as broken:
        weights.load(snapshot(copy), device="cpu")
    assert "\n" not in str(broken.value)
    (copy / name).unlink()
    with pytest.raises(StartError) as missing:
        weights.load(snapshot(copy), device="cpu")
    assert "\n" not in str(missing.value)
