"""The CUDA kernels draw what plain torch draws: in Triton's interpreter where there is no GPU."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from handler.inference.sampler import Sampler
from handler.ops import sampling_triton
from tests.ops.test_sampler import sampling
from tests.support.draws import differing, random_sampling, samplers
from tests.support.kernels import DEVICE, gpu

pytestmark = pytest.mark.usefixtures("quick_interpreter")


@pytest.mark.parametrize(
    ("vocab", "dtype", "full"),
    [
        (4105, torch.bfloat16, True),
        (2000, torch.float32, False),
        (40, torch.float32, True),
        (40, torch.bfloat16, False),
    ],
)
def test_kernels_draw_what_torch_draws(vocab: int, dtype: torch.dtype, full: bool) -> None:
    """Random options, two steps, so that penalty counts grow; ties by the dozen in bfloat16. `make draws` does more."""
    assert differing(vocab, dtype, seed=vocab, full=full) == 0


def test_rows_with_one_cut_need_half_of_the_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """In both numbers of launches the draws are the same."""
    steps, narrow = list[int](), sampling_triton._narrow

    class Counting:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            def launch(*arguments: Any, **constants: Any) -> None:
                steps.append(arguments[9])
                narrow[grid](*arguments, **constants)

            return launch

    monkeypatch.setattr(sampling_triton, "_narrow", Counting())
    _, fused = samplers(60, 60, [sampling(temperature=1.0, top_p=0.5), sampling(temperature=1.0, top_k=3)])
    logits, rows = torch.linspace(0, 5, 60, device=DEVICE).expand(2, -1), torch.arange(2, device=DEVICE)
    short, full = (fused.sample(logits, rows, rows, full_search=full) for full in (False, True))
    assert steps == [*range(8), *range(16)]
    assert torch.equal(short, full)


def test_a_full_search_is_needed_while_a_row_has_top_k_and_top_p() -> None:
    sampler, both = Sampler(3, 20, 20, DEVICE), sampling(temperature=1.0, top_k=5, top_p=0.5)
    for row, option in enumerate([sampling(temperature=1.0, top_k=5), sampling(temperature=1.0, top_p=0.5)]):
        sampler.assign(row, option, [1])
    sampler.assign(2, sampling(temperature=0.0, top_k=5, top_p=0.5), [1])  # greedy: nothing is cut
    assert not sampler.needs_full_search
    sampler.assign(1, both, [1])
    sampler.assign(2, both, [1])
    assert sampler.needs_full_search
    sampler.release(2)
    assert sampler.needs_full_search
    sampler.assign(1, sampling(temperature=1.0), [1])
    assert not sampler.needs_full_search


@pytest.mark.parametrize("options", [{"top_p": 1e-9}, {"top_k": 1}, {"min_p": 1.0}, {"temperature": 0.0}, {"top_k": 3}])
def test_kernels_keep_the_edges_of_each_option(options: dict[str, float]) -> None:
    plain, fused = samplers(20, 20, [sampling(seed=seed, **options) for seed in range(12)])
    logits = torch.tensor([[1.0, 2, 2, 1, 0] * 4], device=DEVICE).expand(12, -1)
    rows = torch.arange(12, device=DEVICE)
    assert torch.equal(fused.sample(logits, rows, rows), plain.sample(logits, rows, rows))


def test_kernels_read_all_64_bits_of_a_seed_as_torch_does() -> None:
    seeds = [0, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, 2**64 - 1 - 2**63, *(2**bit for bit in range(58, 64))]
    plain, fused = samplers(40, 40, [sampling(seed=seed) for seed in seeds])
    rows = torch.arange(len(seeds), device=DEVICE)
    drawn = []
    for position in range(6):
        positions = torch.full_like(rows, position)
        drawn.append(fused.sample(torch.zeros(len(seeds), 40, device=DEVICE), rows, positions))
        assert torch.equal(drawn[-1], plain.sample(torch.zeros(len(seeds), 40, device=DEVICE), rows, positions))
    assert len({tuple(one) for one in torch.stack(drawn, 1).tolist()}) == len({*seeds})


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
def test_kernels_end_and_stay_in_range_on_broken_logits() -> None:
    _, fused = samplers(50, 50, [sampling(seed=seed, top_p=0.9, top_k=5) for seed in range(4)])
    logits = torch.randn(4, 50, device=DEVICE)
    logits[1], logits[2], logits[3, 7] = float("nan"), float("-inf"), float("inf")
    rows = torch.arange(4, device=DEVICE)
    got = fused.sample(logits, rows, rows)
    assert ((got >= 0) & (got < 50)).all()


class TestSamplerOnDevice:
    pytestmark = gpu

    def test_a_captured_draw_follows_requests_that_come_and_go(self) -> None:
        chance, g = random.Random(1), torch.Generator().manual_seed(1)
        captured, plain = (Sampler(16, 3000, 2990, device) for device in ("cuda", "cpu"))
        logits = torch.empty(16, 3000, dtype=torch.bfloat16, device="cuda")
        rows, at = torch.arange(16, device="cuda"), torch.zeros(16, dtype=torch.int64, device="cuda")
        captured.sample(logits.zero_(), rows, at)  # compiles
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            drawn = captured.sample(logits, rows, at)
        for step in range(20):
            row, option = chance.randrange(16), random_sampling(chance, 3000)
            for sampler in (captured, plain):
                sampler.assign(row, option, [1, 2, 3], [4, 4])
            fresh = (torch.randn(16, 3000, generator=g) * 3).bfloat16()
            logits.copy_(fresh)
            at.fill_(5 + step)
            graph.replay()
            assert torch.equal(drawn.cpu(), plain.sample(fresh, rows.cpu(), at.cpu()))

    def test_a_draw_waits_for_nothing_and_is_that_of_torch(self) -> None:
        chance = random.Random(2)
        options = [random_sampling(chance, 3000) for _ in range(16)]
        plain, fused = samplers(3000, 2990, options)
        logits = torch.randn(16, 3000, device="cuda") * 3
        rows, at = torch.arange(16, device="cuda"), torch.full((16,), 6, device="cuda")
        expected = plain.sample(logits, rows, at)
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            fused.assign(0, options[0], [0, 7, 3], [5, 5, 0])
            got = fused.sample(logits, rows, at)
        finally:
            torch.cuda.set_sync_debug_mode(before)
        assert torch.equal(got, expected)
