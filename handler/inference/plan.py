"""The plan of memory: rows, context, cache pages and prefill chunk that fit the options, the model and the device.

Pure arithmetic: reads no environment and no device.
"""

from typing import Literal

from handler.engine.protocol import MAX_VARIANTS
from handler.errors import StartError
from handler.inference.config import GIB, SCORED_AT_ONCE, EngineConfig, EngineOptions
from handler.inference.shape import ModelShape

Device = Literal["cpu", "cuda"]

#: memory of a GPU that stays free: fragmentation, kernels and workspaces of libraries, the platform's own checks
HEAD_ROOM_SHARE, HEAD_ROOM_BYTES = 0.05, GIB // 2
#: share of the free memory that a cache on a CPU gets: other processes of the machine use the same memory
CPU_CACHE_SHARE = 0.25
#: tokens in a page of the cache
PAGE_SIZE: dict[Device, int] = {"cpu": 16, "cuda": 64}
#: prompt tokens in one step: beside decoding rows, and where no row decodes. On a GPU the first bounds the time that
#: decoding rows wait for a chunk (docs/decisions/0006), the second is enough to fill the device.
PREFILL: dict[Device, tuple[int, int]] = {"cpu": (512, 512), "cuda": (256, 2048)}
#: tokens of the contexts of all chunks of a step, where it has more than one: FlashAttention's prefill copies their
#: keys and values in each layer. SDPA on a CPU takes one chunk after the other.
CONTEXTS: dict[Device, int | None] = {"cpu": None, "cuda": 64 * 1024}
#: requests that may wait for each row. With it the engine holds `MAX_VARIANTS` requests of every job that is taken, a
#: quarter more jobs than there are rows, and refuses none for its neighbours.
WAITING_PER_ROW = MAX_VARIANTS * 5 // 4 - 1
#: longest context of a CPU where MAX_MODEL_LEN is not set
CPU_CONTEXT = 4096
#: the start fails with less context than this where MAX_MODEL_LEN is not set
LEAST_CONTEXT = 256
#: what an operator can lower to make room
LOWER = "PREFILL_CHUNK or MAX_CONCURRENT_REQUESTS"


def plan(options: EngineOptions, shape: ModelShape, *, device: Device, free_bytes: int) -> EngineConfig:
    """The configuration that follows the options and fits the device.

    `free_bytes` is the memory that is free once the weights are loaded.

    Raises:
        StartError: an option is out of range, or does not fit the memory; the message has the numbers.
    """
    gpu = device == "cuda"
    rows = _positive("MAX_CONCURRENT_REQUESTS", options.max_concurrent_requests, 128 if gpu else 32)
    beside, alone = PREFILL[device]
    chunk = _positive("PREFILL_CHUNK", options.prefill_chunk, beside)
    # An operator who sets PREFILL_CHUNK bounds every step, because memory may be short.
    alone = chunk if options.prefill_chunk else alone
    page_size = PAGE_SIZE[device]
    page_bytes = page_size * shape.token_bytes
    buckets = _buckets(options, rows) if gpu else ()
    needs = {"one step": shape.step_bytes(alone + rows, max(rows, SCORED_AT_ONCE))}
    if gpu:
        # A single chunk may have a longer context than the step's budget.
        longest = max(CONTEXTS[device] or 0, options.max_model_len or shape.context_length)
        graphs = len(buckets) if options.attention != "reference" else 0
        needs["one step"] += shape.attention_bytes(longest, rows)
        needs[f"{graphs} CUDA graphs"] = shape.graph_bytes(max(buckets, default=0), graphs)
        needs["penalties"] = shape.history_bytes(rows + 1)
        needs["head room"] = int(free_bytes * HEAD_ROOM_SHARE) + HEAD_ROOM_BYTES
    cache = _cache_bytes(options, gpu, free_bytes, needs)
    # One page is scratch.
    held = max(0, cache // page_bytes - 1) * page_size
    max_model_len = _context(options, shape, gpu, held, f"the KV cache of {_gib(cache)}{_beside(needs)}")
    # A request never shares its last page, so more pages than rows x pages of one request could not be used.
    pages = min(held // page_size, rows * -(-max_model_len // page_size)) + 1
    return EngineConfig(
        rows=rows,
        max_waiting=max(64, WAITING_PER_ROW * rows),
        max_model_len=max_model_len,
        page_size=page_size,
        pages=pages,
        prefill_chunk=chunk,
        prefill_alone=alone,
        attention=options.attention,
        graph_buckets=buckets,
        overlap=gpu and not options.speculative_tokens,
        speculative_tokens=options.speculative_tokens,
        token_bytes=shape.token_bytes,
        prefill_contexts=CONTEXTS[device],
    )


def _positive(name: str, value: int | None, default: int) -> int:
    if value is None:
        return default
    if value < 1:
        raise StartError(f"{name} is {value}; it must be at least 1")
    return value


def _cache_bytes(options: EngineOptions, gpu: bool, free: int, needs: dict[str, int]) -> int:
    """Bytes of the KV cache: KV_CACHE_GB, or the share of the free memory that the device's cache gets.

    `needs` are bytes that must stay free beside it, by their purpose.
    """
    room = max(0, free - sum(needs.values()))
    if options.kv_cache_gb is None:
        return room if gpu else min(room, int(free * CPU_CACHE_SHARE))
    cache = int(options.kv_cache_gb * GIB)
    if cache <= 0:
        raise StartError(f"KV_CACHE_GB is {options.kv_cache_gb}; it must be above 0")
    if cache > room:
        raise StartError(
            f"KV_CACHE_GB is {options.kv_cache_gb}, but only {_gib(room)} are free{_beside(needs)}; "
            f"lower KV_CACHE_GB, {LOWER}"
        )
    return cache


def _context(options: EngineOptions, shape: ModelShape, gpu: bool, held: int, cache: str) -> int:
    """Tokens of the longest request: MAX_MODEL_LEN, or as many as the model, the kind of device and a cache of `held`
    tokens allow; `cache` describes it in errors."""
    length = options.max_model_len
    if length is None:
        length = min(shape.context_length, held, shape.context_length if gpu else CPU_CONTEXT)
        if length < min(LEAST_CONTEXT, shape.context_length):
            raise StartError(
                f"{cache} holds only {held} tokens ({shape.token_bytes} bytes each); free memory on the device, raise "
                f"KV_CACHE_GB, or lower {LOWER}"
            )
        return length
    _positive("MAX_MODEL_LEN", length, 0)
    if length > shape.context_length:
        raise StartError(
            f"MAX_MODEL_LEN is {length}, but the context of the model is {shape.context_length} positions; lower it, "
            "or extend the context by ROPE_SCALING (docs/models.md)"
        )
    if length > held:
        raise StartError(
            f"MAX_MODEL_LEN is {length}, but {cache} holds {held} tokens "
            f"({shape.token_bytes} bytes each); lower MAX_MODEL_LEN or raise KV_CACHE_GB"
        )
    return length


def _buckets(options: EngineOptions, rows: int) -> tuple[int, ...]:
    """GRAPH_BUCKETS, or 1, 2, 4, 8, then steps of 8 to 64 and of 32 above: a replay then computes few unused rows."""
    if options.graph_buckets is not None:
        if any(bucket < 1 for bucket in options.graph_buckets):
            raise StartError(f"GRAPH_BUCKETS is {list(options.graph_buckets)}; every entry must be at least 1")
        return tuple(sorted({min(bucket, rows) for bucket in options.graph_buckets}))
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, rows + 32, 32)]
    return tuple(sorted({min(size, rows) for size in sizes}))


def _beside(needs: dict[str, int]) -> str:
    """Names the memory that the cache does not get."""
    return f" (beside it {', '.join(f'{_gib(size)} for {purpose}' for purpose, size in needs.items() if size)})"


def _gib(count: float) -> str:
    return f"{count / GIB:.2f} GiB"
