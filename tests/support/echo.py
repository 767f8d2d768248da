"""A worker without a model, for tests and benches of delivery: it says what it is told to, on either face.

    python -m tests.support.echo

STREAMING=true chooses the face, SLOTS how many jobs it runs, EXACT=true no more than those, STOCK=true the SDK's own
loop, and GIVE_UP_S, REFUSED_S, ANSWER_S and GRACE_S how patient it is. Its input holds what to do, by the names in
`answer` and `stream`, all of them optional; its output counts how often the job ran.
"""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

from handler.queue import sdk as worker
from handler.queue.delivery import Patience

#: what JSON does not have, by name
ODD = {"nan": float("nan"), "surrogate": "\ud800", "object": object()}
runs: Counter[str] = Counter()
broken: list[str] = []


async def answer(job: Mapping[str, Any]) -> dict[str, Any]:
    given = job["input"]
    runs[job["id"]] += 1
    note("runs", job)
    if "broken" in given:
        broken.append(given["broken"])
    if "raise" in given:
        raise ValueError(given["raise"])
    if "exit" in given:
        sys.exit(given["exit"])
    try:
        await asyncio.sleep(given.get("sleep", 0))
    finally:
        note("left", job)
    if "fail" in given:
        return {"error": "as told"}
    return {"say": given.get("say"), "runs": runs[job["id"]], **({"odd": ODD[given["odd"]]} if "odd" in given else {})}


async def stream(job: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    given = job["input"]
    note("runs", job)
    try:
        for index in range(given.get("chunks", 0)):
            yield {"index": index, "delta": f"{index} "}
            await asyncio.sleep(given.get("pace", 0))
    finally:
        note("left", job)
    yield await answer(job)


def note(what: str, job: Mapping[str, Any]) -> None:
    if "note" in job["input"]:
        sys.stderr.write(f"{what} {job['id']}\n")


def main() -> int:
    environ = os.environ
    slots = int(environ.get("SLOTS", "8"))
    if "STOCK" in environ:
        worker.SDK_VERSION = "another"
        worker.STOCK_OVERFETCH = 1.0
    if "EXACT" in environ:
        worker.overfetched = lambda slots: slots
    status = worker.serve(
        stream if environ.get("STREAMING") == "true" else answer,
        slots=slots,
        grace_s=float(environ.get("GRACE_S", "30")),
        broken=lambda: broken[0] if broken else None,
        patience=Patience(
            give_up_s=float(environ.get("GIVE_UP_S", "60")),
            refused_s=float(environ.get("REFUSED_S", "5")),
            answer_s=float(environ.get("ANSWER_S", "15")),
        ),
    )
    if status:
        worker.leave(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
