"""Tiny random models of genuine architecture, and the serial `generate` that every engine is measured against."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from handler.engine.protocol import ModelInfo
from handler.engine.sampling import Sampling
from handler.inference.config import EngineConfig
from handler.inference.loop import BatchingEngine
from handler.inference.model import Model
from handler.inference.shape import ModelShape
from handler.model.config import ModelConfig
from handler.model.modules import Modules
from handler.model.qwen import Qwen
from handler.ops.parts import Parts

# One thread is fastest for models this small, and the only number that is the same everywhere.
torch.set_num_threads(1)

#: `demo`: Qwen2, untied, few heads. `qwen2`: tied and grouped like Qwen2.5-0.5B (14 heads on 2). `qwen3`: a head_dim
#: of its own and norms on queries and keys.
NAMES = ("demo", "qwen2", "qwen3")
VOCAB = 512
CONTEXT = 1024
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "max_position_embeddings": CONTEXT,
    "rope_theta": 10_000.0,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
    "attn_implementation": "sdpa",
}


def _config(name: str) -> Qwen2Config | Qwen3Config:
    match name:
        case "demo":
            return Qwen2Config(
                hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, tie_word_embeddings=False, **_COMMON,
            )  # fmt: skip
        case "qwen2":
            return Qwen2Config(
                hidden_size=112, intermediate_size=160, num_hidden_layers=2, num_attention_heads=14,
                num_key_value_heads=2, tie_word_embeddings=True, **_COMMON,
            )  # fmt: skip
        case "qwen3":
            return Qwen3Config(
                hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=32, tie_word_embeddings=True, **_COMMON,
            )  # fmt: skip
        case _:
            raise ValueError(name)


def build(name: str) -> PreTrainedModel:
    """A fresh model in float32 on the CPU; the same weights each time."""
    torch.manual_seed(NAMES.index(name))
    shape = _config(name)
    model: PreTrainedModel = Qwen3ForCausalLM(shape) if isinstance(shape, Qwen3Config) else Qwen2ForCausalLM(shape)
    with torch.no_grad():
        # As initialised, logits are nearly flat and every comparison would turn on rounding; and a tied embedding
        # would repeat the last token for ever, where the layers do not outweigh it.
        for key, parameter in model.named_parameters():
            if "norm" not in key and "embed" not in key:
                parameter.mul_(7.0)
            if key.endswith("bias"):
                parameter.normal_(0, 0.2)
        model.get_parameter("model.norm.weight").fill_(5.0 if shape.tie_word_embeddings else 1.2)
    model.train(False).requires_grad_(False)
    return model


@cache
def oracle(name: str) -> PreTrainedModel:
    """The model with transformers' own attention."""
    return build(name)


@cache
def served(name: str) -> Qwen:
    """The same weights for engines, one after the other."""
    return merged(oracle(name))


@cache
def modules(name: str) -> Modules:
    """The same again, by transformers' modules."""
    return Modules(build(name))


def merged(model: PreTrainedModel, device: torch.device | str = "cpu") -> Qwen:
    """Our forward, with a copy of the weights of transformers' model."""
    weights = {name: weight.to(device) for name, weight in model.state_dict().items()}
    return Qwen.from_state(ModelConfig.model_validate(model.config.to_dict()), weights)


@dataclass(frozen=True)
class Changed:
    """A model whose forward is another."""

    model: Model
    forward: Callable[..., Tensor]

    @property
    def shape(self) -> ModelShape:
        return self.model.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        return self.model.device

    def reserve(self, positions: int) -> None:
        self.model.reserve(positions)

    def head(self, hidden: Tensor) -> Tensor:
        return self.model.head(hidden)


@cache
def greedy(name: str, prompt: tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
    """What serial greedy `generate` says."""
    return generated(oracle(name), prompt, max_tokens)


def generated(model: Any, prompt: tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
    """The same, by this model of transformers."""
    greedily = GenerationConfig(max_new_tokens=max_tokens, do_sample=False, eos_token_id=None, pad_token_id=0)
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedily)
    return tuple(out[0, len(prompt) :].tolist())


def info(name: str, *, stop_token_ids: Sequence[int] = ()) -> ModelInfo:
    return ModelInfo(
        name=name,
        revision=None,
        source="path",
        architecture="qwen3" if name == "qwen3" else "qwen2",
        forward="merged",
        eval_mode=True,
        dtype="float32",
        device="cpu",
        parameters=0,
        weight_bytes=0,
        vocab_size=VOCAB,
        context_length=CONTEXT,
        stop_token_ids=tuple(stop_token_ids),
        sampling_defaults={},
    )


def token_bytes(token_id: int) -> bytes:
    """Every id is a word of its own: ` 0` … ` 511`."""
    return b" %d" % token_id


def sampling(max_tokens: int = 8, **wishes: object) -> Sampling:
    """Greedy, where nothing else is wished for."""
    return Sampling.model_validate({"max_tokens": max_tokens, "temperature": 0.0, "seed": 0, **wishes})


def unchecked(max_tokens: int = 8, **fields: Any) -> Sampling:
    """Sampling as no request can bring it: nothing is checked."""
    values: dict[str, Any] = {"max_tokens": max_tokens, "temperature": 0.0, "seed": 0, **fields}
    return Sampling.model_construct(None, **values)


def changed(sampling: Sampling, **fields: object) -> Sampling:
    """The same sampling with other values."""
    return Sampling.model_validate({**dict(sampling), **fields})


def config(**wishes: Any) -> EngineConfig:
    """Room for all that tests send at once, where nothing tighter is wished for."""
    roomy = {
        "rows": 64, "max_waiting": 256, "max_model_len": 700, "page_size": 16, "pages": 3000, "prefill_chunk": 2048,
        "attention": "auto", "graph_buckets": (), "overlap": False,
    }  # fmt: skip
    alone = {"prefill_alone": wishes.get("prefill_chunk", 2048)}
    return EngineConfig(**{**roomy, **alone, **wishes})


@contextmanager
def serving(
    name: str = "demo",
    *,
    stop_token_ids: Sequence[int] = (),
    forward: Callable[..., Tensor] | None = None,
    model: Model | None = None,
    check: Callable[[Parts], Parts] | None = None,
    **wishes: Any,
) -> Iterator[BatchingEngine]:
    """An engine on the tiny model, closed at the end; `forward` in place of its own. `wishes` are those of `config`."""
    model = model or served(name)
    if forward is not None:
        model = Changed(model, forward)
    facts = info(name, stop_token_ids=stop_token_ids)
    engine = BatchingEngine(model, facts, token_bytes, config(**wishes), check=check)
    try:
        yield engine
    finally:
        engine.close()
