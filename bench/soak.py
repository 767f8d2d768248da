"""Ten minutes of everything: does the worker grow?

    python -m bench.soak [--minutes 10]

The real worker with the demo model, sixteen jobs at any time, the mix and the faults of `tests.inference.test_mixed`,
a twentieth of the jobs cancelled. Every ten seconds: memory (RSS), file descriptors and threads of the worker. Fails
where from the second minute to the last memory grows by 5 % or more, threads by one, or descriptors by more than the
connections that come and go with retries (medians of a minute). The first minute fills what is bounded: the KV cache,
and on a CPU the kernels that oneDNN keeps for shapes of batches. The results kept for jobs that come again, 8 MiB,
take some more.
"""

import argparse
import asyncio
import os
import platform as host
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import astuple, dataclass
from pathlib import Path

from runpod_local import Platform
from tests.inference.test_mixed import COMMAND, FAULTS, requests

ROOT = Path(__file__).parents[1]
IN_FLIGHT = 16
EVERY_S = 10.0


@dataclass(frozen=True)
class Sample:
    rss_mb: float
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Sample":
        told = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return cls(int(told["VmRSS"].split()[0]) / 1024, descriptors, int(told["Threads"]))


async def load(platform: Platform, ended: Counter[str], draw: random.Random) -> None:
    """One of the clients: a job after the other, now and then cancelled."""
    for request in iter(lambda: requests(1, draw.randrange(2**31))[0], None):
        id_ = await platform.run(request)
        if draw.random() < 0.05:
            await asyncio.sleep(draw.uniform(0, 0.2))
            await platform.cancel(id_)
        ended[(await platform.wait(id_, 300))["status"]] += 1


async def soak(minutes: float) -> bool:
    env = {"PYTHONPATH": str(ROOT), "MODEL_PATH": "demo", "RUNPOD_LOG_LEVEL": "ERROR"}
    samples: list[Sample] = []
    ended: Counter[str] = Counter()
    async with Platform(hold_s=5.0, max_jobs=1000) as platform, platform.worker(COMMAND, env=env) as worker:
        await worker.ready(120)
        for route, how in FAULTS:
            platform.fault(route, **{"times": None, **how})  # type: ignore[arg-type]
        clients = [asyncio.create_task(load(platform, ended, random.Random(seed))) for seed in range(IN_FLIGHT)]
        began = time.monotonic()
        while (now := time.monotonic() - began) < minutes * 60:
            await asyncio.sleep(EVERY_S)
            for client in clients:
                if client.done():
                    client.result()  # raises what ended it
            samples.append(sample := Sample.of(worker.process.pid))
            told = f"{sample.rss_mb:7.1f} MB {sample.descriptors:4} descriptors {sample.threads:3} threads"
            print(f"{now + EVERY_S:5.0f} s {told}  {sum(ended.values())} jobs", flush=True)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        alive = worker.process.returncode is None
    minute = round(60 / EVERY_S)
    first, last = (median(part) for part in (samples[minute : 2 * minute], samples[-minute:]))
    growth = (last.rss_mb / first.rss_mb - 1) * 100
    print(f"{time.strftime('%Y-%m-%d')}, Python {host.python_version()}, {os.cpu_count()} cores: {dict(ended)}")
    print(f"second minute to last: {first} -> {last}, memory {growth:+.1f} %, alive {alive}")
    flat = last.descriptors < first.descriptors + IN_FLIGHT and last.threads <= first.threads
    return alive and growth < 5 and flat


def median(samples: list[Sample]) -> Sample:
    rss_mb, descriptors, threads = zip(*map(astuple, samples), strict=True)
    return Sample(statistics.median(rss_mb), round(statistics.median(descriptors)), round(statistics.median(threads)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="at least 3")
    return 0 if asyncio.run(soak(parser.parse_args().minutes)) else 1


if __name__ == "__main__":
    sys.exit(main())
