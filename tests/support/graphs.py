"""CUDA graphs without CUDA: what is computed in a capture is recorded, and replayed on the very same tensors.

As on a device, a replay knows no Python. What the host chose is what it was in the capture, what the host would have to
wait for raises, and nothing of a capture has happened until it is replayed. Kernels run in Triton's interpreter.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, UntypedStorage
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import InterpretedFunction

#: methods that bring a tensor to the host, and operators that need a number of it there, or bring one from there
HOST = {Tensor.tolist, Tensor.numpy, Tensor.cpu}
SYNC = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "repeat_interleave", "lift_fresh"}
#: what graphs share: memory by its address
Pool = dict[int, UntypedStorage]


class Graph:
    """In place of `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.pool: Pool = {}
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        garble(self.pool)  # as another graph of the pool may have left it
        for call in self.calls:
            call()


def garble(pool: Pool) -> None:
    for storage in pool.values():
        lose(storage)


def lose(storage: UntypedStorage) -> None:
    """NaN in floats, -1 in integers."""
    storage.fill_(255)  # type: ignore[attr-defined]


@contextmanager
def capture(graph: Graph, pool: Pool | None = None, **_: object) -> Iterator[None]:
    """In place of `torch.cuda.graph`."""
    graph.pool = {} if pool is None else pool
    recorder = Recorder(graph)
    try:
        with NoHost(), recorder:
            yield
    finally:
        for storage, held in recorder.before.values():
            storage.copy_(held)
        garble(graph.pool)


class Recorder(TorchDispatchMode):
    """Whatever torch or Triton is asked for in this thread becomes a call of the graph."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = graph
        #: memory from outside, and what it held
        self.before: dict[int, tuple[UntypedStorage, UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:  # composites, which inference mode keeps whole, are taken apart
            if (out := func.decompose(*args, **kwargs)) is not NotImplemented:
                return out
        name = func.__name__.partition(".")[0]
        mask = name.startswith("index") and any(x.dtype == torch.bool for x in tensors(args[1]))
        if mask or (name in SYNC and kwargs.get("output_size") is None):
            raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
        return self.record(partial(func, *args, **kwargs), (args, kwargs), replayed="empty" not in name)

    def record(self, call: Callable[[], Any], arguments: object, *, replayed: bool = True) -> Any:
        """Call now, for tensors that each replay fills again."""
        given = {address(x): x.untyped_storage() for x in tensors(arguments)}
        for at in given.keys() - self.graph.pool.keys() - self.before.keys():
            self.before[at] = given[at], given[at].clone()
        out = call()
        made = tensors(out)
        self.graph.pool |= {address(x): x.untyped_storage() for x in made if address(x) not in given}

        def again() -> None:
            for old, new in zip(made, tensors(call()), strict=True):
                if old.data_ptr() != new.data_ptr():  # else a view, or written in place
                    old.copy_(new)

        if replayed:
            self.graph.calls.append(again)
        return out


class NoHost(TorchFunctionMode):
    """What on a CPU is no operator of torch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in HOST:
            raise RuntimeError(f"{func.__name__}: operation not permitted when stream is capturing")
        return func(*args, **(kwargs or {}))


class Event:
    """In place of `torch.cuda.Event`: what is copied without blocking has arrived when the event was waited for."""

    under_way: list[tuple[Tensor, Tensor]] = []  # noqa: RUF012  # of the one stream that there is

    def record(self) -> None:
        self._copies, Event.under_way = Event.under_way, []

    def synchronize(self) -> None:
        for target, source in self._copies:
            target.copy_(source)


def tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def address(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def install(patch: pytest.MonkeyPatch) -> None:
    """Tensors say that they are CUDA's, graphs and events are these."""
    run, copy = InterpretedFunction.run, Tensor.copy_
    makers = {name: getattr(torch, name) for name in ("empty", "tensor")}

    def launch(kernel: Any, *args: Any, **options: Any) -> None:
        call, recorder = partial(run, kernel, *args, **options), _get_current_dispatch_mode()
        with _disable_current_modes():
            recorder.record(call, args) if isinstance(recorder, Recorder) else call()

    def copy_(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if not non_blocking:
            return copy(target, source)
        Event.under_way.append((target, source.clone()))
        lose(target.untyped_storage())
        return target

    patch.setattr(InterpretedFunction, "run", launch)
    patch.setattr(Tensor, "copy_", copy_)
    patch.setattr(Tensor, "is_cuda", True)
    for name, make in makers.items():
        patch.setattr(torch, name, lambda *args, pin_memory=False, make=make, **rest: make(*args, **rest))
    patch.setattr(torch.cuda, "CUDAGraph", Graph)
    patch.setattr(torch.cuda, "graph", capture)
    patch.setattr(torch.cuda, "graph_pool_handle", Pool)
    patch.setattr(torch.cuda, "Event", Event)
