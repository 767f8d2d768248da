"""Paged attention gives each row what plain attention over its own tokens gives, wherever its pages lie."""

import itertools
import math
import random
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from handler.errors import StartError
from handler.inference.shape import ModelShape
from handler.ops import attention
from handler.ops.pages import KVPages, Layout, finite


@dataclass
class Case:
    """One step over one layer, with the expected result of each row."""

    query: Tensor
    key: Tensor
    value: Tensor
    layout: Layout
    pages: KVPages
    #: [tokens, heads, head_dim], float64
    expected: Tensor


def make_case(
    rows: list[tuple[int, int]],
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    page_size: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Case:
    """`rows` are (new tokens, tokens before them), those with one new token and some before being decode rows.

    (0, 0) is a padded decode row. Pages are handed out in random order, and hold noise where no row wrote.
    """
    g = torch.Generator().manual_seed(seed)
    shuffled = random.Random(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).to(dtype)

    contexts = [new + old for new, old in rows]
    needed = [-(-context // page_size) for context in contexts]
    free = list(range(1, sum(needed) + 4))
    shuffled.shuffle(free)
    pages = KVPages(2, len(free) + 1, page_size, kv_heads, head_dim, dtype, device)
    for cache in (*pages.k, *pages.v):
        cache.copy_(draw(*cache.shape))
    tables = torch.randint(0, len(free) + 1, (len(rows), max(needed) + 1), generator=g).int()  # stale past the end
    slots, queries, keys, values, expected = [], [], [], [], []
    for row, (new, old) in enumerate(rows):
        mine = [free.pop() for _ in range(needed[row])]
        tables[row, : needed[row]] = torch.tensor(mine, dtype=torch.int32)
        where = [mine[i // page_size] * page_size + i % page_size for i in range(contexts[row])]
        k, v = draw(contexts[row], kv_heads, head_dim), draw(contexts[row], kv_heads, head_dim)
        pages.write(
            1, torch.tensor(where[:old], dtype=torch.int64, device=device), k[:old].to(device), v[:old].to(device)
        )
        padded = new + old == 0
        q = draw(1 if padded else new, heads, head_dim)
        slots += [0] if padded else where[old:]
        queries.append(q)
        keys.append(draw(1, kv_heads, head_dim) if padded else k[old:])
        values.append(draw(1, kv_heads, head_dim) if padded else v[old:])
        expected.append(torch.zeros_like(q).double() if padded else plain(q, k, v))
    query_lens = [max(new, 1) for new, _ in rows]
    layout = Layout(
        slots=torch.tensor(slots, device=device),
        block_tables=tables.to(device),
        context_lens=torch.tensor(contexts, dtype=torch.int32, device=device),
        query_starts=torch.tensor([0, *itertools.accumulate(query_lens)], dtype=torch.int32, device=device),
        query_lens=query_lens,
        context_lens_host=contexts,
        decode_rows=sum(old > 0 or new == 0 for new, old in rows if new <= 1),
    )
    query, key, value = (torch.cat(x).to(device) for x in (queries, keys, values))
    return Case(query, key, value, layout, pages, torch.cat(expected))


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of the last queries of a sequence, in float64."""
    q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[0] // x.shape[0], 0) for x in (k, v))
    later = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).triu(k.shape[1] - q.shape[1] + 1)
    scores = (q @ k.transpose(1, 2)) * q.shape[-1] ** -0.5
    result: Tensor = (scores.masked_fill(later, float("-inf")).softmax(-1) @ v).transpose(0, 1)
    return result


def attend(case: Case, *, kernels: bool = False) -> Tensor:
    """Layer 1, as a model calls it."""
    case.pages.kernels = kernels
    case.pages.write(1, case.layout.slots, case.key, case.value)
    return attention.attend(1, case.query, case.key, case.value, case.layout, case.pages)


MIXED = [(1, 1), (1, 6), (1, 7), (1, 8), (1, 130), (0, 0), (5, 0), (9, 4), (3, 8), (1, 0), (70, 65)]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(14, 2, 64), (8, 8, 16), (16, 8, 128), (7, 1, 32)])
def test_each_row_attends_its_own_tokens(
    heads: int, kv_heads: int, head_dim: int, page_size: int, dtype: torch.dtype
) -> None:
    case = make_case(MIXED, heads=heads, kv_heads=kv_heads, head_dim=head_dim, page_size=page_size, dtype=dtype)
    got = attend(case).double()
    assert got.isfinite().all()
    real = torch.arange(len(got)) != 5  # the result of a padded row is not used
    torch.testing.assert_close(got[real], case.expected[real], atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("rows", [[(1, 5)], [(1, 40), (1, 50)], [(6, 0)], [(2, 3), (4, 0)]])
def test_decode_alone_and_prefill_alone_work(rows: list[tuple[int, int]]) -> None:
    case = make_case(rows, heads=4, kv_heads=2, head_dim=16, page_size=4)
    torch.testing.assert_close(attend(case).double(), case.expected, atol=2e-6, rtol=2e-6)


def test_new_keys_and_values_lie_in_their_slots() -> None:
    case = make_case(MIXED, heads=4, kv_heads=2, head_dim=16, page_size=4)
    before = [x.clone() for x in (case.pages.k[1], case.pages.v[1], case.pages.k[0])]
    attend(case)
    slots = case.layout.slots
    real = slots != 0
    untouched = torch.ones(before[0].flatten(0, 1).shape[0], dtype=torch.bool).index_fill_(0, slots, False)
    for cache, old, new in ((case.pages.k[1], before[0], case.key), (case.pages.v[1], before[1], case.value)):
        assert torch.equal(cache.flatten(0, 1)[slots[real]], new[real])
        assert torch.equal(cache.flatten(0, 1)[untouched], old.flatten(0, 1)[untouched])
    assert torch.equal(case.pages.k[0], before[2])  # another layer


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_broken_values_left_in_a_page_do_not_reach_the_next_request(dtype: torch.dtype, broken: float) -> None:
    case = make_case([(1, 5), (1, 6), (1, 90)], heads=4, kv_heads=2, head_dim=16, page_size=4, dtype=dtype)
    # Before, one request filled every page with what is no number.
    every = torch.arange(case.pages.k[1].shape[0] * 4)
    wrote = torch.full((len(every), 2, 16), broken, dtype=dtype)
    healthy = case.pages.k[1].clone(), case.pages.v[1].clone()
    ruin = Case(
        query=torch.zeros(len(every), 4, 16, dtype=dtype),
        key=wrote,
        value=wrote,
        layout=Layout(
            slots=every,
            block_tables=torch.zeros(1, len(every), dtype=torch.int32),
            context_lens=torch.tensor([len(every)], dtype=torch.int32),
            query_starts=torch.tensor([0, len(every)], dtype=torch.int32),
            query_lens=[len(every)],
            context_lens_host=[len(every)],
            decode_rows=0,
        ),
        pages=case.pages,
        expected=torch.empty(0),
    )
    attend(ruin)
    # Its successors write their own tokens, and nothing else.
    for row, context in enumerate(case.layout.context_lens_host):
        mine = [int(case.layout.block_tables[row, i // 4]) * 4 + i % 4 for i in range(context)]
        for cache, saved in zip((case.pages.k[1], case.pages.v[1]), healthy, strict=True):
            cache.flatten(0, 1)[mine] = saved.flatten(0, 1)[mine]
    got = attend(case).double()
    torch.testing.assert_close(got, case.expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_keys_and_values_that_a_model_computes_are_stored_as_they_are() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(1000, generator=torch.Generator().manual_seed(1)).to(dtype) * 1000
        assert torch.equal(finite(x), x)


def test_a_chunk_reads_what_another_chunk_of_the_same_step_writes() -> None:
    whole = make_case([(8, 0), (4, 8)], heads=4, kv_heads=2, head_dim=16, page_size=4)
    tables = whole.layout.block_tables
    tables[1, :2] = tables[0, :2]  # the second row's first eight tokens are the first row's
    got = attend(whole)[8:]
    keys, values = (torch.cat((x[:8], x[8:])) for x in (whole.key, whole.value))
    torch.testing.assert_close(got.double(), plain(whole.query[8:], keys, values), atol=2e-6, rtol=2e-6)


def test_padding_costs_at_most_twice_a_row_and_never_the_longest_neighbour() -> None:
    rows = [(1, length) for length in (3, 60, 70, 120, 500, 510, 4000)]
    case = make_case(rows, heads=2, kv_heads=1, head_dim=16, page_size=16)
    attend(case)
    groups = case.layout.decode_groups
    assert groups is not None
    read = {length: group.mask.shape[-1] for group in groups for length in group_lengths(group.rows, rows)}
    assert all(width <= max(2 * length, 64) + 16 for length, width in read.items())


def group_lengths(at: Tensor | None, rows: list[tuple[int, int]]) -> list[int]:
    return [rows[i][1] + 1 for i in (range(len(rows)) if at is None else at.tolist())]


def test_pages_cost_what_the_engine_is_sized_by() -> None:
    shape = ModelShape(
        context_length=1, layers=3, heads=4, kv_heads=2, head_dim=64, hidden=1, intermediate=1, vocab=1, dtype_bytes=2
    )
    pages = KVPages(3, 5, 16, 2, 64, torch.bfloat16, "cpu")
    total = sum(x.numel() * x.element_size() for x in (*pages.k, *pages.v))
    assert total == 5 * 16 * shape.token_bytes


def test_the_choice_comes_with_its_reason() -> None:
    cpu = torch.device("cpu")
    assert attention.choose("auto", cpu, 128, 2) == ("paged_reference", "the kernels need CUDA, not cpu")
    assert attention.choose("reference", cpu, 128, 2) == ("paged_reference", "set by ATTENTION")
    with pytest.raises(StartError, match="ATTENTION=kernel: the kernels need CUDA, not cpu; set ATTENTION=auto"):
        attention.choose("kernel", cpu, 128, 2)
