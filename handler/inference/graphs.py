"""The CUDA graphs of decode steps: which numbers of rows get one, in what order, and the memory that they share.

A step is two graphs, forward and draw, so that something can come between them. Knows no sequence and no page.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from handler import log
from handler.inference.faults import device_is_lost, out_of_memory

#: graphs up to this many rows are captured first, the smallest first, for a worker that has just started
FIRST_GRAPHS = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Captured:
    """The graphs of one number of rows."""

    forward: torch.cuda.CUDAGraph
    #: [rows, vocab], written by `forward` and read by the draws
    logits: Tensor
    #: the draw and the ids that it writes, by whether it searches for rows with both top_k and top_p
    draws: Mapping[bool, tuple[torch.cuda.CUDAGraph, Tensor]]

    def replay(self, *, full_search: bool) -> tuple[Tensor, Tensor]:
        """Compute one step; returns ids [rows] and logits [rows, vocab], valid until the next step."""
        self.forward.replay()
        draw, ids = self.draws[full_search]
        draw.replay()
        return ids, self.logits


class Graphs:
    """The graphs of one runner. They share one pool of memory and one tensor of logits.

    After the first few the largest is captured first: the memory of a smaller graph then fits in what a larger one has
    left in the pool, where in the other order each graph would make the pool grow.
    """

    def __init__(self, buckets: Iterable[int], vocab: int, dtype: torch.dtype, device: torch.device) -> None:
        """`buckets` are the numbers of rows that get a graph."""
        sizes = sorted(buckets)
        self._left = [n for n in sizes if n <= FIRST_GRAPHS] + [n for n in reversed(sizes) if n > FIRST_GRAPHS]
        self._captured: dict[int, Captured] = {}
        self._memory = torch.cuda.graph_pool_handle() if sizes else None
        self._logits = torch.empty(max(sizes, default=0), vocab, dtype=dtype, device=device)

    @property
    def rows(self) -> tuple[int, ...]:
        """The numbers of rows whose graphs are ready, ascending."""
        return tuple(sorted(self._captured))

    def left(self, at_most: int | None = None) -> bool:
        """True while a graph, of at most so many rows, is still to be captured."""
        return bool(self._left) and (at_most is None or self._left[0] <= at_most)

    def fitting(self, rows: int) -> Captured | None:
        """The smallest graph for a step of so many rows; None where none is large enough."""
        size = min((size for size in self._captured if size >= rows), default=None)
        return None if size is None else self._captured[size]

    def capture_next(
        self,
        prepare: Callable[[], None],
        forward: Callable[[Tensor], None],
        draw: Callable[[Tensor, bool], Tensor],
    ) -> None:
        """Capture the next graph, or give it up.

        `forward` writes the logits [rows, vocab] that it is given; `draw` returns ids [rows], drawn from them, with the
        full search or without. Both are called once before the capture, after `prepare`, because in a capture no kernel
        may be compiled and no library may allocate. Where memory is short only smaller graphs are tried; after another
        failure of a capture none is.

        Raises:
            Exception: what the calls before the capture raise, except out of memory; or the loss of the device.
        """
        rows = self._left.pop(0)
        logits = self._logits[:rows]
        try:
            prepare()
            forward(logits)
            for full in (False, True):
                draw(logits, full)
        except Exception as error:
            if not out_of_memory(error):
                raise
            self._give_up(rows, error)
            return
        try:
            computed, _ = self._capture(partial(forward, logits))
            draws = {full: self._capture(partial(draw, logits, full)) for full in (False, True)}
        except Exception as error:
            if device_is_lost(error):
                raise
            self._give_up(rows, error)
            return
        self._captured[rows] = Captured(computed, logits, draws)

    def clear(self) -> None:
        """Free the graphs and their logits; no other is captured."""
        self._captured.clear()
        self._left.clear()
        self._logits = self._logits.new_empty(0)

    def _capture(self, run: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            out = run()
        return graph, out

    def _give_up(self, rows: int, error: Exception) -> None:
        self._left = [size for size in self._left if size < rows] if out_of_memory(error) else []
        log.warn(f"no CUDA graph for {rows} rows, such steps run without or with a larger one: {type(error).__name__}")
