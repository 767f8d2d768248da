"""transformers' modules run only where every layer is one of full attention."""

from typing import Any

import pytest
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from handler.errors import StartError
from handler.model.modules import Modules
from tests.support import models


def of_layers(kind: str) -> PreTrainedModel:
    """A model whose second layer is of this type."""
    config: dict[str, Any] = {**models.build("qwen3").config.to_dict(), "layer_types": ["full_attention", kind]}
    return Qwen3ForCausalLM(Qwen3Config.from_dict({**config, "use_sliding_window": True, "sliding_window": 8}))


def test_a_layer_with_a_window_is_refused_where_the_modules_are_chosen() -> None:
    with pytest.raises(
        StartError, match="layers of the type sliding_attention, but this worker computes full attention"
    ):
        Modules(of_layers("sliding_attention"))


def test_a_hybrid_is_refused_there_though_the_check_of_its_name_is_passed() -> None:
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    hybrid = Qwen3NextForCausalLM(
        Qwen3NextConfig(
            vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, linear_num_key_heads=1, linear_num_value_heads=2,
            linear_key_head_dim=16, linear_value_head_dim=16, num_experts=2, num_experts_per_tok=1,
            moe_intermediate_size=16, shared_expert_intermediate_size=16,
        )
    )  # fmt: skip
    with pytest.raises(StartError, match="layers of the type linear_attention"):
        Modules(hybrid)
    del hybrid.config.layer_types
    with pytest.raises(StartError, match="no attention in layer 0"):
        Modules(hybrid)
