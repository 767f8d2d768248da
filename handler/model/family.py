"""The kinds of Qwen checkpoints that this worker does not serve, each by its name, with what to use instead.

docs/models.md has the whole table. Knows config.json alone, and no weight.
"""

from collections.abc import Mapping
from typing import Any

_TEXT = "use a text model, Qwen2.5 or Qwen3"
_SEES = f"a vision-language model; this worker does not take the text model out of it; {_TEXT}"
_HEARS = f"a model of speech or audio; {_TEXT}"
_EXPERTS = "a mixture of experts; use a dense Qwen2.5 or Qwen3"
_HYBRID = "a hybrid with linear attention, which this worker does not compute; use a dense Qwen2.5 or Qwen3"

#: `model_type` of config.json -> why it is not served
REFUSED: Mapping[str, str] = {
    "qwen": "the first Qwen, with code of its own; use Qwen2.5 or Qwen3",
    **dict.fromkeys(
        (
            "qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text", "qwen3_vl", "qwen3_vl_text", "qwen3_vl_moe",
            "qwen3_vl_moe_text",
        ),
        _SEES,
    ),
    **dict.fromkeys(("qwen2_audio", "qwen2_5_omni", "qwen3_omni_moe"), _HEARS),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe"), _EXPERTS),
    **dict.fromkeys(
        ("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp"), _HYBRID
    ),
}  # fmt: skip


def refusal(content: Mapping[str, Any]) -> str | None:
    """Why a checkpoint with this config.json is not served, by its kind alone; None where its kind is served."""
    kind = content.get("model_type")
    if isinstance(kind, str) and kind in REFUSED:
        return f"{kind} is {REFUSED[kind]}"
    if "vision_config" in content:
        return f"config.json has a vision_config: it is {_SEES}"
    return None
