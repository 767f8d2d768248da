"""How large the engine is: rows, context, cache pages, prefill chunk, from what is wished and what there is.

Pure arithmetic: reads no environment and asks no device.
"""

from dataclasses import dataclass
from typing import Literal

from handler.errors import StartError

Device = Literal["cpu", "cuda"]
AttentionWish = Literal["auto", "reference", "kernel"]

GIB = 2**30
#: a device's own share of free memory: fragments, library workspaces, captured graphs
HEAD_ROOM_SHARE, HEAD_ROOM_BYTES = 0.05, GIB // 2
#: a CPU worker shares its memory with everything else on the machine
CPU_CACHE_SHARE = 0.25
#: tokens in a page of the cache
PAGE_SIZE: dict[Device, int] = {"cpu": 16, "cuda": 64}
#: prompt tokens in one step, beside rows that decode and where none does. On a GPU a chunk beside others is bounded by
#: what they wait for it (docs/decisions/0006), one alone by what fills the device.
PREFILL: dict[Device, tuple[int, int]] = {"cpu": (512, 512), "cuda": (256, 2048)}
#: fewest tokens of context worth starting for, where nobody named a number
LEAST_CONTEXT = 256


@dataclass(frozen=True, slots=True)
class Wishes:
    """What an operator asks for; None leaves the choice to `plan`."""

    max_concurrent_requests: int | None = None
    max_model_len: int | None = None
    kv_cache_gb: float | None = None
    prefill_chunk: int | None = None
    attention: AttentionWish = "auto"
    graph_buckets: tuple[int, ...] | None = None
    speculative_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model decides about memory."""

    context_length: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    vocab: int
    #: of weights, activations and cache alike
    dtype_bytes: int

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype_bytes

    def step_bytes(self, tokens: int, rows: int) -> int:
        """An upper estimate of what one step allocates: activations of one layer, and logits with their sampling."""
        activations = 4 * self.hidden + 4 * self.heads * self.head_dim + 3 * self.intermediate
        # logits once as computed and about four times as 32-bit scores, noise, sorted and summed copies
        return tokens * activations * self.dtype_bytes + rows * self.vocab * (self.dtype_bytes + 16)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The size of an engine."""

    #: requests that run at once
    rows: int
    #: requests that wait beside those; more are refused
    max_waiting: int
    #: prompt and completion tokens of one request, at most
    max_model_len: int
    #: tokens in a page
    page_size: int
    #: pages in the cache, the scratch page included
    pages: int
    #: prompt tokens computed in one step, beside the decoding rows
    prefill_chunk: int
    #: and where no row decodes
    prefill_alone: int
    attention: AttentionWish
    #: rows of the decode steps that get a CUDA graph, ascending
    graph_buckets: tuple[int, ...]
    #: launch a step before the last one's tokens are read; never with `speculative_tokens`, which guess from them
    overlap: bool
    #: tokens of a request guessed in one step, at most; 0 guesses none
    speculative_tokens: int = 0
    #: keys and values of one token in all layers
    token_bytes: int = 0

    def describe(self) -> dict[str, object]:
        """For the start-up print and for `info`."""
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


def plan(wishes: Wishes, shape: ModelShape, *, device: Device, free_bytes: int) -> EngineConfig:
    """The engine that the wishes and the device allow. `free_bytes`: what is left beside the loaded weights.

    Raises:
        StartError: a wish is out of range, or does not fit; the message has the numbers.
    """
    gpu = device == "cuda"
    rows = _positive("MAX_CONCURRENT_REQUESTS", wishes.max_concurrent_requests, 128 if gpu else 32)
    beside, alone = PREFILL[device]
    chunk = _positive("PREFILL_CHUNK", wishes.prefill_chunk, beside)
    # A wish for less is one for smaller steps altogether: memory may be short.
    alone = chunk if wishes.prefill_chunk else alone
    page_size = PAGE_SIZE[device]
    page_bytes = page_size * shape.token_bytes
    cache = _cache_bytes(wishes, shape, gpu, free_bytes, shape.step_bytes(alone + rows, rows))
    # One page is scratch. A request never shares its last page, so rows x pages of one request is all that can be used.
    held = max(0, cache // page_bytes - 1) * page_size
    max_model_len = _context(wishes, shape, gpu, held, cache)
    pages = min(held // page_size, rows * -(-max_model_len // page_size)) + 1
    return EngineConfig(
        rows=rows,
        max_waiting=max(64, 4 * rows),
        max_model_len=max_model_len,
        page_size=page_size,
        pages=pages,
        prefill_chunk=chunk,
        prefill_alone=alone,
        attention=wishes.attention,
        graph_buckets=_buckets(wishes, rows) if gpu else (),
        overlap=gpu and not wishes.speculative_tokens,
        speculative_tokens=wishes.speculative_tokens,
        token_bytes=shape.token_bytes,
    )


def _positive(name: str, wish: int | None, default: int) -> int:
    if wish is None:
        return default
    if wish < 1:
        raise StartError(f"{name} is {wish}; it must be at least 1")
    return wish


def _cache_bytes(wishes: Wishes, shape: ModelShape, gpu: bool, free: int, step: int) -> int:
    taken = step + (int(free * HEAD_ROOM_SHARE) + HEAD_ROOM_BYTES if gpu else 0)
    room = max(0, free - taken)
    if wishes.kv_cache_gb is None:
        cache = room if gpu else min(room, int(free * CPU_CACHE_SHARE))
    else:
        cache = int(wishes.kv_cache_gb * GIB)
        if cache <= 0:
            raise StartError(f"KV_CACHE_GB is {wishes.kv_cache_gb}; it must be above 0")
        if cache > room:
            raise StartError(
                f"KV_CACHE_GB is {wishes.kv_cache_gb}, but beside the weights and {_gib(taken)} for one step and "
                f"head room only {_gib(room)} are free; lower KV_CACHE_GB, PREFILL_CHUNK or MAX_CONCURRENT_REQUESTS"
            )
    return cache


def _context(wishes: Wishes, shape: ModelShape, gpu: bool, held: int, cache: int) -> int:
    """Longest request: as wished, or as long as the model, the device's habit and a cache of `held` tokens allow."""
    wish = wishes.max_model_len
    if wish is None:
        length = min(shape.context_length, held, shape.context_length if gpu else 4096)
        if length < min(LEAST_CONTEXT, shape.context_length):
            raise StartError(
                f"the KV cache of {_gib(cache)} holds {held} tokens ({shape.token_bytes} bytes each), too few to "
                "serve; free memory on the device, raise KV_CACHE_GB, or lower PREFILL_CHUNK or MAX_CONCURRENT_REQUESTS"
            )
        return length
    _positive("MAX_MODEL_LEN", wish, 0)
    if wish > shape.context_length:
        raise StartError(f"MAX_MODEL_LEN is {wish}, but the model was made for {shape.context_length} positions")
    if wish > held:
        raise StartError(
            f"MAX_MODEL_LEN is {wish}, but the KV cache of {_gib(cache)} holds {held} tokens "
            f"({shape.token_bytes} bytes each); lower MAX_MODEL_LEN or raise KV_CACHE_GB"
        )
    return wish


def _buckets(wishes: Wishes, rows: int) -> tuple[int, ...]:
    """1, 2, 4, 8, then steps of 8 to 64 and of 32 beyond: no step computes many more rows than it has."""
    if wishes.graph_buckets is not None:
        if any(bucket < 1 for bucket in wishes.graph_buckets):
            raise StartError(f"GRAPH_BUCKETS is {list(wishes.graph_buckets)}; every entry must be at least 1")
        return tuple(sorted({min(bucket, rows) for bucket in wishes.graph_buckets}))
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, rows + 32, 32)]
    return tuple(sorted({min(size, rows) for size in sizes}))


def _gib(count: float) -> str:
    return f"{count / GIB:.2f} GiB"
