"""The forward by transformers' own modules of Qwen2 and Qwen3, unchanged, on our paged attention.

Serves models that the merged forward does not support, and is its reference in tests. Imported only where it is chosen,
because importing transformers takes seconds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging

from handler.errors import StartError
from handler.model.config import ModelConfig
from handler.model.rope import kind_of
from handler.ops.attention import attend
from handler.ops.pages import KVPages, Layout

ATTENTION = "paged"


class Modules:
    """A `Model` made of transformers' modules."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Set the attention of `model` to ours; from then on the model runs only through this class.

        Raises:
            StartError: a layer has another attention than a full one, which would run on ours and answer wrongly.
        """
        _check_layers(model)
        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, paged_attention)
        model.eval().requires_grad_(False)
        model.set_attn_implementation(ATTENTION)
        self.dtype, self.device = model.dtype, model.device
        self.shape = ModelConfig.model_validate(model.config.to_dict()).shape(model.dtype.itemsize)
        self._body, self._head = model.get_submodule("model"), model.get_submodule("lm_head")

    @property
    def training(self) -> bool:
        """Whether dropout and the like are on."""
        return self._body.training

    @classmethod
    def load(
        cls, directory: Path, dtype: torch.dtype | None, device: torch.device, rope: Mapping[str, Any] | None = None
    ) -> "Modules":
        """Load a checkpoint, in its own dtype where `dtype` is None and with its own rope where `rope` is None.

        Raises the errors of transformers, and StartError as above.
        """
        logging.disable_progress_bar()
        own = {} if rope is None else {"rope_parameters": {"rope_type": kind_of(rope), **rope}}
        return cls(
            AutoModelForCausalLM.from_pretrained(
                directory, local_files_only=True, dtype=dtype or "auto", device_map={"": device}, **own
            )
        )

    def reserve(self, positions: int) -> None:
        """See `Model.reserve`; transformers' modules keep no table of positions."""

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        keep: Tensor | None,
        layout: Layout,
        pages: KVPages,
        out: Tensor | None = None,
    ) -> Tensor:
        """See `Model.forward`; all tokens of a step are packed into one row."""
        hidden = self._body(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, layout=layout, pages=pages
        ).last_hidden_state[0]
        if layout.scored is not None:
            layout.hidden = hidden[layout.scored]
        logits = self.head(hidden if keep is None else hidden[keep])
        return logits if out is None else out.copy_(logits)

    def head(self, hidden: Tensor) -> Tensor:
        """See `Model.head`."""
        logits: Tensor = self._head(hidden)
        return logits


def _check_layers(model: PreTrainedModel) -> None:
    """Each layer must be one of full attention: others keep a state or a window, of which our cache knows nothing."""
    types = getattr(model.config, "layer_types", None) or []
    other = [kind for kind in types if kind != "full_attention"]
    layers = model.get_submodule("model.layers").children()
    lacking = [index for index, layer in enumerate(layers) if not hasattr(layer, "self_attn")]
    if other or lacking:
        found = f"layers of the type {other[0]}" if other else f"no attention in layer {lacking[0]}"
        raise StartError(
            f"the model has {found}, but this worker computes full attention in every layer; "
            "use a dense Qwen2.5 or Qwen3"
        )


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    *,
    layout: Layout,
    pages: KVPages,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Write this step's keys and values, then attend; called by transformers' attention interface.

    query is [1, heads, tokens, head_dim], key and value [1, kv_heads, tokens, head_dim]; returns
    [1, tokens, heads, head_dim]. No mask function is registered on purpose: without one transformers builds no mask
    (`masking_utils._preprocess_mask_arguments`) and does not search the positions for packed sequences.
    """
    if attention_mask is not None or sliding_window is not None or dropout:
        raise NotImplementedError("paged attention is causal over the whole context: no mask, window or dropout")
    layer = module.layer_idx
    assert isinstance(layer, int)
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    pages.write(layer, layout.slots, key, value)
    return attend(layer, query, key, value, layout, pages)[None], None
