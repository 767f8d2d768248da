"""What a decode step's forward costs: our merged forward beside transformers' modules.

    python -m bench.forward [--shape 50m] [--dtype bfloat16] [--rows 1,8,32] [--gpu] [--save]

`ops` are the operations that torch dispatches in a step, its composites taken apart and views left out: about one
kernel each. What Triton launches beside them is not among them. `us` is the median time of a step in which every row
has some hundred tokens before it; on a GPU until the host has launched it, without a CUDA graph.
"""

import argparse
import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.engines import build, merged
from bench.harness import Bench, alternate
from handler.inference.model import Model
from handler.model.modules import Modules
from handler.ops import attention
from handler.ops.pages import KVPages, Layout

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
        name, _ = attention.choose("auto", device, model.shape.head_dim, model.shape.dtype_bytes)
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
        with torch.no_grad(), count:  # inference mode would keep composites whole
            self.run()
        return count.ops

    def us(self) -> float:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.inference_mode():
            self.run()
        return 1e6 * (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="50m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rows", default="1,8,32")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if wishes.gpu else "cpu"
    bench = Bench("forward", device=device)
    table = bench.table(
        f"A decode step of the {wishes.shape} shape in {wishes.dtype}",
        ["rows", "merged ops", "modules ops", "merged us", "modules us", "modules : merged"],
        ratio="modules : merged",
    )
    theirs = build(wishes.shape, getattr(torch, wishes.dtype), device)
    models: dict[str, Model] = {"merged": merged(theirs), "modules": Modules(theirs)}
    for rows in map(int, wishes.rows.split(",")):
        steps = {name: Step(model, rows) for name, model in models.items()}
        ops = [step.ops() for step in steps.values()]
        us = alternate({name: step.us for name, step in steps.items()}, wishes.steps)
        table.add(rows, *ops, *us.values(), us["modules"] / us["merged"])
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
