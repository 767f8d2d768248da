"""From the start of a worker's process to its first answer, beside a plain one (`bench.plain`), phase by phase.

    python -m bench.cold_start [--repeat 5] [--gpu] [--save]

Both run as processes of their own against the control plane of the tests, with one job of one token in the queue.
`ready` is the first job-take, `first` the answer's arrival. Checkpoints: the demo model, and one of Qwen2.5-0.5B's
shape with random weights (1 GB; with --gpu Qwen2.5-7B's, 15 GB). `cold`: its files are out of the page cache; those of
Python and its libraries stay in it. Reading is measured beside dd's of the same file: of the loader alone, and at those
starts, where it follows threads that read ahead.
"""

import argparse
import asyncio
import json
import operator
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from bench.engines import SHAPES
from bench.harness import Bench, alternate
from handler.model.checkpoint import Checkpoint, wanted
from handler.model.config import read_model_config
from handler.model.qwen import Qwen
from handler.model.shards import find_tensors
from handler.model.snapshot import DEMO, INDEX, Snapshot
from runpod_local import Platform

ROOT = Path(__file__).parents[1]
SIDES = {"plain": "bench.plain", "ours": "handler"}
JOB = {"operation": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "temperature": 0}
SHARD_BYTES = 4 * 10**9
PAGE = 4096


@dataclass
class Start:
    """One start; seconds since the process was created."""

    ready: float
    first: float
    #: the worker's own ledger, where it keeps one
    ledger: dict[str, Any] = field(default_factory=dict)


READY: Callable[[Start], float] = operator.attrgetter("ready")
FIRST: Callable[[Start], float] = operator.attrgetter("first")


def write_checkpoint(path: Path, shape: str) -> Path:
    """Random weights of a Qwen2.5 shape in bfloat16, with the demo model's tokenizer."""
    path.mkdir()
    config = Qwen2Config(
        **SHAPES[shape], max_position_embeddings=32_768, dtype="bfloat16", architectures=["Qwen2ForCausalLM"],
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    config.save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(DEMO / name, path)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    shards: list[dict[str, torch.Tensor]] = [{}]
    weight_map = {}
    noise = torch.randn(1 << 24, dtype=torch.bfloat16) * 0.02  # over and over: as many as 7B has would take a minute
    for name, parameter in model.named_parameters():  # tied ones come once
        if sum(tensor.nbytes for tensor in shards[-1].values()) > SHARD_BYTES:
            _save(shards[-1], path, len(shards))
            shards.append({})
        size = parameter.numel()
        shards[-1][name] = noise.repeat(-(-size // len(noise)))[:size].view(parameter.shape)
        weight_map[name] = _shard(len(shards))
    _save(shards[-1], path, len(shards))
    index = {"metadata": {}, "weight_map": weight_map}
    (path / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return path


def _shard(number: int) -> str:
    return f"model-{number:05}.safetensors"


def _save(tensors: dict[str, torch.Tensor], path: Path, number: int) -> None:
    save_file(tensors, path / _shard(number), metadata={"format": "pt"})
    for name in tensors:
        tensors[name] = torch.empty(0)


def cool(files: Sequence[Path]) -> float:
    """Put files out of the page cache; returns the share of their pages that stayed."""
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    pages = [(file, at) for file in files for at in range(0, file.stat().st_size, 256 * PAGE)]
    return sum(_cached(file, at) for file, at in pages) / len(pages)


def _cached(file: Path, at: int) -> bool:
    with file.open("rb") as stream:
        try:
            return os.preadv(stream.fileno(), [bytearray(1)], at, os.RWF_NOWAIT) > 0
        except OSError:
            return False


def dd_rate(file: Path, *, cold: bool) -> float:
    """GB/s of dd."""
    if cold:
        cool([file])
    began = time.perf_counter()
    subprocess.run(["dd", f"if={file}", "of=/dev/null", "bs=64M"], check=True, capture_output=True)
    return file.stat().st_size / 1e9 / (time.perf_counter() - began)


def loader_rate(checkpoint: Path, device: str, *, cold: bool) -> float:
    """GB/s of the worker's loader alone."""
    snapshot = Snapshot(checkpoint, "path", checkpoint.name, None)
    config = read_model_config(checkpoint, snapshot.name)
    tensors = wanted(find_tensors(snapshot.shards(), snapshot.name), tied=config.tie_word_embeddings)
    if cold:
        cool(snapshot.shards())
    began = time.perf_counter()
    loader = Checkpoint(tensors, torch.bfloat16, torch.device(device), snapshot.name)
    Qwen(config, loader.take, torch.bfloat16, torch.device(device))
    loader.fill()
    return snapshot.bytes() / 1e9 / (time.perf_counter() - began)


def device_rate() -> float:
    """GB/s from pinned memory to the GPU: no load onto it is faster."""
    host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
    device = torch.empty_like(host, device="cuda")
    began = time.perf_counter()
    device.copy_(host)
    torch.cuda.synchronize()
    return host.numel() / 1e9 / (time.perf_counter() - began)


async def start(module: str, checkpoint: Path, timeout_s: float) -> Start:
    """Start one worker, and wait for its answer."""
    env = {"PYTHONPATH": str(ROOT), "MODEL_PATH": str(checkpoint), "RUNPOD_LOG_LEVEL": "WARN"}
    async with Platform() as platform:
        job = await platform.run(JOB)
        began = time.monotonic()
        async with platform.worker([sys.executable, "-u", "-m", module], env=env) as worker:
            await worker.ready(timeout_s)
            done = await platform.wait(job, timeout_s)
            first = time.monotonic() - began
            if done["status"] != "COMPLETED":
                raise RuntimeError(f"{module}: {done}")
            ready = platform.calls("take")[0].at - began
            lines = [json.loads(line) for line in worker.log.splitlines() if line.startswith("{")]
    return Start(ready, first, next((line["startup"] for line in lines if "startup" in line), {}))


def median(starts: Sequence[Start], figure: Callable[[Start], float]) -> float:
    return statistics.median(map(figure, starts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--gpu", action="store_true", help="Qwen2.5-7B's shape on CUDA")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    bench = Bench("cold_start", device="cuda" if wishes.gpu else "cpu")
    starts_table = bench.table(
        "Seconds from the start of the process, medians",
        ["checkpoint", "page cache", "plain ready", "ours ready", "plain / ours", "plain first", "ours first"],
        labels=2,
        ratio="plain / ours",
    )
    rates_table = bench.table(
        "Reading the weights, GB/s",
        ["checkpoint", "page cache", "left in cache", "dd", "loader", "loader / dd", "a start", "a start / dd",
         "to the GPU"],
        labels=2,
        ratio="loader / dd",
    )  # fmt: skip
    ledgers: dict[tuple[str, str], list[dict[str, Any]]] = {}
    left: list[float] = []
    shape = "7b" if wishes.gpu else "0.5b"
    with tempfile.TemporaryDirectory(prefix="cold-start-") as folder:
        for name, checkpoint in (("demo", DEMO), (shape, write_checkpoint(Path(folder) / shape, shape))):
            files = sorted(checkpoint.glob("*.safetensors"))
            for cache in ("cold", "warm"):
                starts: dict[str, list[Start]] = {side: [] for side in SIDES}
                for _ in range(wishes.repeat):
                    for side, module in SIDES.items():
                        if cache == "cold":
                            left.append(cool(files))
                        starts[side].append(asyncio.run(start(module, checkpoint, 600)))
                plain, ours = starts["plain"], starts["ours"]
                ready, first = ([median(side, figure) for side in (plain, ours)] for figure in (READY, FIRST))
                starts_table.add(name, cache, *ready, ready[0] / ready[1], *first)
                ledgers[name, cache] = [start.ledger for start in ours]
        for cache in ("cold", "warm"):
            sides: dict[str, Callable[[], float]] = {
                "dd": partial(dd_rate, files[0], cold=cache == "cold"),
                "loader": partial(loader_rate, checkpoint, "cuda" if wishes.gpu else "cpu", cold=cache == "cold"),
                **({"device": device_rate} if wishes.gpu else {}),
            }
            rates = alternate(sides, wishes.repeat)
            kept = f"{statistics.mean(left):.0%}" if cache == "cold" else "all"
            loaded = statistics.median(ledger["weights"]["gb_per_s"] for ledger in ledgers[shape, cache])
            dd, loader = rates["dd"], rates["loader"]
            rates_table.add(shape, cache, kept, dd, loader, loader / dd, loaded, loaded / dd, rates.get("device"))
    phases = list(ledgers["demo", "warm"][0]["phases_s"])
    phases_table = bench.table("Our start by phase, seconds, medians", ["checkpoint", "page cache", *phases], labels=2)
    for labels, told in ledgers.items():
        phases_table.add(
            *labels, *(statistics.median(ledger["phases_s"].get(phase, 0.0) for ledger in told) for phase in phases)
        )
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
