"""config.json beyond the plain model: scaled rotary embeddings by file or setting, and layers with a window."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from handler.errors import StartError
from handler.model.config import ModelConfig, read_model_config
from tests.model.test_rope import CONFIG, logits_of
from tests.support import models
from tests.support.rescaled import cached_logits

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}


def read(path: Path, setting: dict[str, Any] | None = None, **values: Any) -> ModelConfig:
    (path / "config.json").write_text(json.dumps({**CONFIG, **values}), encoding="utf-8")
    return read_model_config(path, "mine", setting)


def test_the_setting_takes_the_place_of_the_files_scaling_and_keeps_its_theta(tmp_path: Path) -> None:
    linear = {"type": "linear", "factor": 2.0}
    assert read(tmp_path, rope_scaling=linear).context_length == 81_920
    assert read(tmp_path, rope_parameters={**linear, "rope_theta": 5e6}).context_length == 81_920
    by_setting = read(tmp_path, YARN, rope_parameters={**linear, "rope_theta": 5e6})
    assert by_setting.context_length == 131_072
    assert (by_setting.scaling.rope_theta, by_setting.scaling.rope_type) == (5e6, "yarn")
    assert (
        read(tmp_path, {"rope_type": "default"}, rope_parameters={**linear, "rope_theta": 5e6}).context_length == 40_960
    )
    assert read(tmp_path, {"type": "yarn", "factor": 4.0}).context_length == 4 * 40_960


@pytest.mark.parametrize(
    ("setting", "cause"),
    [
        ({"rope_type": "yarn"}, "ROPE_SCALING: .*rope of type yarn needs a factor"),
        ({"rope_type": "yarn", "factor": 0.5}, r"ROPE_SCALING: factor: .*\(it is 0.5\)"),
        ({"rope_type": "longrope", "factor": 4}, "'longrope'; it must be one of default, linear, dynamic, yarn"),
        (
            {"rope_type": "yarn", "factor": 4, "original": 1},
            "ROPE_SCALING has 'original', which is not one of attention",
        ),
        ({"rope_type": "yarn", "factor": 4, "rope_theta": 1e6}, "ROPE_SCALING has 'rope_theta', which is not one of"),
        ({"type": "linear", "factor": 4, "original_max_position_embeddings": 1}, "a rope_type linear does not use"),
        ({"rope_type": "linear", "factor": float("nan")}, "ROPE_SCALING: factor"),
        ({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 2**30}, "4294967296 positions"),
    ],
)
def test_a_wrong_setting_stops_the_start_and_is_named(tmp_path: Path, setting: dict[str, Any], cause: str) -> None:
    with pytest.raises(StartError, match=cause) as caught:
        read(tmp_path, setting)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"rope_scaling": {"type": "yarn"}}, "config.json: .*rope of type yarn needs a factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": "4"}, "rope_theta": 1.0}, "needs a rope_theta above 1"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 4}}, "set ROPE_SCALING to one of type default"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "attention_bias": True},
            "no rope of type dynamic for that",
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "rope_parameters names kinds of layers"),
        ({"rope_scaling": {"type": "linear", "factor": 2, "partial_rotary_factor": 0.5}}, "rotates whole heads"),
        ({"layer_types": ["linear_attention"] * 4}, "layer_types has 'linear_attention'"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types names 3 layers, but num_hidden_layers is 4"),
        ({"layer_types": ["sliding_attention"] * 4}, "use_sliding_window and sliding_window are not set"),
    ],
)
def test_what_no_forward_computes_rightly_stops_the_start(tmp_path: Path, values: dict[str, Any], cause: str) -> None:
    with pytest.raises(StartError, match=cause) as caught:
        read(tmp_path, **values)
    assert "\n" not in str(caught.value)


WINDOW: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 4096}


@pytest.mark.parametrize(
    ("values", "layers"),
    [
        ({"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 0}, ()),
        ({"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, ()),
        ({**WINDOW, "max_window_layers": 4}, ()),
        ({**WINDOW, "max_window_layers": 70}, ()),
        ({**WINDOW, "max_window_layers": 2}, (2, 3)),
        ({"use_sliding_window": True, "max_window_layers": 3}, (3,)),
        ({**WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}, (0, 2)),
    ],
)
def test_the_layers_with_a_window_are_those_of_transformers(values: dict[str, Any], layers: tuple[int, ...]) -> None:
    ours = ModelConfig.model_validate({**CONFIG, **values})
    assert ours.windowed == layers
    for kind in (Qwen2Config, Qwen3Config):
        theirs: Any = kind(**{**CONFIG, **values})
        types = theirs.layer_types if theirs.sliding_window else []
        assert tuple(index for index, one in enumerate(types) if one == "sliding_attention") == layers
    assert ours.context_length == (4096 if layers else 40_960)


def test_a_model_with_windows_is_served_within_its_window_and_a_warning_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read(tmp_path).context_length == 40_960
    assert capsys.readouterr().err == ""
    assert read(tmp_path, **WINDOW, max_window_layers=2).context_length == 4096
    assert (
        "the context is 4096 of 40960 positions: beyond these config.json's sliding_window" in capsys.readouterr().err
    )
    chunks = {"chunk_size": 262_144, "local_size": 8192, "original_max_position_embeddings": 262_144}
    million = read(tmp_path, max_position_embeddings=1_010_000, dual_chunk_attention_config=chunks)
    assert million.context_length == 262_144
    assert "262144 of 1010000 positions: beyond these config.json's dual_chunk" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_within_the_window_logits_are_those_of_transformers_and_beyond_it_they_would_not_be(name: str) -> None:
    plain = models.build(name)
    config: Any = type(plain.config).from_dict({
        **plain.config.to_dict(), "layer_types": None, "use_sliding_window": True, "sliding_window": 40,
        "max_window_layers": 1,
    })  # fmt: skip
    config._attn_implementation = "sdpa"
    model = (Qwen3ForCausalLM if isinstance(config, Qwen3Config) else Qwen2ForCausalLM)(config)
    model.load_state_dict(plain.state_dict())
    model.train(False)
    ours = ModelConfig.model_validate(config.to_dict())
    assert (ours.windowed, ours.context_length) == ((1,), 40)
    text = torch.randint(models.VOCAB, (60,), generator=torch.Generator().manual_seed(2))
    expected = cached_logits(model, text, 30).log_softmax(-1)
    strayed = (logits_of(models.served(name), text, 30, 30).log_softmax(-1) - expected).abs().amax(-1)
    assert strayed[:40].max() < 1e-5
    assert strayed[40:].min() > 1e-3
