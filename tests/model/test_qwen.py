"""The merged forward computes what transformers' modules compute, from every weight of the checkpoint."""

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel, Qwen2Config, Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from handler.errors import StartError
from handler.inference.model import Model
from handler.model.config import ModelConfig, read_model_config
from handler.model.modules import Modules, paged_attention
from handler.model.snapshot import DEMO
from handler.ops import layers_torch
from handler.ops.pages import KVPages, Layout
from tests.support import models
from tests.support.kernels import parts

GENUINE = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
PAGE = 16
every_model = pytest.mark.parametrize("name", models.NAMES)


def config_of(name: str) -> ModelConfig:
    return ModelConfig.model_validate(models.oracle(name).config.to_dict())


def pages_of(model: Model, count: int, *, kernels: bool = False) -> KVPages:
    shape = model.shape
    runs = parts(kernels, model.dtype)
    return KVPages(shape.layers, count, PAGE, shape.kv_heads, shape.head_dim, model.dtype, model.device, parts=runs)


def layout_of(spans: list[tuple[int, int]], decode_rows: int, device: torch.device) -> Layout:
    """Of a step that computes a span of each of some texts; text i lives in pages 8i + 1 to 8i + 8."""
    tables = torch.stack([torch.arange(8 * row + 1, 8 * row + 9, dtype=torch.int32) for row in range(len(spans))])
    lengths, ends = [end - begin for begin, end in spans], [end for _, end in spans]
    slots = [tables[row, at // PAGE] * PAGE + at % PAGE for row, at in enumerate(positions_of(spans))]
    return Layout(
        slots=torch.cat(slots).long().to(device),
        block_tables=tables.to(device),
        context_lens=torch.tensor(ends, dtype=torch.int32, device=device),
        query_starts=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device),
        query_lens=lengths,
        context_lens_host=ends,
        decode_rows=decode_rows,
    )


def positions_of(spans: list[tuple[int, int]]) -> list[Tensor]:
    return [torch.arange(begin, end) for begin, end in spans]


def step(
    model: Model,
    pages: KVPages,
    texts: list[Tensor],
    spans: list[tuple[int, int]],
    decode_rows: int,
    keep: Tensor | None = None,
) -> Tensor:
    """Logits of the tokens of each text in its span, or of those to keep."""
    ids = torch.cat([text[begin:end] for text, (begin, end) in zip(texts, spans, strict=True)])
    layout, positions = layout_of(spans, decode_rows, model.device), torch.cat(positions_of(spans))
    with torch.inference_mode():
        return model.forward(ids.to(model.device), positions.to(model.device), keep, layout, pages)


def steps(model: Model, *, kernels: bool = False) -> Tensor:
    """Prompts of one step, one cut in two, then two decode rows beside the second half."""
    texts = [torch.randint(models.VOCAB, (n,), generator=torch.Generator().manual_seed(n)) for n in (9, 34, 60)]
    pages = pages_of(model, 30, kernels=kernels)
    first = step(model, pages, texts, [(0, 8), (0, 33), (0, 40)], 0)
    return torch.cat((first, step(model, pages, texts, [(8, 9), (33, 34), (40, 60)], 2)))


def in_bfloat16(name: str) -> PreTrainedModel:
    """As a checkpoint is loaded: its parameters, but not the frequencies of its angles."""
    model = models.build(name)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


@every_model
def test_in_float32_the_logits_are_those_of_the_modules_to_1e_5(name: str) -> None:
    got, expected = steps(models.served(name)), steps(models.modules(name))
    torch.testing.assert_close(got.log_softmax(-1), expected.log_softmax(-1), atol=1e-5, rtol=0)


def test_in_bfloat16_every_part_rounds_where_the_modules_round() -> None:
    """Equal to the bit; whole forwards differ only where a product adds to the residual stream without rounding."""
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).bfloat16()

    theirs = in_bfloat16("qwen3")
    layer, weight = theirs.get_submodule("model.layers.0"), draw(64)
    layer.get_parameter("input_layernorm.weight").copy_(weight)
    x = draw(7, 64)
    assert torch.equal(layers_torch.rms_norm(x, weight, 1e-6), layer.get_submodule("input_layernorm")(x))

    norms, qkv, positions = draw(2, 32), draw(7, 8, 32), torch.tensor([0, 1, 2, 500, 1023, 3, 9])
    for part, norm in zip("qk", norms, strict=True):
        layer.get_parameter(f"self_attn.{part}_norm.weight").copy_(norm)
    cos, sin = theirs.get_submodule("model.rotary_emb")(x, positions[None])
    normed = (layer.get_submodule(f"self_attn.{name}_norm")(x) for name, x in (("q", qkv[:, :4]), ("k", qkv[:, 4:6])))
    expected = apply_rotary_pos_emb(*(part[None] for part in normed), cos, sin, unsqueeze_dim=2)
    frequencies = layers_torch.frequencies(32, 10_000.0, torch.device("cpu"))
    rope = layers_torch.rope_table(positions, frequencies, torch.bfloat16)
    pages = KVPages(1, 1, PAGE, 2, 32, torch.bfloat16, "cpu")
    query, key, value = layers_torch.rotate_and_store(qkv.clone(), norms, rope, torch.arange(7), 0, pages, 1e-6)
    assert torch.equal(query, expected[0][0])
    assert torch.equal(key, expected[1][0])
    assert torch.equal(value, qkv[:, 6:])
    assert torch.equal(pages.k[0][0, :7], key)
    assert torch.equal(pages.v[0][0, :7], value)

    gate, up = draw(7, 96), draw(7, 96)
    assert torch.equal(layers_torch.silu_mul(torch.cat((gate, up), -1)), nn.functional.silu(gate) * up)


@every_model
def test_in_bfloat16_the_merged_forward_strays_no_further_from_float32_than_the_modules(name: str) -> None:
    exact = steps(models.served(name)).softmax(-1)
    theirs = in_bfloat16(name)
    ours = models.merged(theirs)
    strayed = [float((steps(one).float().softmax(-1) - exact).abs().mean()) for one in (ours, Modules(theirs))]
    assert ours.dtype == torch.bfloat16
    assert 0 < strayed[0] < 1.2 * strayed[1]


@every_model
def test_wanted_rows_alone_are_given_their_logits(name: str) -> None:
    model, texts = models.served(name), [torch.arange(20), torch.arange(30, 41)]
    every = step(model, pages_of(model, 20), texts, [(0, 20), (0, 11)], 0)
    keep = torch.tensor([19, 30])
    some = step(model, pages_of(model, 20), texts, [(0, 20), (0, 11)], 0, keep)
    torch.testing.assert_close(some, every[keep], atol=1e-4, rtol=1e-4)


@every_model
def test_every_weight_of_the_checkpoint_has_a_part_in_the_logits(name: str) -> None:
    model, names = models.merged(models.oracle(name)), set(models.oracle(name).state_dict())
    assert names - model.weights.keys() == ({"lm_head.weight"} if name != "demo" else set())
    before = steps(model)
    for key, weight in model.weights.items():
        kept = weight.clone()
        weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        assert (steps(model) - before).abs().max() > 1e-3, key
        weight.copy_(kept)
    assert torch.equal(steps(model), before)


@pytest.mark.parametrize(
    "option", [{"sliding_window": 8}, {"dropout": 0.1}, {"attention_mask": torch.zeros(1, 1, 1, 1)}]
)
def test_modules_that_ask_for_more_than_causal_attention_are_refused(option: dict[str, Any]) -> None:
    query, key, value = torch.zeros(1, 4, 1, 16), torch.zeros(1, 2, 1, 16), torch.zeros(1, 2, 1, 16)
    pages = pages_of(models.modules("demo"), 10)
    with pytest.raises(NotImplementedError, match="no mask, window or dropout"):
        paged_attention(
            nn.Module(), query, key, value, **{"attention_mask": None, **option},
            layout=layout_of([(0, 1)], 1, torch.device("cpu")), pages=pages,
        )  # fmt: skip


def test_a_tied_head_is_the_embedding_and_an_untied_one_is_not() -> None:
    assert "lm_head.weight" in models.served("demo").weights
    assert "lm_head.weight" not in models.served("qwen2").weights


CONFIG: dict[str, Any] = {
    "model_type": "qwen2", "vocab_size": 10, "hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "beyond"),
    [
        ({}, None),
        ({"rope_theta": 1e6, "rope_scaling": None}, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, None),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, None),
        ({"rope_scaling": {"type": "llama3", "factor": 4.0}}, "rope of type llama3"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e6, "factor": 4.0}}, "rope of type llama3"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias"),
    ],
)
def test_what_the_merged_forward_does_not_compute_is_left_to_the_modules(
    more: dict[str, Any], beyond: str | None
) -> None:
    assert ModelConfig.model_validate({**CONFIG, **more}).beyond_merged() == beyond


@pytest.mark.parametrize("name", ["qwen2.5-0.5b-instruct", "qwen2.5-7b-instruct", "qwen3", "demo"])
def test_genuine_configurations_are_read_as_transformers_reads_them(name: str) -> None:
    path = DEMO if name == "demo" else GENUINE / name
    if not path.is_dir():
        pytest.skip("the genuine Qwen configurations are not on this machine")
    theirs: Any = AutoConfig.from_pretrained(path, local_files_only=True)
    assert isinstance(theirs, Qwen2Config | Qwen3Config)
    ours = read_model_config(path, name)
    assert ours.beyond_merged() is None
    assert (ours.windowed, ours.context_length) == ((), theirs.max_position_embeddings)
    rope = {"rope_theta", "rope_scaling", "rope_parameters"}
    for field in {*ModelConfig.model_fields} - rope - {"head_dim", "dtype", "sliding_window", "layer_types"}:
        if hasattr(theirs, field):
            assert getattr(ours, field) == getattr(theirs, field), field
    assert ours.rope["rope_theta"] == dict(theirs.rope_parameters or {})["rope_theta"]
    assert ours.shape(2).head_dim == (getattr(theirs, "head_dim", None) or ours.hidden_size // ours.num_attention_heads)
    assert f"torch.{ours.dtype}" == str(theirs.dtype)


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"hidden_size": -1}, r"config.json: hidden_size: .*\(it is -1\)$"),
        ({"num_hidden_layers": "many"}, r"num_hidden_layers: .*\(it is 'many'\)$"),
        ({"model_type": "llama"}, r"model_type: .*\(it is 'llama'\)$"),
        ({"num_key_value_heads": 3}, "4 attention heads do not share 3 key heads evenly"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised by awq.* use the bf16 model"),
        ({"quantization_config": {"quant_method": "fp8", "fmt": "e4m3"}}, "quantised by fp8"),
        ({"quantization_config": {"bits": 4}}, "quantised by an unnamed method"),
    ],
)
def test_a_configuration_that_is_not_served_stops_the_start_in_one_line(
    tmp_path: Path, values: dict[str, Any], cause: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **values}), encoding="utf-8")
    with pytest.raises(StartError, match=cause) as caught:
        read_model_config(tmp_path, "mine")
    assert "\n" not in str(caught.value)
