"""Loads a checkpoint: from a snapshot, the model on its device, the template and the facts about both."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch

from handler import log
from handler.engine.protocol import ModelInfo
from handler.errors import StartError
from handler.inference.model import Model
from handler.model import ends, tokenizer
from handler.model.checkpoint import Checkpoint, wanted
from handler.model.config import ModelConfig, read_generation_config, read_model_config
from handler.model.one_line import reason
from handler.model.qwen import Qwen
from handler.model.shards import Stored, find_tensors
from handler.model.snapshot import Snapshot
from handler.model.template import Template


class Loaded(NamedTuple):
    """A model that is ready to run, with its template and facts."""

    model: Model
    template: Template
    info: ModelInfo


def load(
    snapshot: Snapshot,
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    rope_scaling: Mapping[str, Any] | None = None,
) -> Loaded:
    """Load a checkpoint. None means: the GPU where there is one, else the CPU; the checkpoint's own dtype and rope.

    Raises:
        StartError: a file is missing or damaged, this worker does not serve the model, or memory is too small.
    """
    config = read_model_config(snapshot.path, snapshot.name, rope_scaling)
    if config.rope_kind != "default":
        log.info(
            f"{snapshot.name}: the context is {config.context_length} positions, by a rope of type {config.rope_kind}"
        )
    generation = read_generation_config(snapshot.path, snapshot.name)
    template = Template(tokenizer.read(snapshot.path, snapshot.name))
    if not template.chats:
        log.warn(f"{snapshot.name} has no chat template: it answers generate with a prompt, and refuses messages")
    if template.tokens_in_vocab > config.vocab_size:
        raise StartError(
            f"{snapshot.name}: the tokenizer has {template.tokens_in_vocab} tokens, but the model has only "
            f"{config.vocab_size} rows for them; use the tokenizer that belongs to the model"
        )
    end_tokens = ends.read(template, generation, config, snapshot.name)
    tensors = wanted(find_tensors(snapshot.shards(), snapshot.name), tied=config.tie_word_embeddings)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    kind: Literal["merged", "modules"] = "modules" if config.beyond_merged() else "merged"
    dtype = dtype or (getattr(torch, config.dtype) if config.dtype else next(iter(tensors.values())).dtype)
    load_model = _load_merged if kind == "merged" else _load_modules
    model = load_model(snapshot, config, tensors, dtype, target)
    info = ModelInfo(
        name=snapshot.name,
        revision=snapshot.revision,
        source=snapshot.source,
        architecture=config.model_type,
        forward=kind,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        eval_mode=not getattr(model, "training", False),
        parameters=(parameters := sum(stored.elements for stored in tensors.values())),
        weight_bytes=parameters * model.dtype.itemsize,
        vocab_size=config.vocab_size,
        context_length=config.context_length,
        stop_token_ids=tuple(end.token_id for end in end_tokens if end.sources != ("chat_template",)),
        sampling_defaults=generation.sampling(),
        end_tokens=end_tokens,
    )
    return Loaded(model, template, info)


def _load_merged(
    snapshot: Snapshot, config: ModelConfig, tensors: Mapping[str, Stored], dtype: torch.dtype, device: torch.device
) -> Model:
    checkpoint = Checkpoint(tensors, dtype, device, snapshot.name)
    try:
        model = Qwen(config, checkpoint.take, dtype, device)
    except RuntimeError as error:  # from torch, where memory is too small
        raise StartError(
            f"{snapshot.name}: no memory for the weights ({reason(error)}); use a device with more memory"
        ) from error
    checkpoint.fill()
    return model


def _load_modules(
    snapshot: Snapshot, config: ModelConfig, tensors: Mapping[str, Stored], dtype: torch.dtype, device: torch.device
) -> Model:
    from handler.model.modules import Modules

    try:
        return Modules.load(snapshot.path, dtype, device, config.rope)
    except StartError as error:
        raise StartError(f"{snapshot.name}: {error}") from error
    except Exception as error:  # transformers raises many kinds of errors for damaged files
        raise StartError(
            f"{snapshot.name}: the checkpoint cannot be loaded ({reason(error)}); fetch it again"
        ) from error
