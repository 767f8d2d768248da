"""The tiny models with another rotary embedding, and transformers' logits of them."""

from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from tests.support import models

#: positions before the extension
ORIGINAL = 32
SCALINGS: dict[str, dict[str, Any]] = {
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
}


def rescaled(name: str, scaling: dict[str, Any]) -> PreTrainedModel:
    """A fresh model with the weights of `models.build(name)`; dynamic scaling keeps a state in transformers."""
    plain = models.build(name)
    config = deepcopy(plain.config)
    config.max_position_embeddings = ORIGINAL
    config.rope_parameters = {"rope_theta": 10_000.0, **scaling}
    model = type(plain)(config)
    model.load_state_dict(plain.state_dict())
    model.train(False).requires_grad_(False)
    return model


def cached_logits(model: PreTrainedModel, text: Tensor, prompt: int) -> Tensor:
    """[tokens, vocab] of a text: its first `prompt` tokens in one step, then each in a step of its own, as `generate`
    computes them."""
    cache = DynamicCache()
    spans = [(0, prompt), *((at, at + 1) for at in range(prompt, len(text)))]
    with torch.inference_mode():
        steps = [model(text[None, begin:end], past_key_values=cache, use_cache=True).logits[0] for begin, end in spans]
    return torch.cat(steps)


@cache
def greedily(name: str, kind: str, prompt: tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
    """What serial greedy `generate` says, by a model that has seen no other text."""
    return models.generated(rescaled(name, SCALINGS[kind]), prompt, max_tokens)
