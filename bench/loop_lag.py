"""How late the event loop is while 64 jobs run: its heartbeat's lag, p50, p99 and max.

A heartbeat sleeps a millisecond; what it oversleeps is what every job, chunk and poll waits too. The prompts are long
(20,000 tokens rendered and encoded for some), so work that belongs in a thread shows here when it is not.

    python -m bench.loop_lag [--jobs 64] [--prompt-tokens 20000] [--save]
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.harness import Bench, percentile
from handler.model.snapshot import DEMO
from handler.report import Report
from handler.settings import Settings
from handler.start import start

BEAT_S = 0.001
CONTEXT = 65_536


def roomy(directory: Path) -> str:
    """The demo model with a context that holds a long prompt."""
    shutil.copytree(DEMO, directory, dirs_exist_ok=True)
    config = json.loads((DEMO / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT}), encoding="utf-8")
    return str(directory)


async def heartbeat(lags: list[float]) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(BEAT_S)
        lags.append((time.perf_counter() - before - BEAT_S) * 1000)


async def measure(jobs: int, prompt_tokens: int) -> tuple[list[float], list[float]]:
    """Lags in ms: idle, and while the jobs run."""
    with tempfile.TemporaryDirectory() as directory:
        settings = {"MODEL_PATH": roomy(Path(directory)), "MAX_MODEL_LEN": str(CONTEXT)}
        worker = start(Settings.from_environment(settings), Report())
    long: dict[str, Any] = {"operation": "generate", "prompt": "word " * prompt_tokens, "dry_run": True}
    short: dict[str, Any] = {"operation": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 64}
    idle: list[float] = []
    busy: list[float] = []
    for lags, load in ((idle, []), (busy, [(long, short)[index % 2] for index in range(jobs)])):
        beat = asyncio.create_task(heartbeat(lags))
        await asyncio.gather(asyncio.sleep(1), *(worker.jobs.answer({"id": "bench", "input": job}) for job in load))
        beat.cancel()
    worker.engine.close()
    return idle, busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=20_000)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    bench = Bench("loop_lag")
    table = bench.table("Lag of the event loop", ["while", "beats", "p50 ms", "p99 ms", "max ms"])
    idle, busy = asyncio.run(measure(arguments.jobs, arguments.prompt_tokens))
    for name, lags in (("idle", idle), (f"{arguments.jobs} jobs", busy)):
        table.add(name, len(lags), percentile(lags, 50), percentile(lags, 99), max(lags))
    bench.finish(arguments.save)


if __name__ == "__main__":
    main()
