"""What a checkpoint's config.json and generation_config.json say. Knows no tensor: names and numbers alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, Field, PositiveInt, ValidationError, model_validator

from handler.errors import StartError
from handler.inference.shape import ModelShape

Settings = TypeVar("Settings", bound=BaseModel)


class ModelConfig(BaseModel, frozen=True):
    """A dense Qwen2, 2.5 or 3, by the names of config.json; what a file leaves open is as in transformers."""

    model_type: Literal["qwen2", "qwen3"]
    vocab_size: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    max_position_embeddings: PositiveInt
    #: Qwen3 names one of its own; None is hidden_size over heads, as in Qwen2
    head_dim: PositiveInt | None = None
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    attention_bias: bool = False
    tie_word_embeddings: bool = False
    #: transformers 5 writes `rope_parameters`, earlier ones `rope_theta` and `rope_scaling`
    rope_theta: float = 10_000.0
    rope_scaling: Mapping[str, Any] | None = None
    rope_parameters: Mapping[str, Any] | None = None
    use_sliding_window: bool = False
    eos_token_id: int | tuple[int, ...] | None = None
    dtype: Literal["bfloat16", "float16", "float32"] | None = Field(
        None, validation_alias=AliasChoices("dtype", "torch_dtype")
    )

    @model_validator(mode="after")
    def _add_up(self) -> "ModelConfig":
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} attention heads do not share {self.num_key_value_heads} key heads evenly"
            )
        return self

    @property
    def rope(self) -> Mapping[str, Any]:
        """How positions turn into angles: `rope_theta`, and what scales it."""
        return {"rope_theta": self.rope_theta, **(self.rope_scaling or {}), **(self.rope_parameters or {})}

    def shape(self, dtype_bytes: int) -> ModelShape:
        return ModelShape(
            context_length=self.max_position_embeddings,
            layers=self.num_hidden_layers,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim or self.hidden_size // self.num_attention_heads,
            hidden=self.hidden_size,
            intermediate=self.intermediate_size,
            vocab=self.vocab_size,
            dtype_bytes=dtype_bytes,
        )

    def beyond_merged(self) -> str | None:
        """What of this model the merged forward does not compute; None where it computes all."""
        kind = self.rope.get("rope_type") or self.rope.get("type") or "default"
        if kind != "default":
            return f"rope of type {kind}"
        if self.hidden_act != "silu":
            return f"hidden_act {self.hidden_act}"
        if self.model_type == "qwen3" and self.attention_bias:
            return "attention_bias"
        return None


class GenerationConfig(BaseModel, frozen=True):
    """How the model's makers sample; of all else in the file nothing has an effect here."""

    do_sample: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    eos_token_id: int | tuple[int, ...] | None = None

    def sampling(self) -> Mapping[str, float | int]:
        """By our field names; what it leaves open has no effect, and who does not sample is greedy."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return given if self.do_sample else {**given, "temperature": 0.0}


def read_model_config(directory: Path, name: str) -> ModelConfig:
    """Read and check config.json; `name` is what the operator calls the model.

    Raises:
        StartError: the file is missing or damaged, or the model is none that this worker serves.
    """
    told = read_json(directory / "config.json")
    if method := _quantised(told):
        raise StartError(
            f"{name}: quantised by {method}, and this worker runs unquantised weights; take the bf16 model"
        )
    config = _parse(ModelConfig, told, f"{name}: config.json")
    if config.use_sliding_window:
        raise StartError(f"{name}: config.json says use_sliding_window, and this worker attends the whole context")
    return config


def read_generation_config(directory: Path, name: str) -> GenerationConfig:
    """Read generation_config.json; a checkpoint may have none."""
    path = directory / "generation_config.json"
    return _parse(GenerationConfig, read_json(path), f"{name}: {path.name}") if path.exists() else GenerationConfig()


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        StartError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StartError(f"{path.name} of the model cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise StartError(f"{path.name} of the model is not a JSON object")
    return content


def _quantised(told: Mapping[str, Any]) -> str | None:
    settings = told.get("quantization_config")
    if not settings:
        return None
    return str(settings.get("quant_method", "an unnamed method")) if isinstance(settings, dict) else str(settings)


def _parse(kind: type[Settings], told: Mapping[str, Any], file: str) -> Settings:
    try:
        return kind.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        value = f" (it is {told[field]!r})" if field in told else ""
        raise StartError(f"{file}: {field + ': ' if field else ''}{first['msg']}{value}") from error
