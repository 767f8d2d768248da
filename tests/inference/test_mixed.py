"""Everything at once: the real worker with the demo model, jobs of every kind, and every fault at random.

`python -m tests.inference.test_mixed [jobs] [seed …]` runs it by hand, and prints what went wrong on the way.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runpod_local import Platform, Worker

COMMAND = [sys.executable, "-u", "-m", "handler"]
ROOT = Path(__file__).parents[2]
Request = dict[str, Any]

#: By route: what goes wrong, and how often. Not among them: a take whose reply is lost with jobs in it, which no worker
#: can know of.
FAULTS: list[tuple[str, dict[str, Any]]] = [
    *((route, {"status": 500, "chance": 0.08}) for route in ("done", "stream", "take", "stop", "ping")),
    *((route, {"status": 429, "chance": 0.04}) for route in ("done", "stream", "take", "stop")),
    *((route, {"drop": True, "chance": 0.05}) for route in ("done", "stream", "take", "stop")),
    *((route, {"status": 502, "after": True, "chance": 0.05}) for route in ("done", "stream")),
    *((route, {"drop": True, "after": True, "chance": 0.03}) for route in ("done", "stream")),
    *((route, {"delay_s": 0.2, "chance": 0.05}) for route in ("done", "stream", "take")),
    *((route, {"body": "<html>", "content_type": "text/html", "chance": 0.05}) for route in ("take", "stop")),
    ("done", {"status": 400, "chance": 0.02}),
    ("take", {"status": 404, "chance": 0.03}),
    ("take", {"status": 204, "chance": 0.03}),
    ("take", {"body": '{"id": ', "chance": 0.03}),
    ("take", {"duplicate": True, "chance": 0.15}),
    ("take", {"item": {"input": {}}, "chance": 0.1}),
    ("stop", {"hang": True, "times": 1}),
    ("ping", {"hang": True, "times": 1}),
    # posts that are never answered: each costs its job the 15 s that the worker waits
    ("done", {"hang": True, "times": 1}),
    ("stream", {"hang": True, "times": 1}),
]
JOBS, SEEDS = 500, (1, 2, 3)


def requests(count: int, seed: int) -> list[Request]:
    """Operations in turn, 30 % of them streamed, now and then one that must be refused."""
    draw = random.Random(seed)
    words = ("a", "red", "fox", "runs", "over", "the", "hill", "at", "dawn", "while", "rain", "falls", "on", "walls")
    made: list[Request] = []
    for index in range(count):
        text = " ".join(draw.choices(words, k=draw.randint(2, 12)))
        common = {"max_tokens": draw.randint(4, 60), "seed": draw.randrange(2**31), "stream": draw.random() < 0.3}
        kinds: list[Request] = [
            {"operation": "chat", "messages": [{"role": "user", "content": text}], **common},
            {"operation": "generate", "prompt": text, "temperature": 1.0, **common},
            {"operation": "enhance", "prompt": text, "system_prompt": "Rewrite.", "temperature": 0.0, **common},
            {"operation": "info", "sections": ["health"]},
            {"operation": "generate", "prompt": text, "top_p": 5},
        ]
        made.append(kinds[index % 4 if draw.random() < 0.95 else 4])
    return made


def text_of(job: dict[str, Any]) -> str | None:
    """The text of an answer, None for what has none."""
    assert job["status"] == "COMPLETED", job
    output = job["output"]
    reply = output[-1] if isinstance(output, list) else output
    return next((reply[key] for key in ("response", "text", "enhanced_prompt") if key in reply), None)


async def run(count: int, seed: int) -> dict[str, Any]:
    """Run the jobs alone, then all together with everything going wrong; returns figures, or fails an assertion."""
    wanted = requests(count, seed)
    env = {"PYTHONPATH": str(ROOT), "MODEL_PATH": "demo", "RUNPOD_PING_INTERVAL": "1000"}
    async with Platform(seed=seed, hold_s=2.0) as platform, platform.worker(COMMAND, env=env) as worker:
        await worker.ready(120)
        alone = [await platform.runsync(request) for request in wanted]

        began = time.monotonic()
        faults = [platform.fault(route, **{"times": None, **how}) for route, how in FAULTS]  # type: ignore[arg-type]
        draw = random.Random(seed)
        ids, cancelled = [], set()
        for request in wanted:
            ids.append(await platform.run(request))
            await asyncio.sleep(draw.expovariate(100))
            if draw.random() < 0.05:
                cancelled.add(victim := draw.choice(ids[-20:]))
                await platform.cancel(victim)
        together = [await platform.wait(id_, 180) for id_ in ids]
        took = time.monotonic() - began
        struck: Counter[str] = Counter()
        for fault in faults:
            struck[fault.route] += fault.struck
        platform.faults.clear()

        for id_, request, one, other in zip(ids, wanted, alone, together, strict=True):
            if other["status"] == "CANCELLED":
                assert id_ in cancelled
                continue
            assert other["status"] == one["status"], other
            if one["status"] == "FAILED":
                assert json.loads(other["error"]) == json.loads(one["error"])
            else:
                assert text_of(other) == text_of(one)
                assert isinstance(other["output"], list) == request.get("stream", False)
                if request.get("stream"):
                    check_stream(platform.jobs[id_].chunks, other)
        runs = Counter(job_lines(worker))
        # One that failed is run again where it is handed out again, as /retry wants it.
        assert {runs[id_] for id_, job in zip(ids, together, strict=True) if job["status"] == "COMPLETED"} == {1}
        assert (await platform.runsync({"operation": "info"}))["status"] == "COMPLETED"
        assert worker.process.returncode is None
        states = Counter(job["status"] for job in together)
        posts = sum(platform.jobs[id_].done_posts for id_ in ids)
        return {"seconds": round(took, 1), "states": dict(states), "faults": dict(struck), "results received": posts}


def check_stream(posted: list[Any], job: dict[str, Any]) -> None:
    """By index, the chunks have no hole and no contradiction, and say what the whole says."""
    deltas = {chunk["index"]: chunk["delta"] for chunk in posted if "delta" in chunk}
    assert sorted(deltas) == list(range(len(deltas)))
    assert posted[-1] == job["output"][-1]
    if deltas:
        assert "".join(deltas[index] for index in sorted(deltas)) == text_of(job)


def job_lines(worker: Worker) -> list[str]:
    """The job of each line that the worker logs when it has run one."""
    lines = [json.loads(line) for line in worker.log.splitlines() if line.startswith('{"requestId": "')]
    return [line["requestId"] for line in lines if "outcome=" in line["message"]]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_job_is_answered_once_and_as_if_nothing_had_gone_wrong(seed: int) -> None:
    figures = asyncio.run(run(JOBS, seed))
    assert figures["states"]["COMPLETED"] > 0.8 * JOBS
    assert all(figures["faults"][route] for route in ("take", "done", "stream", "stop"))


if __name__ == "__main__":
    jobs, *seeds = [int(argument) for argument in sys.argv[1:]] or [JOBS, *SEEDS]
    for chosen in seeds:
        sys.stdout.write(f"{jobs} jobs, seed {chosen}: {asyncio.run(run(jobs, chosen))}\n")
