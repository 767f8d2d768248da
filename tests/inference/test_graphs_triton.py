"""The stand-in for a CUDA graph is one wherever an engine could go wrong."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: N803

from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from tests.support import graphs
from tests.support.kernels import CUDA

pytestmark = pytest.mark.skipif(CUDA, reason="there are genuine graphs")


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs.install(monkeypatch)


@triton.jit
def _scale(x, by, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out + at, tl.load(x + at) * by)


def captured(run: Callable[[], Tensor], pool: Any = None) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph, pool=pool):
        out = run()
    return graph, out


def replayed(graph: torch.cuda.CUDAGraph, out: Tensor) -> list[float]:
    with torch.inference_mode():
        graph.replay()
        return out.tolist()


def test_a_replay_reads_tensors_anew_and_numbers_of_the_host_never() -> None:
    x, host = torch.arange(4.0), {"by": 2.0}

    def run() -> Tensor:
        out = torch.empty_like(x)
        _scale[(1,)](x, host["by"], out, SIZE=4)
        return out[1:] + host["by"]

    graph, out = captured(run)
    assert replayed(graph, out) == [4, 6, 8]
    x += 1
    host["by"] = 100.0
    assert replayed(graph, out) == [6, 8, 10]


def test_what_is_captured_happens_at_the_replay_alone() -> None:
    total, out = torch.zeros(3), torch.zeros(4)

    def run() -> Tensor:
        total.view(-1)[:2].add_(1)
        _scale[(1,)](torch.ones(4), 5.0, out, SIZE=4)
        return total * 2

    graph, double = captured(run)
    assert (total.tolist(), out.tolist()) == ([0, 0, 0], [0, 0, 0, 0])
    assert double.isnan().all()
    for times in (1, 2):
        assert replayed(graph, double) == [2 * times, 2 * times, 0]
        assert out.tolist() == [5] * 4


def test_memory_of_a_graph_holds_nothing_that_it_did_not_write_itself() -> None:
    x, pool = torch.ones(2), torch.cuda.graph_pool_handle()

    def run() -> Tensor:
        kept = torch.empty(2)
        kept[:1] = x[:1]
        return kept + 0

    graph, out = captured(run, pool)
    other, others = captured(lambda: x + 1, pool)
    one, unwritten = replayed(graph, out)
    assert (one, unwritten != unwritten) == (1, True)
    assert replayed(other, others) == [2, 2]
    assert out.isnan().all()


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x[0].item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: bool(x.sum() > 1),
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 1),
        lambda x: x[x > 1],
        lambda x: x.masked_select(x > 1),
        lambda x: x.unique(),
        lambda x: x.repeat_interleave(x.long()),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
        lambda x: x[[0, 2]],
    ],
)
def test_what_waits_for_the_device_or_comes_from_the_host_is_refused(run: Callable[[Tensor], object]) -> None:
    x = torch.ones(3)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        captured(lambda: (run(x), x)[1])
    graph, out = captured(lambda: x + 1)
    assert replayed(graph, out) == [2, 2, 2]


def test_what_is_copied_to_the_host_is_there_when_its_event_was_waited_for() -> None:
    x, host = torch.ones(2), torch.zeros(2)
    host.copy_(x, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    x += 1
    assert host.isnan().all()
    event.synchronize()
    assert host.tolist() == [1, 1]
