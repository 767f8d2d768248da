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
    #: a prompt longer than this has keys that depend on its length (rope of type dynamic), so that prompts of different
    #: lengths share none of them; None where keys never do
    shared_prompt: int | None = None

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype_bytes

    def step_bytes(self, tokens: int, rows: int) -> int:
        """An upper estimate of the bytes that one step allocates: activations of one layer, logits and sampling."""
        # Logits once as computed, and about four times in 32 bits: scores, noise, sorted and summed copies.
        return tokens * self._activation_bytes + rows * self.vocab * (self.dtype_bytes + 16)

    def attention_bytes(self, contexts: int, rows: int) -> int:
        """An upper estimate of the bytes that the kernels of attention allocate in a step beside `step_bytes`.

        Prefill gathers the keys and values of its `contexts` tokens, one layer after the other, and keeps five integers
        of 64 bits for each. Decode keeps the results of 8 splits of each of `rows` contexts, each for 16 query heads in
        32 bits.
        """
        head = self.kv_heads * self.head_dim
        return contexts * (2 * head * self.dtype_bytes + 5 * 8) + rows * head * 8 * 16 * 4

    def graph_bytes(self, rows: int, graphs: int) -> int:
        """An upper estimate of the bytes of so many decode graphs, the largest of `rows` rows, that share their memory.

        The memory of the largest: logits, scores in 32 bits, activations and the search of the sampler, and a quarter
        more for the allocator's blocks, by a model of torch's allocator; and 4 MiB a graph for the driver, an estimate.
        Neither was measured on a GPU.
        """
        if not graphs:
            return 0
        memory = rows * (self.vocab * (self.dtype_bytes + 4 + 0.2) + self._activation_bytes)
        return int(1.25 * (memory + self.attention_bytes(0, rows))) + graphs * 4 * 2**20

    def history_bytes(self, rows: int) -> int:
        """Bytes of the counts that penalties need: one of 32 bits for each token of the vocabulary and each row."""
        return rows * self.vocab * 4

    @property
    def _activation_bytes(self) -> int:
        """Of one token in one layer."""
        return (4 * self.hidden + 4 * self.heads * self.head_dim + 3 * self.intermediate) * self.dtype_bytes
