"""The dimensions of a model that decide how much memory it needs. Pure arithmetic: knows no tensor and no device."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions of a dense decoder model."""

    #: positions that the model was made for
    context_length: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    vocab: int
    #: bytes of one element; weights, activations and cache have the same dtype
    dtype_bytes: int

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype_bytes

    def step_bytes(self, tokens: int, rows: int) -> int:
        """An upper estimate of the bytes that one step allocates: activations of one layer, logits and sampling."""
        activations = 4 * self.hidden + 4 * self.heads * self.head_dim + 3 * self.intermediate
        # Logits once as computed, and about four times in 32 bits: scores, noise, sorted and summed copies.
        return tokens * activations * self.dtype_bytes + rows * self.vocab * (self.dtype_bytes + 16)
