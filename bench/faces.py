"""What a request costs beside its work: over HTTP and over the queue, in one run, on the demo model.

    python -m bench.faces [--quick] [--save]

`idle`: one chat of one token at a time, from the client's send to the whole answer, less the engine's time
(`timing.total_ms`). `at 64`: chats of one token, 64 at a time. Both workers run in turn, as processes of their own; the
client, and for the queue its control plane, run in this process and share the machine.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from bench.harness import Bench, percentile
from runpod_local import Platform

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-u", "-m", "handler"]
ENV = {"PYTHONPATH": str(ROOT), "MODEL_PATH": "demo", "RUNPOD_LOG_LEVEL": "WARN"}
BODY: dict[str, Any] = {"message": "hi", "max_tokens": 1, "temperature": 0}
AT_ONCE = 64
Ask = Callable[[], Awaitable[dict[str, Any]]]


async def idle(ask: Ask, count: int) -> list[float]:
    """Milliseconds beside the engine's, one request at a time, with pauses of no fixed phase."""
    took = []
    for _ in range(count):
        await asyncio.sleep(random.uniform(0.02, 0.08))
        began = time.perf_counter()
        reply = await ask()
        took.append((time.perf_counter() - began) * 1000 - reply["timing"]["total_ms"])
    return took


async def busy(ask: Ask, seconds: float) -> float:
    """Requests a second, with `AT_ONCE` on their way."""
    began, done = time.perf_counter(), 0

    async def one() -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            await ask()
            done += 1

    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    return done / (time.perf_counter() - began)


async def over_http(count: int, seconds: float) -> tuple[list[float], float]:
    port = random.randrange(20_000, 30_000)
    http = {"FACE": "http", "PORT": str(port), "BIND_ADDRESS": "127.0.0.1", "MAX_CONCURRENT_REQUESTS": str(AT_ONCE)}
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(*COMMAND, env={**os.environ, **ENV, **http}, stderr=log)
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                url = f"http://127.0.0.1:{port}"

                async def ask() -> dict[str, Any]:
                    async with session.post(f"{url}/chat", json=BODY) as answer:
                        answer.raise_for_status()
                        reply: dict[str, Any] = await answer.json()
                        return reply

                await _healthy(session, url)
                await ask()
                return await idle(ask, count), await busy(ask, seconds)
        finally:
            process.terminate()
            await process.wait()


async def _healthy(session: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                async with session.get(f"{url}/ping") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)


async def over_the_queue(count: int, seconds: float) -> tuple[list[float], float]:
    env = {**ENV, "MAX_CONCURRENT_REQUESTS": str(AT_ONCE)}
    async with Platform() as platform, platform.worker(COMMAND, env=env) as worker:

        async def ask() -> dict[str, Any]:
            job = await platform.runsync({"operation": "chat", **BODY})
            reply: dict[str, Any] = job["output"]
            return reply

        await worker.ready()
        await ask()
        return await idle(ask, count), await busy(ask, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half a minute in all")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    count, seconds = (60, 4.0) if wishes.quick else (300, 15.0)
    bench = Bench("faces")
    table = bench.table(
        "Beside the engine's time, and chats of one token a second with 64 at a time",
        ["face", "idle p50 ms", "idle p99 ms", "requests/s at 64"],
    )
    for name, run in (("HTTP", over_http), ("queue", over_the_queue)):
        latencies, rate = asyncio.run(run(count, seconds))
        table.add(name, percentile(latencies, 50), percentile(latencies, 99), rate)
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
