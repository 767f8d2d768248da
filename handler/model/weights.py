"""Load a checkpoint: a snapshot in, a model on the device and its template out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from handler.errors import StartError
from handler.inference.engine import ModelInfo
from handler.model.snapshot import Snapshot
from handler.model.template import Template

#: what `model_type` in config.json may say
ARCHITECTURES = ("qwen2", "qwen3")


class Loaded(NamedTuple):
    """A model that is ready to run."""

    model: PreTrainedModel
    template: Template
    info: ModelInfo


def load(snapshot: Snapshot, *, device: str | None = None, dtype: torch.dtype | None = None) -> Loaded:
    """Load a checkpoint, in its own dtype unless another is asked for, onto the GPU where there is one.

    Raises:
        StartError: a file is missing or unreadable, or the architecture is not ours.
    """
    transformers_logging.disable_progress_bar()
    config = _read_json(snapshot.path / "config.json")
    if config.get("model_type") not in ARCHITECTURES:
        raise StartError(f"{snapshot.name}: model_type {config.get('model_type')!r} is not one of {ARCHITECTURES}")
    if "quantization_config" in config:
        raise StartError(f"{snapshot.name}: quantised checkpoints are not supported; take the bf16 one")
    if not any((snapshot.path / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise StartError(f"{snapshot.name}: no tokenizer there (tokenizer.json, or vocab.json with merges.txt)")
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(snapshot.path, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            snapshot.path, local_files_only=True, dtype=dtype or "auto", device_map={"": target}
        )
    except Exception as error:  # the libraries raise whatever the damaged file makes them raise
        raise StartError(f"{snapshot.name}: the checkpoint cannot be loaded: {_first_line(error)}") from error
    model.eval().requires_grad_(False)
    template = Template(cast(PreTrainedTokenizerFast, tokenizer))
    info = describe(model, snapshot)
    if template.tokens_in_vocab > info.vocab_size:
        raise StartError(
            f"{snapshot.name}: the tokenizer has {template.tokens_in_vocab} tokens, "
            f"the model only {info.vocab_size} rows for them"
        )
    return Loaded(model, template, info)


def describe(model: PreTrainedModel, snapshot: Snapshot) -> ModelInfo:
    """What `info` and replies tell about a loaded model."""
    generation = model.generation_config
    stops = generation.eos_token_id if generation.eos_token_id is not None else model.config.eos_token_id
    stop_ids = tuple(stops) if isinstance(stops, list | tuple) else () if stops is None else (stops,)
    return ModelInfo(
        name=snapshot.name,
        revision=snapshot.revision,
        source=snapshot.source,
        architecture=model.config.model_type,
        dtype=str(model.dtype).removeprefix("torch."),
        device=_device_name(model.device),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocab_size=model.config.vocab_size,
        context_length=model.config.max_position_embeddings,
        stop_token_ids=stop_ids,
        sampling_defaults=_sampling_defaults(generation),
    )


def _sampling_defaults(generation: GenerationConfig) -> Mapping[str, float | int]:
    """The generation_config by our field names; what it leaves open has no effect."""
    given: dict[str, float | int] = {}
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        value = getattr(generation, name, None)
        if value is not None:
            given[name] = value
    if not generation.do_sample:
        given["temperature"] = 0.0
    return given


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartError(f"{path.name} cannot be read: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise StartError(f"{path.name} is not a JSON object")
    return content


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
