"""How near decoding comes to what the memory allows: every step reads all weights and every row's keys and values.

    python -m bench.decode [--shape 50m] [--rows 1,8,32]
    python -m bench.decode --gpu                 # Qwen2.5-7B's shape on CUDA: 1, 8, 64, 256 rows

The roof is the rate at which a large copy runs in the same process. Then time to first token, one request at a time.
"""

import argparse
import random
import statistics
import time

import torch

from bench.engines import Work, build, engine_on, merged, random_ids, serve
from bench.harness import Bench

PROMPT, NEW = 128, 256


def bandwidth(device: str) -> float:
    """Bytes a second of a copy that no cache holds, read and written."""
    source = torch.empty((4 << 30) if device == "cuda" else (1 << 30), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(6):
        _settle(device)
        begin = time.perf_counter()
        target.copy_(source)
        _settle(device)
        times.append(time.perf_counter() - begin)
    return 2 * source.numel() / statistics.median(times[1:])  # the first touches the pages


def _settle(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="50m")
    parser.add_argument("--rows", default="1,8,32")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    device, shape, rows = ("cuda", "7b", "1,8,64,256") if wishes.gpu else ("cpu", wishes.shape, wishes.rows)
    crowds = [int(count) for count in rows.split(",")]
    random.seed(0)
    bench = Bench("decode", device=device)
    rate = bandwidth(device)
    if wishes.gpu:
        torch.cuda.empty_cache()
    model = merged(build(shape, torch.bfloat16, device))
    # Of an embedding that is not the head too, a step reads some rows alone.
    aside = "model.embed_tokens.weight" if "lm_head.weight" in model.weights else None
    weights = sum(weight.nbytes for name, weight in model.weights.items() if name != aside)
    bench.table("What a step reads", ["weights, GB", "copied at GB/s"]).add(weights / 1e9, rate / 1e9)
    table = bench.table(
        f"Decoding, {shape} bfloat16", ["rows", "ms a step", "tok/s", "share of the roof"], ratio="share of the roof"
    )
    with engine_on(model, max(crowds), 4096) as engine:
        serve(engine, Work("warm", [(random_ids(PROMPT), 8)] * max(crowds)))
        for count in crowds:
            _, records = serve(engine, Work("decode", [(random_ids(PROMPT), NEW) for _ in range(count)]))
            # Steps in which all of them decode
            first = max(record.arrivals[0] for record in records)
            last = min(record.arrivals[-1] for record in records)
            step = (last - first) / sum(first < at <= last for at in records[0].arrivals)
            roof = (weights + count * (PROMPT + NEW // 2) * model.shape.token_bytes) / rate
            table.add(count, step * 1e3, count / step, roof / step)
        table = bench.table("Time to first token, idle engine", ["prompt tokens", "ms"])
        for prompt in (200, 2000):
            alone = [serve(engine, Work("ttft", [(random_ids(prompt), 4)]))[1][0].arrivals[0] for _ in range(11)]
            table.add(prompt, statistics.median(alone) * 1e3)
        told = bench.table("The engine", ["", "is"])
        for name, value in engine.status().details.items():
            told.add(name, str(value))
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
