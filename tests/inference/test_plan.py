"""The plan of memory: the sizes of an engine, and the errors that stop its start."""

from dataclasses import replace

import pytest

from handler.errors import StartError
from handler.inference.config import GIB, EngineConfig, EngineOptions
from handler.inference.plan import Device, plan
from handler.inference.shape import ModelShape

#: Qwen2.5-7B-Instruct in bfloat16
SEVEN_B = ModelShape(
    context_length=32768, layers=28, heads=28, kv_heads=4, head_dim=128, hidden=3584, intermediate=18944, vocab=152064,
    dtype_bytes=2,
)  # fmt: skip
#: a demo model in float32
DEMO = ModelShape(
    context_length=2048, layers=4, heads=4, kv_heads=2, head_dim=32, hidden=128, intermediate=256, vocab=4096,
    dtype_bytes=4,
)  # fmt: skip


def on_gpu(options: EngineOptions = EngineOptions(), free_gb: float = 60, shape: ModelShape = SEVEN_B) -> EngineConfig:  # noqa: B008
    return plan(options, shape, device="cuda", free_bytes=int(free_gb * GIB))


def on_cpu(options: EngineOptions = EngineOptions(), free_gb: float = 8, shape: ModelShape = DEMO) -> EngineConfig:  # noqa: B008
    return plan(options, shape, device="cpu", free_bytes=int(free_gb * GIB))


def test_one_token_of_the_seven_b_model_takes_57344_bytes() -> None:
    assert SEVEN_B.token_bytes == 57_344  # keys and values, 28 layers, 4 heads of 128, 2 bytes


def test_a_large_gpu_serves_the_whole_context_with_overlap_and_graphs() -> None:
    config = on_gpu()
    assert config.max_model_len == 32768
    assert config.overlap
    assert config.graph_buckets[:4] == (1, 2, 4, 8)
    assert config.graph_buckets[-1] == config.rows == 128
    used = config.pages * config.page_size * SEVEN_B.token_bytes
    assert 45 * GIB < used < 57 * GIB


def test_a_small_gpu_gets_a_shorter_context_that_the_cache_can_hold() -> None:
    config = on_gpu(free_gb=3)
    assert 256 <= config.max_model_len < 32768
    assert config.max_model_len <= (config.pages - 1) * config.page_size


def test_a_cpu_gives_at_most_a_quarter_of_its_memory_and_no_more_than_rows_can_use() -> None:
    tight = on_cpu(free_gb=1, shape=SEVEN_B, options=EngineOptions(prefill_chunk=64, max_concurrent_requests=8))
    assert tight.pages * tight.page_size * SEVEN_B.token_bytes <= GIB / 4
    roomy = on_cpu(free_gb=64)
    assert roomy.pages == roomy.rows * roomy.max_model_len // roomy.page_size + 1
    assert (roomy.overlap, roomy.graph_buckets) == (False, ())


def test_options_are_followed_to_the_number() -> None:
    options = EngineOptions(
        max_concurrent_requests=12, max_model_len=5000, kv_cache_gb=10, prefill_chunk=777, attention="reference",
        graph_buckets=(4, 1, 99),
    )  # fmt: skip
    config = on_gpu(options)
    assert (config.rows, config.max_model_len) == (12, 5000)
    assert (config.prefill_chunk, config.prefill_alone) == (777, 777)
    assert config.attention == "reference"
    assert config.graph_buckets == (1, 4, 12)
    assert config.pages == 12 * -(-5000 // 64) + 1


def test_speculation_turns_overlap_off() -> None:
    config = on_gpu(EngineOptions(speculative_tokens=4))
    assert (config.speculative_tokens, config.overlap) == (4, False)


def test_a_gpu_prefills_more_where_no_row_decodes() -> None:
    config = on_gpu()
    assert config.prefill_chunk < config.prefill_alone


def test_a_cache_of_a_set_size_is_used_whole_where_requests_can_use_it() -> None:
    config = on_gpu(EngineOptions(kv_cache_gb=10, max_concurrent_requests=256))
    assert config.pages == 10 * GIB // (64 * SEVEN_B.token_bytes)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("free_gb", [2, 6, 40])
def test_every_request_that_is_accepted_fits_the_cache_alone(device: Device, free_gb: int) -> None:
    for shape in (SEVEN_B, DEMO):
        options = EngineOptions(prefill_chunk=256, max_concurrent_requests=16)
        config = plan(options, shape, device=device, free_bytes=free_gb * GIB)
        assert config.max_model_len <= (config.pages - 1) * config.page_size


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (EngineOptions(max_concurrent_requests=0), ("MAX_CONCURRENT_REQUESTS", "0")),
        (EngineOptions(prefill_chunk=-5), ("PREFILL_CHUNK", "-5")),
        (EngineOptions(max_model_len=0), ("MAX_MODEL_LEN", "0")),
        (EngineOptions(max_model_len=40_000), ("MAX_MODEL_LEN", "40000", "32768")),
        (EngineOptions(kv_cache_gb=0), ("KV_CACHE_GB", "0")),
        (EngineOptions(kv_cache_gb=80), ("KV_CACHE_GB", "80", "GiB")),
        (EngineOptions(prefill_chunk=10**9), ("PREFILL_CHUNK", "the KV cache of 0.00 GiB")),
        (EngineOptions(prefill_chunk=10**9, kv_cache_gb=1), ("PREFILL_CHUNK", "only 0.00 GiB are free")),
        (EngineOptions(max_model_len=30_000, kv_cache_gb=1), ("MAX_MODEL_LEN", "30000", "1.00 GiB", "57344")),
        (EngineOptions(graph_buckets=(0, 4)), ("GRAPH_BUCKETS", "0")),
    ],
    ids=str,
)
def test_an_option_that_cannot_fit_ends_the_start_with_the_numbers(
    options: EngineOptions, numbers: tuple[str, ...]
) -> None:
    with pytest.raises(StartError) as error:
        on_gpu(options)
    for number in numbers:
        assert number in str(error.value)


def test_a_device_that_is_full_ends_the_start_with_the_numbers() -> None:
    with pytest.raises(StartError, match="57344 bytes each"):
        on_gpu(free_gb=1)


def test_a_model_made_for_few_positions_is_served_whole() -> None:
    assert on_cpu(shape=replace(DEMO, context_length=128)).max_model_len == 128


def test_the_description_has_the_sizes_in_units_people_know() -> None:
    described = on_gpu(EngineOptions(kv_cache_gb=10, max_concurrent_requests=256)).describe()
    assert described["kv_cache_gb"] == pytest.approx(10, abs=0.01)
    assert described["max_model_len"] == 32768


#: bytes that the decode graphs of so many rows take, the largest captured first, with one tensor of logits: a model of
#: torch's allocator, without the driver's part
GRAPHS = {128: 207e6, 256: 376e6, 512: 726e6}


@pytest.mark.parametrize("rows", GRAPHS)
def test_beside_the_cache_there_is_room_for_graphs_penalties_and_a_step_with_long_contexts(rows: int) -> None:
    free = 8.5 * GIB  # what the model leaves of 24 GB
    config = on_gpu(EngineOptions(max_concurrent_requests=rows), free_gb=8.5)
    assert config.max_model_len == 32768
    left = free - config.pages * config.page_size * SEVEN_B.token_bytes
    step = SEVEN_B.step_bytes(config.prefill_alone + rows, rows)
    assert config.prefill_contexts == 64 * 1024
    gathered = config.prefill_contexts * SEVEN_B.token_bytes / SEVEN_B.layers
    history = (rows + 1) * SEVEN_B.vocab * 4
    library_kernels, platform = 150e6, 500e6
    assert left > step + gathered + GRAPHS[rows] + history + library_kernels + platform


def test_more_rows_than_the_graphs_and_penalties_leave_room_for_are_refused_with_the_numbers() -> None:
    with pytest.raises(StartError) as error:
        on_gpu(EngineOptions(max_concurrent_requests=512), free_gb=3)
    for part in ("holds only 0 tokens", "for 25 CUDA graphs", "0.29 GiB for penalties", "MAX_CONCURRENT_REQUESTS"):
        assert part in str(error.value)
    assert on_gpu(EngineOptions(max_concurrent_requests=128), free_gb=3).max_model_len > 256


def test_without_graphs_their_memory_goes_to_the_cache() -> None:
    with_graphs, without = (on_gpu(EngineOptions(graph_buckets=b), free_gb=8) for b in (None, ()))
    assert without.pages - with_graphs.pages > 207e6 / (64 * SEVEN_B.token_bytes)
    assert on_gpu(EngineOptions(attention="reference"), free_gb=8).pages == without.pages


def test_a_cpu_bounds_no_contexts_and_plans_for_no_graphs() -> None:
    config = on_cpu(EngineOptions(max_concurrent_requests=8, max_model_len=1000))
    assert config.prefill_contexts is None
    assert on_cpu(EngineOptions(kv_cache_gb=7.9, max_concurrent_requests=8, max_model_len=1000)) == config


@pytest.mark.parametrize("free_gb", [2.5, 5, 8, 30, 60, 120])
def test_beside_a_cache_as_large_as_it_gets_the_platforms_own_checks_find_room_on_the_gpu(free_gb: float) -> None:
    """The SDK's fitness checks run after the engine stands: a context of their own, a small product, about 1 GB."""
    config = on_gpu(free_gb=free_gb)
    assert free_gb * GIB - config.pages * config.page_size * SEVEN_B.token_bytes > 1e9
