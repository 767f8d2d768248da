"""Loading: the model that was named is served, and one that cannot be served stops the start with its reason."""

import json
import os
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
from torch import Tensor
from transformers import AutoModelForCausalLM

from handler.errors import StartError
from handler.inference.config import GIB, EngineOptions
from handler.inference.plan import plan
from handler.model import checkpoint, weights
from handler.model.checkpoint import Checkpoint
from handler.model.config import read_model_config
from handler.model.modules import Modules
from handler.model.qwen import Qwen
from handler.model.shards import Stored, find_tensors
from handler.model.snapshot import DEMO, INDEX, Snapshot, find
from tests.model.test_qwen import steps
from tests.support import models


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The demo checkpoint, to break."""
    path = tmp_path / "models--Org--Name" / "snapshots" / ("0123456789abcdef" * 3)[:40]
    shutil.copytree(DEMO, path)
    return path


def change(path: Path, **values: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **values}), encoding="utf-8")


def snapshot(path: Path) -> Snapshot:
    return find(str(path), name=None, revision=None, on_runpod=False)


def test_a_loaded_model_keeps_the_dtype_of_the_checkpoint_and_reports_its_facts(copy: Path) -> None:
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
    change(copy / "generation_config.json", **generation)
    model, template, info = weights.load(snapshot(copy), device="cpu")
    assert (model.dtype, info.dtype) == (torch.bfloat16, "bfloat16")
    assert (info.architecture, info.forward, info.device, info.name) == ("qwen2", "merged", "cpu", "Org/Name")
    assert info.parameters == 2_834_688
    assert info.vocab_size >= template.tokens_in_vocab
    assert {template.token_bytes(id_) for id_ in info.stop_token_ids} == {b""}
    assert info.sampling_defaults == {name: value for name, value in generation.items() if name != "do_sample"}


def test_a_tokenizer_that_does_not_belong_to_the_model_stops_the_start(copy: Path) -> None:
    own = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    change(copy / "tokenizer.json", added_tokens=own + [
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
    [({"model_type": "llama"}, "llama"), ({"quantization_config": {"quant_method": "awq"}}, "quantised by awq")],
)
def test_an_unsupported_model_is_refused_by_name(copy: Path, values: dict[str, object], cause: str) -> None:
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


def loaded(path: Path, *, device: str = "cpu", **options: Any) -> dict[str, Tensor]:
    model = weights.load(snapshot(path), device=device, **options).model
    assert isinstance(model, Qwen)
    return model.weights


def shard(path: Path, count: int) -> None:
    """Cut the weights into so many files, with the index that the hub's tools write."""
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    files = {name: f"model-{number % count + 1:05}-of-{count:05}.safetensors" for number, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, path / file)
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}), encoding="utf-8")


@pytest.mark.parametrize("shards", [0, 3])
@pytest.mark.parametrize("chunk", [checkpoint.CHUNK_BYTES, 4096])
def test_every_tensor_is_read_to_the_bit_however_it_is_cut(
    copy: Path, monkeypatch: pytest.MonkeyPatch, shards: int, chunk: int
) -> None:
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", chunk)
    expected = load_file(copy / "model.safetensors")
    if shards:
        shard(copy, shards)
    got = loaded(copy)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_a_gpus_loader_pins_little_memory_and_leaves_none_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA is asked for nothing but what is noted here."""
    calls, pinned, empty = list[str](), list[int](), torch.empty

    def noted(size: int, *, pin_memory: bool, dtype: torch.dtype) -> torch.Tensor:
        pinned.append(size * pin_memory)
        return empty(size, dtype=dtype)

    monkeypatch.setattr(torch, "empty", noted)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: device)
    monkeypatch.setattr(torch.cuda, "Event", lambda: None)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: calls.append(name))
    Checkpoint({}, torch.bfloat16, torch.device("cuda"), "none").fill()
    assert calls == ["synchronize", "synchronize", "empty_cache"]
    assert pinned == [16 << 20] * 2  # in each thread


def test_an_odd_place_in_a_file_is_no_obstacle(copy: Path) -> None:
    file = copy / "model.safetensors"
    expected, content = load_file(file), file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    file.unlink()  # `expected` may be the file itself
    file.write_bytes(struct.pack("<Q", length + 1) + content[8 : 8 + length] + b" " + content[8 + length :])
    got = loaded(copy)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert not {str(file)} & {mapped_file(weight) for weight in got.values()}


def stored(path: Path, *values: float) -> Checkpoint:
    """A checkpoint of `gate`, the first four of these in one file, and of `up`, the last four in another."""
    numbers = torch.tensor(values, dtype=torch.float32)
    (path / "one").write_bytes(numbers.numpy().tobytes())
    (path / "two").write_bytes((-numbers).numpy().tobytes())
    tensors = {
        "gate": Stored(path / "one", 0, torch.float32, (4,)),
        "up": Stored(path / "two", 16, torch.float32, (4,)),
    }
    return Checkpoint(tensors, torch.float32, torch.device("cpu"), "mine")


def test_what_lies_together_by_chance_in_two_files_is_not_taken_for_one(tmp_path: Path) -> None:
    reading = stored(tmp_path, *range(8))
    both = reading.take({"gate": (4,), "up": (4,)})
    reading.fill()
    assert both.tolist() == [0, 1, 2, 3, -4, -5, -6, -7]


def test_a_mapped_file_that_shrinks_stops_the_start_and_not_the_process(tmp_path: Path) -> None:
    reading = stored(tmp_path, *range(8))
    for name in ("gate", "up"):
        reading.take({name: (4,)})
    os.truncate(tmp_path / "two", 0)
    with pytest.raises(StartError, match="mine: the weights cannot be read: a file ended too early"):
        reading.fill()


def test_on_a_cpu_what_is_stored_as_it_is_wanted_is_the_file_itself(copy: Path) -> None:
    held = loaded(copy)
    file = copy / "model.safetensors"
    content = file.read_bytes()
    layer = "model.layers.1"
    mapped = {name: mapped_file(weight) == str(file) for name, weight in held.items()}
    assert all(mapped[f"{layer}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
    assert mapped["model.embed_tokens.weight"]
    assert not mapped[
        f"{layer}.self_attn.q_proj.weight"
    ]  # queries, keys and values are merged, and do not lie together
    held[f"{layer}.mlp.up_proj.weight"].zero_()
    assert file.read_bytes() == content, "nobody writes to a checkpoint, not even by mistake"
    assert str(file) not in {mapped_file(weight) for weight in loaded(copy, dtype=torch.float32).values()}


def mapped_file(tensor: Tensor) -> str:
    """The file that lies at the tensor's address, "" for plain memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5) if line.count("/") else (line.split()[0], "")
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= tensor.data_ptr() < last:
            return name
    raise AssertionError("a tensor lies nowhere")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_gpu_gets_the_same_bits(copy: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 4096)  # buffers are used many times over
    on_cpu = loaded(copy, dtype=dtype)
    assert all(torch.equal(held.cpu(), on_cpu[name]) for name, held in loaded(copy, device="cuda", dtype=dtype).items())


def test_weights_of_another_dtype_are_converted(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 4096)
    exact = {name: torch.randn(tensor.shape) for name, tensor in load_file(copy / "model.safetensors").items()}
    save_file(exact, copy / "model.safetensors")
    for name, held in loaded(copy).items():  # config.json says bfloat16
        assert torch.equal(held, exact[name].bfloat16())
    for name, held in loaded(copy, dtype=torch.float32).items():
        assert torch.equal(held, exact[name])
    content = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    del content["dtype"]
    (copy / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert {held.dtype for held in loaded(copy).values()} == {torch.float32}


def test_a_copied_head_and_the_constants_of_old_checkpoints_are_ignored(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    more = {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    more["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(32)
    save_file({**tensors, **more}, copy / "model.safetensors")
    model, _, info = weights.load(snapshot(copy), device="cpu")
    assert isinstance(model, Qwen)
    assert "lm_head.weight" not in model.weights
    assert info.parameters == 2_834_688


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (without("model.norm.weight"), "the weights lack model.norm.weight, which the model of config.json needs"),
        (
            lambda tensors: {**tensors, "model.extra": torch.zeros(1)},
            "hold model.extra, which the model of config.json lacks",
        ),
        (
            lambda tensors: {**tensors, "x": torch.zeros(1), "y": torch.zeros(1)},
            "hold x and 1 more, which the model of config.json lacks",
        ),
        (
            lambda tensors: {**tensors, "model.norm.weight": torch.zeros(255)},
            r"the shape \[255\], but config.json needs \[256\]",
        ),
        (
            lambda tensors: {**tensors, "model.norm.weight": torch.zeros(256, dtype=torch.int8)},
            "has the dtype I8, but this",
        ),
        (lambda tensors: {}, "there is no tensor"),
    ],
)
def test_weights_that_are_not_those_of_the_config_stop_the_start(
    copy: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], cause: str
) -> None:
    file = copy / "model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(StartError, match=cause) as caught:
        weights.load(snapshot(copy), device="cpu")
    assert "\n" not in str(caught.value)


def written(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**values: object) -> dict[str, object]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **values}}


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "within its header"),
        (b"\x00" * 7, "within its header"),
        (struct.pack("<Q", 2**63) + b"{}", "within its header"),
        (struct.pack("<Q", 3) + b"{]}", "not JSON"),
        (struct.pack("<Q", 2) + b"\xff\xff", "not JSON"),
        (written([]), "not a JSON object"),
        (written(entry(), b"\x00" * 7), "x ends at byte"),
        (written(entry(), b"\x00" * 9), "its last tensor ends at byte"),
        (written({"__metadata__": {}}, b"\x00"), "its last tensor ends at byte"),
        (written(entry(shape=[3]), b"\x00" * 8), r"x has 8 bytes, which is not the size of \[3\] F32"),
        (written(entry(shape=[-2, -1]), b"\x00" * 8), "is not valid"),
        (written(entry(shape="2"), b"\x00" * 8), "is not valid"),
        (written(entry(data_offsets=[-8, 0])), "is not valid"),
        (written({"x": None}), "is not valid"),
    ],
)
def test_the_error_of_a_damaged_file_names_the_file_and_the_damage(tmp_path: Path, content: bytes, cause: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(StartError, match=rf"mine: model\.safetensors is damaged: .*{cause}.*; fetch it again"):
        find_tensors([tmp_path / "model.safetensors"], "mine")


def test_every_file_of_the_index_is_needed_and_only_its_name_counts(copy: Path) -> None:
    shard(copy, 2)
    first, second = files = snapshot(copy).shards()
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(StartError, match=f"{second.name} cannot be read: No such file"):
        find_tensors(files, "mine")
    shutil.copy(first, second)
    with pytest.raises(StartError, match=f"is in {second.name} and in another file"):
        find_tensors(files, "mine")
    second.write_bytes(kept)
    content = json.loads((copy / INDEX).read_text(encoding="utf-8"))["weight_map"]
    outside = {name: f"../../{file}" for name, file in content.items()}
    (copy / INDEX).write_text(json.dumps({"weight_map": outside}), encoding="utf-8")
    assert snapshot(copy).shards() == files


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("taken", [False, True])
def test_a_file_that_shrinks_while_it_is_read_stops_the_start(copy: Path, dtype: torch.dtype, taken: bool) -> None:
    tensors = checkpoint.wanted(find_tensors([copy / "model.safetensors"], "mine"), tied=True)
    reading = Checkpoint(tensors, dtype, torch.device("cpu"), "mine")

    def read() -> None:
        Qwen(read_model_config(copy, "mine"), reading.take, dtype, torch.device("cpu"))
        if not taken:
            reading.fill()

    if taken:
        read()
    with (copy / "model.safetensors").open("r+b") as file:
        file.truncate(4_000_000)
    with pytest.raises(StartError, match="mine: the weights cannot be read: a file ended too early"):
        (reading.fill if taken else read)()


def test_a_model_larger_than_memory_stops_the_start(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoint, "take", lambda self, names: torch.empty(2**31, 2**20))
    with pytest.raises(StartError, match=r"no memory for the weights \(.*alloc.*; use a device with more memory"):
        weights.load(snapshot(copy), device="cpu")


def test_models_that_the_merged_forward_does_not_support_are_served_by_the_modules(copy: Path) -> None:
    llama = {
        "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 512,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    }  # fmt: skip
    change(copy / "config.json", rope_parameters=llama)
    model, _, info = weights.load(snapshot(copy), device="cpu", dtype=torch.float32)
    assert (info.forward, info.parameters) == ("modules", 2_834_688)
    theirs = AutoModelForCausalLM.from_pretrained(copy, local_files_only=True, dtype=torch.float32)
    model.reserve(models.CONTEXT)
    torch.testing.assert_close(steps(model), steps(Modules(theirs)))
    change(copy / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 10_000.0})
    plain = weights.load(snapshot(copy), device="cpu", dtype=torch.float32)
    assert plain.info.forward == "merged"
    plain.model.reserve(models.CONTEXT)
    assert (steps(plain.model) - steps(model)).abs().max() > 0.1


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}


@pytest.mark.parametrize("forward", ["merged", "modules"])
def test_the_setting_extends_the_context_that_can_be_planned_on_either_forward(copy: Path, forward: str) -> None:
    change(copy / "config.json", hidden_act="silu" if forward == "merged" else "gelu")
    plain = weights.load(snapshot(copy), device="cpu", dtype=torch.float32)
    extended = weights.load(snapshot(copy), device="cpu", dtype=torch.float32, rope_scaling=YARN)
    assert plain.info.forward == extended.info.forward == forward
    assert (plain.info.context_length, extended.info.context_length) == (2048, 8192)
    longest = EngineOptions(max_model_len=8192)
    assert plan(longest, extended.model.shape, device="cpu", free_bytes=8 * GIB).max_model_len == 8192
    with pytest.raises(StartError, match="MAX_MODEL_LEN is 8192, but the context of the model is 2048 positions"):
        plan(longest, plain.model.shape, device="cpu", free_bytes=8 * GIB)
    for model in (plain.model, extended.model):
        model.reserve(models.CONTEXT)
    assert (steps(extended.model) - steps(plain.model)).abs().max() > 0.01


def test_answering_a_job_imports_no_transformers() -> None:
    job = json.dumps({"input": {"operation": "chat", "message": "hi", "max_tokens": 2}})
    code = (
        "import sys; from handler.__main__ import main; status = main(); "
        "print(sorted({'transformers', 'safetensors', 'accelerate', 'sympy'} & sys.modules.keys()), file=sys.stderr); "
        "sys.exit(status)"
    )
    command = [sys.executable, "-c", code, "--test_input", job]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=DEMO.parents[2], check=True)
    assert '"success": true' in done.stdout
    assert done.stderr.splitlines()[-1] == "[]"
