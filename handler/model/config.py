"""The configuration files of a checkpoint: config.json and generation_config.json. Knows no tensor."""

import json
import math
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, Field, ValidationError, model_validator

from handler import log
from handler.engine.sampling import MinP, RepetitionPenalty, Temperature, TopK, TopP
from handler.errors import StartError
from handler.inference.shape import ModelShape
from handler.model.family import refusal
from handler.model.one_line import is_printable, reason
from handler.model.rope import KINDS, Rope, kind_of

Settings = TypeVar("Settings", bound=BaseModel)

#: a dimension of a model: what fits 32 bits, as all of them do in a model that exists
Size = Annotated[int, Field(ge=1, lt=2**31)]
#: layers of the deepest model that is read; Qwen2.5-72B has 80
MOST_LAYERS = 1_000


class ModelConfig(BaseModel, frozen=True):
    """A dense Qwen2, 2.5 or 3, with the names of config.json and the defaults of transformers."""

    model_type: Literal["qwen2", "qwen3"]
    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    num_attention_heads: Size
    num_key_value_heads: Size
    max_position_embeddings: Size
    #: set by Qwen3; None means hidden_size / num_attention_heads, as in Qwen2
    head_dim: Size | None = None
    rms_norm_eps: float = Field(1e-6, ge=0, allow_inf_nan=False)
    hidden_act: str = "silu"
    attention_bias: bool = False
    tie_word_embeddings: bool = False
    #: transformers 5 writes `rope_parameters`, earlier ones `rope_theta` and `rope_scaling`
    rope_theta: float = Field(10_000.0, gt=0, allow_inf_nan=False)
    rope_scaling: Mapping[str, Any] | None = None
    rope_parameters: Mapping[str, Any] | None = None
    use_sliding_window: bool = False
    #: tokens that a layer with a window attends to, itself included; only where `use_sliding_window` is set
    sliding_window: Size | None = 4096
    #: where `layer_types` is not set, layers from this one on have the window
    max_window_layers: Annotated[int, Field(ge=0, le=2**31)] = 28
    layer_types: tuple[str, ...] | None = None
    #: of Qwen2.5-1M: attention in chunks, for texts beyond its `original_max_position_embeddings`
    dual_chunk_attention_config: Mapping[str, Any] | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    dtype: Literal["bfloat16", "float16", "float32"] | None = Field(
        None, validation_alias=AliasChoices("dtype", "torch_dtype")
    )

    @model_validator(mode="after")
    def _check_heads(self) -> "ModelConfig":
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} attention heads do not share {self.num_key_value_heads} key heads evenly"
            )
        return self

    @model_validator(mode="after")
    def _check_rope(self) -> "ModelConfig":
        theta = self.rope["rope_theta"]
        if isinstance(theta, bool) or not isinstance(theta, int | float) or not 0 < theta <= sys.float_info.max:
            raise ValueError(f"rope_theta is {reprlib.repr(theta)}; it must be a finite number above 0")
        if any(isinstance(value, Mapping) for value in self.rope.values()):
            raise ValueError("rope_parameters names kinds of layers, but this worker has one rope for all layers")
        if self.rope.get("partial_rotary_factor") not in (None, 1):
            raise ValueError("partial_rotary_factor is set, but this worker rotates whole heads")
        for name, value in self.rope.items():
            numbers = value if isinstance(value, list) else [value]
            if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
                raise ValueError(f"rope_parameters: {reprlib.repr(name)} is not a finite number")
        return self

    @model_validator(mode="after")
    def _check_scaling(self) -> "ModelConfig":
        if self.rope_kind in KINDS:
            context = self.scaling.context(self.max_position_embeddings)
            if context >= 2**31:
                raise ValueError(f"the rope's factor extends the context to {context} positions, which is too many")
        return self

    @model_validator(mode="after")
    def _check_layers(self) -> "ModelConfig":
        types = self.layer_types
        if types is None:
            return self
        if len(types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types names {len(types)} layers, but num_hidden_layers is {self.num_hidden_layers}"
            )
        if other := {*types} - {"full_attention", "sliding_attention"}:
            raise ValueError(f"layer_types has {reprlib.repr(min(other))}, but this worker computes full attention")
        if "sliding_attention" in types and not (self.use_sliding_window and self.sliding_window):
            raise ValueError("layer_types has sliding_attention, but use_sliding_window and sliding_window are not set")
        return self

    @property
    def rope(self) -> Mapping[str, Any]:
        """The rotary position embedding: `rope_theta` and the parameters of its scaling."""
        return {"rope_theta": self.rope_theta, **(self.rope_scaling or {}), **(self.rope_parameters or {})}

    @property
    def rope_kind(self) -> str:
        """The type of the rope: one of `KINDS`, or another."""
        return kind_of(self.rope)

    @property
    def scaling(self) -> Rope:
        """The same as one value, for a type that our own forward computes."""
        return Rope.model_validate(self.rope)

    @property
    def windowed(self) -> tuple[int, ...]:
        """The layers that attend to the last `sliding_window` tokens alone."""
        if not self.use_sliding_window or self.sliding_window is None:
            return ()
        if self.layer_types is not None:
            return tuple(index for index, kind in enumerate(self.layer_types) if kind == "sliding_attention")
        return tuple(range(min(self.max_window_layers, self.num_hidden_layers), self.num_hidden_layers))

    @property
    def limits(self) -> Mapping[str, int]:
        """Positions that each part of the model allows, by the part; the context is the least of them."""
        kind, made = self.rope_kind, self.max_position_embeddings
        reached = {f"rope of type {kind}" if kind != "default" else "max_position_embeddings": made}
        if kind in KINDS and kind != "default":
            reached = {f"rope of type {kind}": self.scaling.context(made)}
        if self.windowed:
            # Within the window such a layer attends to the whole context, as ours do.
            reached["sliding_window"] = self.sliding_window or 0
        chunks = (self.dual_chunk_attention_config or {}).get("original_max_position_embeddings")
        if isinstance(chunks, int) and chunks > 0:
            reached["dual_chunk_attention_config"] = chunks
        return reached

    @property
    def context_length(self) -> int:
        """Positions that this worker computes as the model was made to."""
        return min(self.limits.values())

    def shape(self, dtype_bytes: int) -> ModelShape:
        """The dimensions of the model in a dtype of `dtype_bytes` bytes."""
        return ModelShape(
            context_length=self.context_length,
            layers=self.num_hidden_layers,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim or self.hidden_size // self.num_attention_heads,
            hidden=self.hidden_size,
            intermediate=self.intermediate_size,
            vocab=self.vocab_size,
            dtype_bytes=dtype_bytes,
            shared_prompt=self.max_position_embeddings if self.rope_kind == "dynamic" else None,
        )

    def beyond_merged(self) -> str | None:
        """The feature of this model that the merged forward does not support; None where it supports the model."""
        if (kind := self.rope_kind) not in KINDS:
            return f"rope of type {kind}"
        if self.hidden_act != "silu":
            return f"hidden_act {self.hidden_act}"
        if self.model_type == "qwen3" and self.attention_bias:
            return "attention_bias"
        return None


#: what generation_config.json may recommend, with the names and bounds of requests
RECOMMENDED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class GenerationConfig(BaseModel, frozen=True, allow_inf_nan=False):
    """The sampling that the makers of the model recommend; the other fields of the file have no effect here."""

    do_sample: bool = False
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    eos_token_id: int | tuple[int, ...] | None = None

    def sampling(self) -> Mapping[str, float | int]:
        """The values by our field names, without those that are not set; `do_sample: false` gives temperature 0."""
        given = {name: value for name in RECOMMENDED if (value := getattr(self, name)) is not None}
        return given if self.do_sample else {**given, "temperature": 0.0}


#: types of rope that transformers' modules compute from each position alone; others depend on what else is in a step
MODULES_ROPE = ("default", "linear", "yarn", "llama3")


def read_model_config(directory: Path, name: str, rope_scaling: Mapping[str, Any] | None = None) -> ModelConfig:
    """Read and check config.json; `name` is the operator's name of the model.

    `rope_scaling` takes the place of the file's own, but for `rope_theta`.

    Raises:
        StartError: the file is missing or damaged, or this worker does not serve the model.
    """
    content = read_json(directory / "config.json")
    if why := refusal(content):
        raise StartError(f"{name}: {why}")
    if method := _quantised(content):
        raise StartError(
            f"{name}: the model is quantised by {method}, but this worker runs unquantised weights; use the bf16 model"
        )
    config = _parse(ModelConfig, content, f"{name}: config.json")
    if rope_scaling is not None:
        config = _rescaled(config, rope_scaling)
    if config.beyond_merged() and config.rope_kind not in MODULES_ROPE:
        raise StartError(
            f"{name}: config.json has {config.beyond_merged()}, and this worker computes no rope of type "
            f"{config.rope_kind} for that; set ROPE_SCALING to one of type default, linear or yarn"
        )
    _warn_of_limits(config, name)
    return config


def _rescaled(config: ModelConfig, rope_scaling: Mapping[str, Any]) -> ModelConfig:
    """The config with the scaling of the operator's setting."""
    known = {*Rope.model_fields, "type"} - {"rope_theta"}
    if unknown := [key for key in rope_scaling if key not in known]:
        raise StartError(f"ROPE_SCALING has {reprlib.repr(unknown[0])}, which is not one of {', '.join(sorted(known))}")
    if (kind := kind_of(rope_scaling)) not in KINDS:
        raise StartError(f"ROPE_SCALING has the rope_type {reprlib.repr(kind)}; it must be one of {', '.join(KINDS)}")
    if kind != "yarn" and "original_max_position_embeddings" in rope_scaling:
        raise StartError(f"ROPE_SCALING has original_max_position_embeddings, which a rope_type {kind} does not use")
    theta = config.rope["rope_theta"]
    _parse(Rope, {**rope_scaling, "rope_theta": theta}, "ROPE_SCALING")
    own = {"rope_scaling": None, "rope_parameters": {**rope_scaling, "rope_type": kind, "rope_theta": theta}}
    return _parse(ModelConfig, {**config.model_dump(), **own}, "ROPE_SCALING")


def _warn_of_limits(config: ModelConfig, name: str) -> None:
    """Say where the context is shorter than the positions of the model, and why."""
    made, context = next(iter(config.limits.values())), config.context_length
    if context < made:
        part = next(part for part, limit in config.limits.items() if limit == context)
        log.warn(
            f"{name}: the context is {context} of {made} positions: beyond these config.json's {part} asks for another "
            "attention than this worker computes; within them the two are the same"
        )


def read_generation_config(directory: Path, name: str) -> GenerationConfig:
    """Read generation_config.json; the defaults where the checkpoint has none.

    A recommended value that a request may not send is left out, and a warning names it: an operator cannot always
    change the file, and only requests with `sampling_defaults: "model"` use the value.

    Raises:
        StartError: the file is damaged.
    """
    path = directory / "generation_config.json"
    if not path.exists():
        return GenerationConfig()
    content, file = read_json(path), f"{name}: {path.name}"
    try:
        return GenerationConfig.model_validate(content)
    except ValidationError as error:
        messages = {str(one["loc"][0]): one["msg"] for one in error.errors()}
    wrong = {field: message for field, message in messages.items() if field in RECOMMENDED}
    for field, message in wrong.items():
        log.warn(f"{file}: {field}: {message} (it is {reprlib.repr(content[field])}); the value is left out")
    return _parse(GenerationConfig, {key: value for key, value in content.items() if key not in wrong}, file)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that contains one JSON object.

    Raises:
        StartError: the file cannot be read, or contains something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        cause = error.strerror if isinstance(error, OSError) else reason(error)
        raise StartError(
            f"{path.name} of the model cannot be read: {cause}; check the file, or fetch the checkpoint again"
        ) from error
    if not isinstance(content, dict):
        raise StartError(f"{path.name} of the model is not a JSON object; fetch the checkpoint again")
    return content


def _quantised(config: Mapping[str, Any]) -> str | None:
    settings = config.get("quantization_config")
    if not settings:
        return None
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    return method if isinstance(method, str) and is_printable(method) else "an unnamed method"


def _parse(kind: type[Settings], content: Mapping[str, Any], file: str) -> Settings:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        value = f" (it is {reprlib.repr(content[field])})" if field in content else ""
        raise StartError(f"{file}: {field + ': ' if field else ''}{first['msg']}{value}") from error
