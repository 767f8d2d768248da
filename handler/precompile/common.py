"""The Qwen models that workers serve most, as numbers: an image without weights compiles the kernels of all of them.

Kernels depend on these numbers and on no weight. Each row is that of config.json of Qwen/Qwen2.5-… (base, Instruct and
Coder alike) or Qwen/Qwen3-…: all eleven were compared with copies of these files in public repositories, 2026-11-25.
"""

from handler.model.config import ModelConfig

#: hidden_size, intermediate_size, num_attention_heads, num_key_value_heads, vocab_size
_QWEN2_5 = {
    "Qwen2.5-0.5B": (896, 4864, 14, 2, 151_936),
    "Qwen2.5-1.5B": (1536, 8960, 12, 2, 151_936),
    "Qwen2.5-3B": (2048, 11_008, 16, 2, 151_936),
    "Qwen2.5-7B": (3584, 18_944, 28, 4, 152_064),
    "Qwen2.5-14B": (5120, 13_824, 40, 8, 152_064),
    "Qwen2.5-32B": (5120, 27_648, 40, 8, 152_064),
}
_QWEN3 = {
    "Qwen3-0.6B": (1024, 3072, 16, 8, 151_936),
    "Qwen3-1.7B": (2048, 6144, 16, 8, 151_936),
    "Qwen3-4B": (2560, 9728, 32, 8, 151_936),
    "Qwen3-8B": (4096, 12_288, 32, 8, 151_936),
    "Qwen3-14B": (5120, 17_408, 40, 8, 151_936),
}
#: ids that the tokenizer of each family has
_TOKENS = {"qwen2": 151_665, "qwen3": 151_669}


def _config(family: str, hidden: int, intermediate: int, heads: int, kv_heads: int, vocab: int) -> ModelConfig:
    """One layer alone, and few positions: the numbers of layers and positions do not enter the kernels."""
    return ModelConfig.model_validate(
        {
            "model_type": family,
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": 1,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": 1024,
            "head_dim": 128 if family == "qwen3" else None,
            "dtype": "bfloat16",
        }
    )


#: name of a model -> its configuration, as far as kernels depend on it, and the ids that its tokenizer has
COMMON: dict[str, tuple[ModelConfig, int]] = {
    name: (_config(family, *numbers), _TOKENS[family])
    for family, models in (("qwen2", _QWEN2_5), ("qwen3", _QWEN3))
    for name, numbers in models.items()
}
