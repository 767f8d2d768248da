"""What a decode step's forward costs beside its arithmetic: our merged forward and transformers' modules, side by side.

    python -m bench.forward                     # 50m shape, float32, 1 torch thread, here
    python -m bench.forward --gpu --shape 7b    # kernels launched, and host time without CUDA graphs

`ops` are the operations that torch dispatches in a step, views left out: on a GPU about one kernel each. `us` is the
median time of a step, sides taking turns: on a CPU arithmetic and all, on a GPU until the host has launched it.
"""

import argparse
import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.engines import build, merged
from bench.harness import Bench, alternate
from handler.inference import attention
from handler.inference.attention import KVPages, Layout
from handler.inference.model import Model
from handler.model.modules import Modules

CONTEXT = 300
PAGE = 16


class Count(TorchDispatchMode):
    """Counts what is no view."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops += not func.is_view
        return func(*args, **(kwargs or {}))


class Step:
    """A decode step of so many rows, each with `CONTEXT` tokens in the cache."""

    def __init__(self, model: Model, rows: int) -> None:
        self._model, device, width = model, model.device, -(-CONTEXT // PAGE)
        name, _ = attention.choose("auto", device, model.shape.head_dim)
        shape, size = model.shape, (rows * width + 1, PAGE)
        self._pages = KVPages(
            shape.layers, *size, shape.kv_heads, shape.head_dim, model.dtype, device, kernels=name == "paged_kernel"
        )
        tables = torch.arange(1, rows * width + 1, device=device).view(rows, width)
        self._positions = torch.full((rows,), CONTEXT - 1, device=device)
        self._ids = torch.arange(rows, device=device)
        self._slots = tables[:, -1] * PAGE + (CONTEXT - 1) % PAGE
        self._tables = tables.int()

    def run(self) -> None:
        rows = len(self._ids)
        layout = Layout(
            slots=self._slots,
            block_tables=self._tables,
            context_lens=(self._positions + 1).int(),
            query_starts=torch.arange(rows + 1, dtype=torch.int32, device=self._model.device),
            query_lens=[1] * rows,
            context_lens_host=[CONTEXT] * rows,
            decode_rows=rows,
        )
        self._model.forward(self._ids, self._positions, None, layout, self._pages)

    def ops(self) -> int:
        count = Count()
        with count:
            self.run()
        return count.ops

    def seconds(self) -> float:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        self.run()
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--shape", default="50m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", default="1,8,32")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if wishes.gpu else "cpu"
    theirs = build(wishes.shape, getattr(torch, wishes.dtype), device)
    models: dict[str, Model] = {"merged": merged(theirs), "modules": Modules(theirs)}
    bench = Bench("forward", device=device)
    table = bench.table(
        f"A decode step of {wishes.shape} {wishes.dtype}, {models['merged'].shape.layers} layers",
        ["rows", "merged ops", "modules ops", "merged us", "modules us", "modules : merged"],
        ratio="modules : merged",
    )
    with torch.inference_mode():
        for rows in map(int, wishes.rows.split(",")):
            steps = {name: Step(model, rows) for name, model in models.items()}
            seconds = alternate({name: step.seconds for name, step in steps.items()}, wishes.steps)
            ops, us = [step.ops() for step in steps.values()], [1e6 * value for value in seconds.values()]
            table.add(rows, *ops, *us, us[1] / us[0])
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
