"""Eight minutes of honest jobs among hostile ones: is an honest job answered in time, and does the worker grow?

    python -m bench.hostile [--jobs 3000] [--minutes 8]

The real worker with the demo model, two fifths of the jobs hostile: the attacks of `tests.support.hostile` at full size
and requests that are wrong, odd or late; a twentieth is cancelled. The KV cache is filled before. Every ten seconds:
memory (RSS), file descriptors and threads of the worker. Fails where a job is lost, an honest one fails, the 99th
percentile of honest jobs is above a second, threads grow from the second minute to the last, descriptors by more than
the connections that come and go, or memory by 10 % or more, the engine keeps a request or a page, the log has a text
that was sent, or the worker does not leave with status 0.
"""

import argparse
import asyncio
import os
import platform as host
import sys
import time

from bench.soak import EVERY_S, IN_FLIGHT, ROOT, Sample, median
from runpod_local import Platform
from tests.support.hostile import at_rest, filled, leaves, mixed

COMMAND = [sys.executable, "-u", "-m", "handler"]


async def run(jobs: int, minutes: float) -> bool:
    env = {"PYTHONPATH": str(ROOT), "MODEL_PATH": "demo", "RUNPOD_LOG_LEVEL": "DEBUG"}
    samples: list[Sample] = []
    async with Platform(hold_s=5.0, max_jobs=jobs + 1000) as platform, platform.worker(COMMAND, env=env) as worker:
        await worker.ready(120)
        await filled(platform)
        began = time.monotonic()
        mix = asyncio.create_task(mixed(platform, jobs, minutes * 60, seed=1))
        while not mix.done():
            await asyncio.wait({mix}, timeout=EVERY_S)
            samples.append(sample := Sample.of(worker.process.pid))
            line = f"{sample.rss_mb:7.1f} MB {sample.descriptors:4} descriptors {sample.threads:3} threads"
            print(f"{time.monotonic() - began:5.0f} s {line}", flush=True)
        told = mix.result()
        health = await at_rest(platform)
        await leaves(platform, worker)
    minute = round(60 / EVERY_S)
    first, last = (median(part) for part in (samples[minute : 2 * minute] or samples, samples[-minute:]))
    growth = (last.rss_mb / first.rss_mb - 1) * 100
    print(f"{time.strftime('%Y-%m-%d')}, Python {host.python_version()}, {os.cpu_count()} cores: {dict(told.states)}")
    for name, seconds in sorted({**told.honest_s, **told.attacks_s}.items()):
        ordered = sorted(seconds)
        print(f"{name}: {len(ordered)} jobs, median {ordered[len(ordered) // 2]:.3f} s, slowest {ordered[-1]:.3f} s")
    p99 = told.percentile(0.99)
    print(f"honest: p50 {told.percentile(0.5):.3f} s, p99 {p99:.3f} s, failed {told.failed}")
    print(f"second minute to last: {first} -> {last}, memory {growth:+.1f} %, at rest {health['engine']}")
    flat = growth < 10 and last.threads <= first.threads and last.descriptors <= first.descriptors + IN_FLIGHT
    return flat and p99 <= 1 and not told.failed and not health["engine"]["pages_used"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--minutes", type=float, default=8.0, help="at least 3")
    arguments = parser.parse_args()
    return 0 if asyncio.run(run(arguments.jobs, arguments.minutes)) else 1


if __name__ == "__main__":
    sys.exit(main())
