"""The configuration of an engine: what an operator may set, and the values that it runs with.

Knows no model and no device: `plan` computes one from the other.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

#: implementation of attention: the plain one, the kernels, or the kernels where they can run
AttentionSetting = Literal["auto", "reference", "kernel"]

GIB = 2**30

#: given tokens whose logits a step computes at a time: in 32 bits, 64 rows of a vocabulary of 152,000 tokens take
#: 39 MB, and their log-probabilities as much again. The plan of memory counts them like rows that draw.
SCORED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The settings of an operator, by the names of the environment variables; `plan` chooses a value for None."""

    max_concurrent_requests: int | None = None
    max_model_len: int | None = None
    kv_cache_gb: float | None = None
    prefill_chunk: int | None = None
    attention: AttentionSetting = "auto"
    graph_buckets: tuple[int, ...] | None = None
    speculative_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The values that an engine runs with."""

    #: requests that run at the same time
    rows: int
    #: requests that may wait beside those; more are refused
    max_waiting: int
    #: prompt and completion tokens of one request, at most
    max_model_len: int
    #: tokens in a page of the cache
    page_size: int
    #: pages in the cache, the scratch page included
    pages: int
    #: prompt tokens computed in one step beside decoding rows
    prefill_chunk: int
    #: prompt tokens computed in one step where no row decodes
    prefill_alone: int
    attention: AttentionSetting
    #: rows of the decode steps that get a CUDA graph, ascending
    graph_buckets: tuple[int, ...]
    #: launch a step before the tokens of the last one are read. Never with `speculative_tokens`: guesses need those
    #: tokens.
    overlap: bool
    #: tokens of a request guessed in one step, at most; 0 guesses none
    speculative_tokens: int = 0
    #: bytes of keys and values of one token in all layers
    token_bytes: int = 0
    #: tokens of the contexts of all chunks of a step, where it has more than one; None for any number
    prefill_contexts: int | None = None

    def describe(self) -> dict[str, JsonValue]:
        """The values for the start-up ledger and `info`, by public names."""
        return {
            "max_concurrent_requests": self.rows,
            "max_waiting": self.max_waiting,
            "max_model_len": self.max_model_len,
            "kv_cache_gb": round(self.pages * self.page_size * self.token_bytes / GIB, 3),
            "kv_cache_tokens": (self.pages - 1) * self.page_size,
            "page_size": self.page_size,
            "prefill_chunk": self.prefill_chunk,
            "prefill_alone": self.prefill_alone,
            "graph_buckets": list(self.graph_buckets),
            "overlap": self.overlap,
            "speculative_tokens": self.speculative_tokens,
        }
