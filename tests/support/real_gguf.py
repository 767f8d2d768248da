"""Turns a GGUF file of a Llama into a Qwen2 checkpoint. Knows no network and no cache.

A Qwen2 block is a Llama block with biases on queries, keys and values; with biases of zero the two compute the same.
Names of metadata: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

#: a block's tensors: GGUF -> Qwen2
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
#: projections that have a bias in a Qwen2
BIASED = ("attn_q", "attn_k", "attn_v")
#: the type of a control token (`tokenizer.ggml.token_type`)
CONTROL = 3


def convert(file: Path, directory: Path, dtype: torch.dtype) -> None:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer's files into `directory`.

    Weights are dequantised in float32 and then rounded to `dtype`.

    Raises:
        ValueError: the file is no Llama with tied embeddings, or its tokenizer is not SmolLM2's kind.
    """
    reader = GGUFReader(file)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    kind = (facts["general.architecture"], facts["tokenizer.ggml.model"], facts["tokenizer.ggml.pre"])
    if kind != ("llama", "gpt2", "smollm") or any(tensor.name == "output.weight" for tensor in reader.tensors):
        raise ValueError(f"{file.name}: {kind} is not a Llama with tied embeddings and the tokenizer of SmolLM")
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / "config.json", _config(facts, dtype))
    ends = {f"{name}_token_id": facts[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos")}
    _write(directory / "generation_config.json", ends)
    _write(directory / "tokenizer_config.json", _tokenizer_config(facts))
    _tokenizer(facts).save(str(directory / "tokenizer.json"))
    weights = {name: weight.to(dtype).contiguous() for name, weight in _weights(reader, facts)}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def _config(facts: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": facts["llama.vocab_size"],
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": facts["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": facts["llama.rope.freq_base"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def _weights(reader: GGUFReader, facts: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of the Qwen2, in float32, by their names."""
    heads = {"attn_q": facts["llama.attention.head_count"], "attn_k": facts["llama.attention.head_count_kv"]}
    for tensor in reader.tensors:
        weight = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type)))
        match tensor.name.split("."):
            case ["token_embd", "weight"]:
                yield "model.embed_tokens.weight", weight
            case ["output_norm", "weight"]:
                yield "model.norm.weight", weight
            case ["blk", number, part, "weight"]:
                if part in heads:
                    weight = _halves_apart(weight, heads[part])
                name = f"model.layers.{number}.{BLOCK[part]}"
                yield f"{name}.weight", weight
                if part in BIASED:
                    yield f"{name}.bias", torch.zeros(weight.shape[0])
            case _:
                raise ValueError(f"{tensor.name} belongs to no part of a Llama")


def _halves_apart(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of each head in the order of transformers: GGUF has a head's two halves row by row in turns."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def _tokenizer(facts: Mapping[str, Any]) -> Tokenizer:
    """GPT-2's byte-level BPE; each digit is a word of its own (HuggingFaceTB/SmolLM2-135M-Instruct, tokenizer.json)."""
    tokens = facts["tokenizer.ggml.tokens"]
    merges = [(left, right) for left, right in (merge.split(" ") for merge in facts["tokenizer.ggml.merges"])]
    backend = Tokenizer(BPE({token: id_ for id_, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"]
    backend.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == CONTROL
        ]
    )
    return backend


def _tokenizer_config(facts: Mapping[str, Any]) -> dict[str, Any]:
    tokens = facts["tokenizer.ggml.tokens"]
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    return {
        **{f"{name}_token": tokens[facts[f"tokenizer.ggml.{theirs}_token_id"]] for name, theirs in names.items()},
        "chat_template": facts["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": facts["llama.context_length"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
