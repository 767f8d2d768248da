"""The CUDA kernels draw what plain torch draws: in Triton's interpreter where there is no GPU."""

import random

import pytest
import torch

from handler.engine.sampling import Sampling
from handler.inference.sampler import Sampler
from tests.ops.test_sampler import random_sampling, sampling
from tests.support.kernels import DEVICE, gpu

pytestmark = pytest.mark.usefixtures("quick_interpreter")


def samplers(vocab: int, tokens: int, options: list[Sampling]) -> tuple[Sampler, Sampler]:
    """One that draws with torch, one that draws by kernels, rows assigned alike."""
    pair = (
        Sampler(len(options), vocab, tokens, DEVICE, kernels=False),
        Sampler(len(options), vocab, tokens, DEVICE, kernels=True),
    )
    for row, option in enumerate(options):
        for sampler in pair:
            sampler.assign(row, option, [row % tokens, 7 % tokens, 3], [5, 5, row % tokens])
    return pair[0], pair[1]


@pytest.mark.parametrize(
    ("scale", "vocab", "dtype"),
    [(3.0, 5000, torch.bfloat16), (0.3, 2000, torch.float32), (1.0, 40, torch.float32), (1.0, 40, torch.bfloat16)],
)
def test_kernels_draw_what_torch_draws(scale: float, vocab: int, dtype: torch.dtype) -> None:
    """Random options, two steps, so that penalty counts grow; ties by the dozen in bfloat16."""
    chance, g = random.Random(vocab), torch.Generator().manual_seed(vocab)
    options, tokens = [random_sampling(chance) for _ in range(12)], vocab - 9
    plain, fused = samplers(vocab, tokens, options)
    assert fused.capturable
    rows = torch.randperm(12, generator=g).to(DEVICE)
    for step in range(2):
        logits = (torch.randn(12, vocab, generator=g) * scale).to(dtype).to(DEVICE)
        logits[:, tokens:] = 1000.0
        at = torch.full((12,), 6 + step, device=DEVICE)
        expected = plain.sample(logits, rows, at)
        assert torch.equal(fused.sample(logits, rows, at), expected)


@pytest.mark.parametrize("options", [{"top_p": 1e-9}, {"top_k": 1}, {"min_p": 1.0}, {"temperature": 0.0}, {"top_k": 3}])
def test_kernels_keep_the_edges_of_each_option(options: dict[str, float]) -> None:
    plain, fused = samplers(20, 20, [sampling(seed=seed, **options) for seed in range(12)])
    logits = torch.tensor([[1.0, 2, 2, 1, 0] * 4], device=DEVICE).expand(12, -1)
    rows = torch.arange(12, device=DEVICE)
    assert torch.equal(fused.sample(logits, rows, rows), plain.sample(logits, rows, rows))


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
            row, option = chance.randrange(16), random_sampling(chance)
            for sampler in (captured, plain):
                sampler.assign(row, option, [1, 2, 3], [4, 4])
            fresh = (torch.randn(16, 3000, generator=g) * 3).bfloat16()
            logits.copy_(fresh)
            at.fill_(5 + step)
            graph.replay()
            assert torch.equal(drawn.cpu(), plain.sample(fresh, rows.cpu(), at.cpu()))

    def test_a_draw_waits_for_nothing_and_is_that_of_torch(self) -> None:
        chance = random.Random(2)
        options = [random_sampling(chance) for _ in range(16)]
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
