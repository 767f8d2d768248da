"""The CUDA kernels give what plain attention gives: in Triton's interpreter where there is no GPU."""

from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from handler.errors import StartError
from handler.ops import attention, attention_triton
from handler.ops.pages import Partial
from handler.ops.parts import Parts
from tests.ops.test_attention import MIXED, TOLERANCE, Case, attend, make_case
from tests.support.kernels import CUDA, DEVICE, gpu

pytestmark = pytest.mark.usefixtures("no_tf32", "quick_interpreter")

#: (heads, kv_heads, head_dim): Qwen2.5-7B, Qwen2.5-0.5B, Qwen3-0.6B
SHAPES = [(28, 4, 128), (14, 2, 64), (16, 8, 128)]


@pytest.fixture(autouse=True)
def bfloat16_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter keeps bfloat16 as its bits, and its `dot` multiplies the bits."""
    if CUDA:
        return
    from triton import language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot = InterpreterBuilder.create_dot

    def widen(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((x.data.astype(numpy.uint32) << 16).view(numpy.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, widen(a), widen(b), *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


def decode(case: Case, split: int | Partial | None = None) -> Tensor:
    """`split`: so many ways, or into this memory."""
    layout, pages = case.layout, case.pages
    partial = attention_triton.partial_for(case.query, split) if isinstance(split, int) else split
    pages.write(1, layout.slots, case.key, case.value)
    out = torch.full_like(case.query, float("nan"))
    attention_triton.paged_decode(
        case.query, pages.k[1], pages.v[1], layout.block_tables, layout.context_lens, case.query.shape[-1] ** -0.5, out,
        partial,
    )  # fmt: skip
    return out


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), SHAPES)
def test_decode_rows_of_any_length_attend_their_own_pages(
    heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype
) -> None:
    # around pages of 16 and blocks of 64; padded rows first, last and between
    lengths = [0, 1, 16, 17, 64, 0, 65, 200, 0]
    case = make_case(
        [(1, n - 1) if n else (0, 0) for n in lengths],
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, page_size=16, dtype=dtype, device=DEVICE,
    )  # fmt: skip
    got = decode(case).double().cpu()
    torch.testing.assert_close(got, case.expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("page_size", [1, 48, 256])
def test_pages_may_be_smaller_or_larger_than_a_block(page_size: int) -> None:
    rows = [(1, n) for n in (1, 47, 48, 63, 64, 95, 96, 255, 256)]
    case = make_case(rows, heads=4, kv_heads=2, head_dim=16, page_size=page_size, device=DEVICE)
    torch.testing.assert_close(decode(case).double().cpu(), case.expected, atol=2e-6, rtol=2e-6)


#: an empty row, one token, the edges of a page and of a block, and one long context
LENGTHS = [0, 1, 16, 17, 64, 65, 200, 3000]


@pytest.mark.parametrize("splits", [1, 2, 8, 32])
def test_contexts_split_many_ways_or_none_come_out_the_same(splits: int) -> None:
    case = make_case(
        [(1, n - 1) if n else (0, 0) for n in LENGTHS], heads=4, kv_heads=4, head_dim=16, page_size=16, device=DEVICE
    )
    torch.testing.assert_close(decode(case, splits).double().cpu(), case.expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("rows", [1, 8, 9, 33, 64, 66, 128, 512])
@pytest.mark.parametrize("kv_heads", [2, 4, 8])
def test_many_programs_share_a_context_however_many_rows_there_are(rows: int, kv_heads: int) -> None:
    """A step lasts as long as its longest program, and any row may have a long context."""
    assert 8 <= attention_triton.splits_for(rows, kv_heads) <= attention_triton.MOST_SPLITS


def test_a_row_has_the_same_bits_alone_and_among_others_where_its_context_is_split_alike() -> None:
    case = make_case(
        [(1, n - 1) if n else (0, 0) for n in LENGTHS], heads=6, kv_heads=2, head_dim=16, page_size=16, device=DEVICE
    )
    together = decode(case, 8)
    for row in range(len(LENGTHS)):
        alone = torch.empty_like(together[:1])
        here = slice(row, row + 1)
        attention_triton.paged_decode(
            case.query[here], case.pages.k[1], case.pages.v[1], case.layout.block_tables[here],
            case.layout.context_lens[here], 0.25, alone, attention_triton.partial_for(case.query[here], 8),
        )  # fmt: skip
        assert torch.equal(alone, together[here])


def test_a_split_without_a_token_writes_one_number_for_each_head() -> None:
    """Most splits of a short context are empty; writing their zeros would cost more than the context itself."""
    case = make_case([(1, 64), (1, 199), (0, 0)], heads=4, kv_heads=2, head_dim=16, page_size=16, device=DEVICE)
    partial = attention_triton.partial_for(case.query, 8)
    partial.values.fill_(float("nan"))
    got = decode(case, partial).double().cpu()
    torch.testing.assert_close(got, case.expected, atol=2e-6, rtol=2e-6)
    filled = torch.tensor([[split < count for split in range(8)] for count in (2, 4, 0)], device=DEVICE)
    assert torch.equal(partial.values.isnan().all(-1), ~filled[:, None].expand(-1, 4, -1))
    assert torch.equal(partial.lse == float("-inf"), ~filled[:, None].expand(-1, 4, -1))


def test_garbage_in_unwritten_slots_does_not_reach_the_output() -> None:
    case = make_case([(1, 5), (0, 0), (1, 21)], heads=4, kv_heads=2, head_dim=16, page_size=16, device=DEVICE)
    clean = decode(case)
    pages, used = case.pages, torch.zeros(case.pages.k[1].shape[:2].numel(), dtype=torch.bool, device=DEVICE)
    for row, length in enumerate(case.layout.context_lens_host):
        at = torch.arange(length, device=DEVICE)
        used[case.layout.block_tables[row, at // 16].long() * 16 + at % 16] = True
    for cache in (pages.k[1], pages.v[1]):
        cache.flatten(0, 1)[~used] = float("nan")
    out = torch.empty_like(case.query)
    attention_triton.paged_decode(
        case.query, pages.k[1], pages.v[1], case.layout.block_tables, case.layout.context_lens, 0.25, out
    )
    assert torch.equal(out, clean)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_step_of_decode_rows_alone_runs_in_the_kernel(dtype: torch.dtype) -> None:
    rows = [(1, 5), (1, 64), (0, 0)]
    case = make_case(rows, heads=4, kv_heads=2, head_dim=16, page_size=16, dtype=dtype, device=DEVICE)
    case.layout.context_lens_host = []  # in a captured graph the host does not know them
    got = attend(case, kernels=True).double().cpu()
    torch.testing.assert_close(got, case.expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_packed_keys_of_prefill_rows_are_gathered_in_order() -> None:
    """All that FlashAttention is handed, but for the call itself."""
    case = make_case([(1, 9), (5, 0), (9, 4), (1, 0)], heads=4, kv_heads=2, head_dim=16, page_size=4, device=DEVICE)
    layout, pages = case.layout, case.pages
    pages.write(1, layout.slots, case.key, case.value)
    packed = attention_triton._packed(layout, 4)
    assert packed.query_starts.tolist() == [0, 5, 14, 15]
    assert packed.key_starts.tolist() == [0, 5, 18, 19]
    assert (packed.query_starts.dtype, packed.key_starts.dtype) == (torch.int32, torch.int32)
    assert (packed.longest_query, packed.longest_context) == (9, 13)
    assert packed.slots is not None
    gathered = pages.k[1].flatten(0, 1)[packed.slots]
    new = case.key[1:]
    assert torch.equal(gathered[:5], new[:5])
    assert torch.equal(gathered[9:18], new[5:14])
    assert torch.equal(gathered[18:], new[14:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), SHAPES)
class TestOnDevice:
    pytestmark = gpu

    def test_mixed_steps_agree_with_the_reference(
        self, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> None:
        tolerance = TOLERANCE.get(dtype, 4e-3)
        for rows in (MIXED, [(1, 5), (7, 0), (64, 0)], [(700, 1300), (2000, 0)]):
            case = make_case(
                rows, heads=heads, kv_heads=kv_heads, head_dim=head_dim, page_size=16, dtype=dtype, device="cuda"
            )
            real = torch.tensor([row != (0, 0) for row in rows for _ in range(max(row[0], 1))])
            for fused in (False, True):
                got = attend(case, kernels=fused).double().cpu()
                assert got.isfinite().all()
                torch.testing.assert_close(got[real], case.expected[real], atol=tolerance, rtol=tolerance)

    def test_a_captured_step_follows_what_its_buffers_hold(
        self, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> None:
        shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "page_size": 16, "dtype": dtype}
        tolerance = TOLERANCE.get(dtype, 4e-3)
        rows = [(1, 300), (1, 5), (1, 64), (0, 0)]
        first = make_case(rows, device="cuda", seed=1, **shape)  # type: ignore[arg-type]
        second = make_case([rows[i] for i in (2, 3, 0, 1)], device="cuda", seed=2, **shape)  # type: ignore[arg-type]
        first.layout.context_lens_host = []
        attend(first, kernels=True)  # compiles
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = attend(first, kernels=True)
        graph.replay()
        torch.testing.assert_close(out.double().cpu(), first.expected, atol=tolerance, rtol=tolerance)
        for name in ("query", "key", "value"):
            getattr(first, name).copy_(getattr(second, name))
        for name in ("slots", "block_tables", "context_lens"):
            getattr(first.layout, name).copy_(getattr(second.layout, name))
        for layer in range(2):
            first.pages.k[layer].copy_(second.pages.k[layer])
            first.pages.v[layer].copy_(second.pages.v[layer])
        graph.replay()
        torch.testing.assert_close(out.double().cpu(), second.expected, atol=tolerance, rtol=tolerance)


def test_float32_heads_that_overflow_the_shared_memory_of_some_gpus_are_left_to_plain_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    device, refused = torch.device("cuda"), "the kernels support head_dim 256 in 16 bits, not in float32"
    assert attention.choose("auto", device, 256, 2).decode
    assert attention.choose("auto", device, 128, 4).decode
    left = attention.choose("auto", device, 256, 4)
    assert (left.decode, left.reasons["decode"]) == (False, refused)
    with pytest.raises(StartError, match="16 bits"):
        attention.choose("kernel", device, 256, 4)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="no CUDA device")
def test_a_gpu_with_triton_is_served_by_the_kernels() -> None:
    device = torch.device("cuda")
    assert attention.choose("auto", device, 128, 2) == Parts.every(True, "CUDA with Triton")
    assert attention.choose("reference", device, 128, 2) == Parts.every(False, "set by ATTENTION")
    other = attention.choose("auto", device, 80, 2)
    assert (other.decode, other.reasons["decode"]) == (False, "the kernels do not support head_dim 80")
