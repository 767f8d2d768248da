"""Which graphs are captured, in what order, and what becomes of a failure; without a device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from handler.inference.graphs import FIRST_GRAPHS, Graphs

BUCKETS = (1, 2, 4, 8, 16, 24, 32)


@pytest.fixture(autouse=True)
def _graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def capture(graph: object, **_: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)


class Rig:
    """Graphs whose calls may fail: 0 prepares, 1 is the forward and 2 the draw before a capture, 3 and 4 are in it."""

    def __init__(self, fails: Callable[[int, int], Exception | None] = lambda rows, call: None) -> None:
        self.graphs = Graphs(BUCKETS, 10, torch.float32, torch.device("cpu"))
        self.tried: list[int] = []
        self._fails = fails
        self._calls = 0

    def capture(self) -> None:
        self._calls = 0
        self.graphs.capture_next(self._prepare, self._forward, self._draw)

    def capture_all(self) -> tuple[int, ...]:
        while self.graphs.left():
            self.capture()
        return self.graphs.rows

    def _prepare(self) -> None:
        self._note(self.graphs._logits[:0], 0)

    def _forward(self, logits: Tensor) -> None:
        self._calls += 1
        self._note(logits, 1 if self._calls == 1 else 3)

    def _draw(self, logits: Tensor, full_search: bool) -> Tensor:
        self._note(logits, 2 if self._calls == 1 else 4)
        return torch.zeros(len(logits))

    def _note(self, logits: Tensor, call: int) -> None:
        rows = len(logits)
        if call == 1:
            self.tried.append(rows)
        if error := self._fails(rows, call):
            raise error


def test_after_the_first_few_the_largest_graph_comes_first() -> None:
    rig = Rig()
    while rig.graphs.left(FIRST_GRAPHS):
        rig.capture()
    assert rig.tried == [1, 2, 4, 8]
    assert rig.capture_all() == BUCKETS
    assert rig.tried == [1, 2, 4, 8, 32, 24, 16]


def test_all_graphs_share_one_tensor_of_logits_and_have_a_draw_for_each_search() -> None:
    rig = Rig()
    rig.capture_all()
    for rows in range(1, 33):
        graph = rig.graphs.fitting(rows)
        assert graph is not None
        assert len(graph.logits) == min(bucket for bucket in BUCKETS if bucket >= rows)
        assert graph.logits.data_ptr() == rig.graphs._logits.data_ptr()
        assert {*graph.draws} == {False, True}
    assert rig.graphs.fitting(33) is None


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_without_memory_for_a_graph_smaller_ones_are_still_captured(call: int) -> None:
    full = torch.AcceleratorError("CUDA error: out of memory")
    rig = Rig(lambda rows, at: full if rows > 20 and at == call else None)
    assert rig.capture_all() == (1, 2, 4, 8, 16)
    rig = Rig(lambda rows, at: full if rows > 2 and at == call else None)
    assert rig.capture_all() == (1, 2)
    assert rig.tried == [1, 2, 4]


def test_without_memory_to_prepare_a_graph_no_step_fails() -> None:
    assert Rig(lambda rows, at: torch.OutOfMemoryError("no room")).capture_all() == ()


@pytest.mark.parametrize("call", [1, 2])
def test_what_a_step_before_the_capture_raises_is_raised(call: int) -> None:
    broken = RuntimeError("Failed to find C compiler")
    rig = Rig(lambda rows, at: broken if at == call else None)
    with pytest.raises(RuntimeError, match="C compiler"):
        rig.capture()


def test_a_capture_that_fails_is_the_last_one_and_a_lost_device_is_raised() -> None:
    refused = RuntimeError("operation not permitted when stream is capturing")
    rig = Rig(lambda rows, at: refused if rows == 4 and at == 3 else None)
    assert rig.capture_all() == (1, 2)
    assert rig.tried == [1, 2, 4]
    lost = torch.AcceleratorError("CUDA error: unspecified launch failure")
    with pytest.raises(torch.AcceleratorError):
        Rig(lambda rows, at: lost if at == 3 else None).capture()
