"""The rotary position embedding of a model: its kind, its numbers and the context that it reaches. Knows no tensor.

Names and values are those of transformers' `rope_parameters` (modeling_rope_utils.py).
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

#: the kinds that our own forward computes
Kind = Literal["default", "linear", "dynamic", "yarn"]
KINDS: tuple[str, ...] = get_args(Kind)

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Rope(BaseModel):
    """The parameters of one kind; `max_position_embeddings` of config.json is given to the methods that need it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rope_theta: Positive
    rope_type: Kind = Field("default", validation_alias=AliasChoices("rope_type", "type"))
    #: by how much the context grows; kinds other than `default` need it
    factor: float = Field(1.0, ge=1, le=1024, allow_inf_nan=False)
    #: of yarn: positions before the extension; None means `max_position_embeddings`
    original_max_position_embeddings: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    #: of yarn: multiplies cosines and sines; None computes it from the factor
    attention_factor: Positive | None = None
    #: of yarn: rotations within the original context, above which a frequency stays and below which it is divided
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    mscale: float | None = Field(None, ge=0, allow_inf_nan=False)
    mscale_all_dim: float | None = Field(None, ge=0, allow_inf_nan=False)
    #: of yarn: rounds the range between the two betas to whole frequencies
    truncate: bool = True

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.rope_type != "default" and "factor" not in self.model_fields_set:
            raise ValueError(f"rope of type {self.rope_type} needs a factor")
        if self.rope_type == "yarn" and self.rope_theta <= 1:
            raise ValueError("rope of type yarn needs a rope_theta above 1")
        return self

    def original(self, positions: int) -> int:
        """Positions before the extension, of a config with so many `max_position_embeddings`."""
        return (self.original_max_position_embeddings or positions) if self.rope_type == "yarn" else positions

    def context(self, positions: int) -> int:
        """Positions that the extension reaches, of a config with so many `max_position_embeddings`."""
        if self.rope_type == "default":
            return positions
        return int(self.original(positions) * self.factor)

    @property
    def scale(self) -> float:
        """The factor of cosines and sines."""
        if self.rope_type != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._magnitude(self.mscale) / self._magnitude(self.mscale_all_dim)
        return self._magnitude(1.0)

    def _magnitude(self, mscale: float) -> float:
        """The YaRN paper's (arXiv 2309.00071, equation 22)."""
        return 1.0 if self.factor <= 1 else 0.1 * mscale * math.log(self.factor) + 1.0

    def ramp(self, head_dim: int, positions: int) -> tuple[float, float]:
        """Of yarn: the frequencies, by their index, between which the division by the factor begins and is complete."""
        low, high = (
            head_dim * math.log(self.original(positions) / (rotations * 2 * math.pi)) / (2 * math.log(self.rope_theta))
            for rotations in (self.beta_fast or 32, self.beta_slow or 1)
        )
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        return low, high if high != low else high + 0.001


def kind_of(parameters: Mapping[str, Any]) -> str:
    """The type that the parameters name, one of `KINDS` or another."""
    return str(parameters.get("rope_type") or parameters.get("type") or "default")
