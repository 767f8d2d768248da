"""A worker without a model, for tests and benches of delivery: its answer is what the job's input says.

    python -m tests.support.echo

SLOTS says how many jobs it runs, EXACT=true no more than those, STOCK=true the SDK's own
loop, and GIVE_UP_S, REFUSED_S, ANSWER_S and GRACE_S how long it tries and waits. The keys of a job's input are those
that `echo` reads, all of them optional; the result counts how often the job ran.
"""

import asyncio
import os
import sys
import threading
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

from handler.queue import sdk
from handler.queue.delivery import RetryPolicy
from handler.queue.leaving import leave
from handler.queue.output import Chunk, Failed, Job, Output, Result
from handler.report import Report

#: values that JSON cannot express, by name
ODD: dict[str, Any] = {"nan": float("nan"), "surrogate": "\ud800", "object": object()}
runs: Counter[str] = Counter()
faults: list[str] = []


async def echo(job: Job) -> AsyncGenerator[Output, None]:
    given: Any = job["input"]
    openai = "openai_route" in given
    given = given.get("openai_input", given)
    id_ = str(job["id"])
    note("runs", id_, given)
    try:
        for index in range(given.get("chunks", 0)):
            yield Chunk(f"data: {index}\n\n" if openai else {"index": index, "delta": f"{index} "})
            await asyncio.sleep(given.get("pace", 0))
        runs[id_] += 1
        if "spin" in given:
            threading.Thread(target=spin).start()
        if "stuck" in given:
            await asyncio.to_thread(spin)
        if "broken" in given:
            faults.append(given["broken"])
        if "raise" in given:
            raise ValueError(given["raise"])
        if "exit" in given:
            sys.exit(given["exit"])
        await asyncio.sleep(given.get("sleep", 0))
    finally:
        note("left", id_, given)
    if "fail" in given:
        yield Failed("as told")
        return
    if openai and given.get("stream"):
        yield Result("data: [DONE]\n\n")
        return
    reply = {"say": given.get("say"), "runs": runs[id_], **given.get("reply", {})}
    yield Result({**reply, **({"odd": ODD[given["odd"]]} if "odd" in given else {})})


def spin() -> None:
    """Work that does not end, and cannot be ended."""
    while True:
        sum(range(1000))


def note(what: str, id_: str, given: dict[str, Any]) -> None:
    if "note" in given:
        sys.stderr.write(f"{what} {id_}\n")


def main() -> int:
    environ = os.environ
    slots = int(environ.get("SLOTS", "8"))
    if "STOCK" in environ:
        sdk.SDK_VERSION = "another"
        sdk.STOCK_OVERFETCH = 1.0
    if "EXACT" in environ:
        sdk.overfetched = lambda slots: slots
    return sdk.serve(
        echo,
        slots=slots,
        fault=lambda: faults[0] if faults else None,
        settled=lambda timeout_s: True,
        health=Report(),
        grace_s=float(environ.get("GRACE_S", "30")),
        policy=RetryPolicy(
            give_up_s=float(environ.get("GIVE_UP_S", "60")),
            refused_s=float(environ.get("REFUSED_S", "5")),
            answer_s=float(environ.get("ANSWER_S", "15")),
        ),
    )


if __name__ == "__main__":
    leave(main())
