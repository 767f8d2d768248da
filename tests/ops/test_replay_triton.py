"""A graph counts as sound only where its replays write the very bits that its eager step writes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from handler.ops.replay import replays_as_eager
from tests.support import graphs
from tests.support.kernels import CUDA

pytestmark = pytest.mark.skipif(CUDA, reason="there are genuine graphs")


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs.install(monkeypatch)


def compare(step: Callable[[Tensor], Tensor], after: Callable[[], object] = lambda: None) -> tuple[bool, list[float]]:
    """Whether a graph of `step` on a state of two floats is sound, and the state afterwards."""
    state = torch.tensor([1.0, float("nan")])
    with torch.inference_mode():
        step(state)
        state.copy_(torch.tensor([1.0, float("nan")]))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = step(state)
        after()

        def replay() -> list[Tensor]:
            graph.replay()
            return [out]

        return replays_as_eager(lambda: [step(state)], replay, [state]), state.tolist()


def test_a_graph_that_computes_the_same_is_sound_and_the_state_is_as_before() -> None:
    sound, state = compare(lambda x: x.add_(1) * 3)
    assert sound
    assert state[0] == 1.0
    assert state[1] != state[1]


def test_a_graph_that_kept_a_number_of_the_host_is_not() -> None:
    host = {"by": 2.0}
    assert not compare(lambda x: x * host["by"], lambda: host.update(by=3.0))[0]


def test_a_graph_that_misses_a_change_of_the_state_is_not() -> None:
    eager = [True]

    def step(x: Tensor) -> Tensor:
        out = x * 2
        if eager[0]:
            x[:1].add_(1)
        return out

    calls = 0

    def once(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        eager[0] = calls != 2  # the capture
        return step(x)

    assert not compare(once)[0]


def test_a_graph_whose_second_replay_differs_is_not() -> None:
    kept = torch.zeros(1)  # state that is not restored

    def step(x: Tensor) -> Tensor:
        return x[:1] + kept.add_(1) * 0 + (kept > 3)

    assert not compare(step)[0]
