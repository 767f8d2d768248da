"""`python -m runpod_local [--port 8600] [-- COMMAND …]`: serves a small RunPod, with COMMAND as worker."""

import argparse
import asyncio
import shlex
import signal
import sys
from collections.abc import Sequence

from runpod_local.server import Platform


async def _serve(port: int, command: Sequence[str]) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with Platform(port=port) as platform:
        sys.stdout.write(_instructions(platform, command))
        sys.stdout.flush()
        if not command:
            await asyncio.Event().wait()
        async with platform.worker(command, output=sys.stdout.buffer) as worker:
            return await worker.process.wait()


def _instructions(platform: Platform, command: Sequence[str]) -> str:
    url = platform.url
    lines = [f"A small RunPod at {url} (this machine only; Ctrl-C ends it)", ""]
    if command:
        lines += [f"# Its worker: {shlex.join(command)}"]
    else:
        lines += ["# A worker's environment:"]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in platform.environment().items()]
    body = """-d '{"input": {"operation": "chat", "message": "Hello"}}'"""
    lines += [
        "",
        "# Requests as to RunPod; an Authorization header is ignored:",
        f"curl -s '{url}/runsync?wait=60000' {body}",
        f"curl -s {url}/run {body}",
        f"curl -s {url}/status/JOB_ID",
        f"curl -s {url}/stream/JOB_ID",
        f"curl -s -X POST {url}/cancel/JOB_ID",
        f"curl -s {url}/health",
        f"curl -sN {url}/openai/v1/chat/completions "
        """-d '{"stream": true, "messages": [{"role": "user", "content": "Hello"}]}'""",
        "",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m runpod_local", description="Serve a small RunPod on loopback.")
    parser.add_argument("--port", type=int, default=8600)
    parser.add_argument("command", nargs="*", help="after --: the command that starts a worker")
    options = parser.parse_args()
    try:
        return asyncio.run(_serve(options.port, options.command))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


if __name__ == "__main__":
    sys.exit(main())
