"""Checkpoints of kinds that this worker does not serve are refused by name, with what to use instead."""

import json
from pathlib import Path
from typing import Any

import pytest

from handler.errors import StartError
from handler.model.config import read_model_config
from handler.model.family import REFUSED

#: config.json of a Qwen-VL nests the text model's fields, or has them at the top as Qwen2-VL does
NESTED: dict[str, Any] = {"text_config": {"hidden_size": 64}, "vision_config": {"hidden_size": 32}}


def cause(path: Path, content: dict[str, Any]) -> str:
    (path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(StartError) as caught:
        read_model_config(path, "mine")
    return str(caught.value)


@pytest.mark.parametrize("kind", REFUSED)
def test_each_kind_is_refused_by_its_name(tmp_path: Path, kind: str) -> None:
    for content in ({"model_type": kind}, {"model_type": kind, **NESTED}):
        message = cause(tmp_path, content)
        assert message.startswith(f"mine: {kind} is ")
        assert "use " in message
        assert "\n" not in message


def test_a_text_model_inside_a_vision_language_checkpoint_is_not_taken_for_a_text_model(tmp_path: Path) -> None:
    assert "a vision-language model" in cause(tmp_path, {"model_type": "qwen2_5_vl", **NESTED})
    assert "has a vision_config: it is a vision-language model" in cause(tmp_path, {"model_type": "qwen2", **NESTED})
