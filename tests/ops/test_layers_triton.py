"""The kernels between a layer's matrix products round as plain torch does: in Triton's interpreter without a GPU."""

import inspect

import pytest
import torch
from torch import Tensor

from handler.ops import layers_torch, layers_triton
from handler.ops.pages import KVPages
from tests.model.test_qwen import layout_of, pages_of, steps
from tests.support import models
from tests.support.kernels import CUDA, DEVICE, gpu, parts

pytestmark = pytest.mark.usefixtures("quick_interpreter")

#: the interpreter cuts bfloat16 where a GPU rounds it; float16 has the same rounding points
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, *([torch.bfloat16] if CUDA else [])])


def draw(*size: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


def assert_same(got: Tensor, expected: Tensor) -> None:
    """To a few of the last bits: sums in another order can turn a rounding, and seldom do."""
    assert got.dtype == expected.dtype
    step = 8 * torch.finfo(got.dtype).eps
    torch.testing.assert_close(got, expected, atol=step, rtol=step)
    if got.dtype != torch.float32:
        assert (got == expected).float().mean() > 0.99


@pytest.mark.parametrize("name", ["rms_norm", "rotate_and_store", "silu_mul"])
def test_both_modules_are_called_alike(name: str) -> None:
    mine, plain = (inspect.signature(getattr(module, name)) for module in (layers_triton, layers_torch))
    assert [*mine.parameters] == [*plain.parameters]


@every_dtype
@pytest.mark.parametrize("size", [64, 112, 896, 3584])
def test_rms_norm_rounds_before_the_weight(size: int, dtype: torch.dtype) -> None:
    x, weight = 3 * draw(5, size, dtype=dtype), 1 + draw(size, dtype=dtype, seed=1)
    x[1] = 0  # a padded row
    got = layers_triton.rms_norm(x, weight, 1e-6)
    assert_same(got, layers_torch.rms_norm(x, weight, 1e-6))
    assert not got[1].any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter, where exp overflows as it should
@every_dtype
@pytest.mark.parametrize("size", [96, 1024, 4864])
def test_silu_mul_takes_its_halves_in_order(size: int, dtype: torch.dtype) -> None:
    gate_up = 4 * draw(3, 2 * size, dtype=dtype)
    gate_up[0, :2] = torch.tensor([-200.0, 200.0])
    assert_same(layers_triton.silu_mul(gate_up), layers_torch.silu_mul(gate_up))


@every_dtype
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(28, 4, 128), (14, 2, 64), (4, 2, 16), (16, 8, 128)])
def test_queries_keys_and_values_go_where_they_belong(
    heads: int, kv_heads: int, head_dim: int, normed: bool, dtype: torch.dtype
) -> None:
    qkv = draw(6, heads + 2 * kv_heads, head_dim, dtype=dtype)
    norms = 1 + draw(2, head_dim, dtype=dtype, seed=1) if normed else None
    frequencies = layers_torch.frequencies(head_dim, 1e6, torch.device(DEVICE))
    table = layers_torch.rope_table(torch.arange(4000, device=DEVICE), frequencies, dtype)
    rope = table[torch.tensor([0, 1, 2, 700, 3999, 5], device=DEVICE)]
    slots = torch.tensor([17, 5, 40, 41, 3, 63], device=DEVICE)
    both = []
    for ops in (layers_triton, layers_torch):
        pages = KVPages(2, 4, 16, kv_heads, head_dim, dtype, DEVICE, parts=parts(ops is layers_triton, dtype))
        moved = ops.rotate_and_store(qkv.clone(), norms, rope, slots, 1, pages, 1e-6)
        assert not pages.k[0].any()
        assert not pages.v[0].any()
        both.append((*moved, pages.k[1], pages.v[1]))
    for got, expected in zip(*both, strict=True):
        assert_same(got, expected)


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_a_model_computes_the_same_with_them(name: str) -> None:
    """Prompts and decode rows; attention by its own kernels beside."""
    model = models.merged(models.oracle(name), DEVICE)
    got, expected = steps(model, kernels=True).log_softmax(-1), steps(model).log_softmax(-1)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


class TestOnDevice:
    pytestmark = gpu

    @pytest.mark.parametrize("name", models.NAMES)
    def test_a_captured_decode_step_follows_what_its_buffers_hold(self, name: str) -> None:
        model = models.merged(models.oracle(name), DEVICE)
        captured, plain = (pages_of(model, 30, kernels=kernels) for kernels in (True, False))
        ids, positions = (torch.zeros(3, dtype=torch.int64, device=DEVICE) for _ in range(2))
        spans = [(0, 1)] * 3
        layout = layout_of(spans, 3, DEVICE)
        layout.context_lens_host = []
        with torch.inference_mode():
            model.forward(ids, positions, None, layout, captured)  # compiles
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                logits = model.forward(ids, positions, None, layout, captured)
            for position in range(20):
                now = layout_of([(position, position + 1)] * 3, 3, DEVICE)
                ids.copy_(torch.tensor([position, 2 * position, 7]))
                positions.fill_(position)
                layout.slots.copy_(now.slots)
                layout.context_lens.copy_(now.context_lens)
                graph.replay()
                expected = model.forward(ids, positions, None, now, plain)
                torch.testing.assert_close(logits.log_softmax(-1), expected.log_softmax(-1), atol=1e-4, rtol=0)
