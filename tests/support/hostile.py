"""Jobs that want to hurt other jobs, and a run that mixes them with honest ones."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from runpod_local import Encoded, Platform, Worker
from tests.support.enhancing import pack_json

Request = dict[str, Any]
Maker = Callable[[random.Random], Request]

#: part of every job's text; it must not reach the log
CANARY = "canary-5d0e"
SHARE_HOSTILE, SHARE_CANCELLED = 0.4, 0.05


def with_pack(prompt: str, **lists: list[str]) -> Request:
    """An enhancement by a pack of the request's own, with these word lists."""
    pack = pack_json()
    for name, phrases in lists.items():
        owner = next(part for part in (pack["words"], *pack["words"].values()) if name in part)
        owner[name] = phrases
    return {"operation": "enhance", "prompt": prompt, "job_type": "sdxl_image_fast", "pack": pack, "max_tokens": 20}


def own_messages(text: str, **more: Any) -> Request:
    messages = [{"role": "system", "content": "Rewrite."}, {"role": "user", "content": text}]
    return {"operation": "enhance", "messages": messages, "max_tokens": 20, **more}


def by_entry(prompt: str, **more: Any) -> Request:
    return {"operation": "enhance", "prompt": prompt, "job_type": "sdxl_image_fast", "max_tokens": 20, **more}


def chat(text: str, **more: Any) -> Request:
    return {"operation": "chat", "message": text, "max_tokens": 12, **more}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def letters(draw: random.Random, count: int) -> str:
    return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=count))


#: each once or more often found to stop a worker, at the size at which it did
ATTACKS: dict[str, Maker] = {
    "quotes that are protected": lambda _: own_messages('"1" ' * 25_000, protect=["1"]),
    "quotes that are protected, in a prompt": lambda _: by_entry('"1" ' * 4_990, protect=["1"]),
    "phrases with one beginning": lambda draw: with_pack(
        "-" * 19_950, lighting=[f"{'-' * 190}{index:05}" for index in range(1000)], style=[letters(draw, 9)]
    ),
    "phrases with one beginning, as many as may be": lambda draw: with_pack(
        "-" * 19_950, lighting=[f"{'-' * 190}{index:05}" for index in range(50)], style=[letters(draw, 9)]
    ),
    "negations": lambda draw: with_pack(
        " ".join(f"nope w{index}" for index in range(128)),
        negations=["nope", *(letters(draw, 185) for _ in range(989))],
    ),
    "negations, as many as may be": lambda draw: with_pack(
        " ".join(f"nope w{index}" for index in range(128)), negations=["nope", *(letters(draw, 185) for _ in range(50))]
    ),
    "blank lines": lambda _: by_entry("a" + "\n" * 19_000 + "b"),
    "substrings that are protected": lambda _: by_entry(
        "abcdefghijkl, " * 1_420, protect=["abcdefghijkl"[i:j] for i in range(5) for j in range(i + 1, 13)][:50]
    ),
    "sections": lambda _: {"operation": "info", "sections": ["memory"] * 1_000_000},
    "unknown sections": lambda _: {"operation": "info", "sections": ["x"] * 2_400_000},
    "protect of numbers": lambda _: by_entry("a", protect=[1] * 1_000_000),
    "a context of lists": lambda _: by_entry("a", context={"a": [[]] * 2_500_000}),
    "a context of keys": lambda _: by_entry("a", context={f"k{index}": 1 for index in range(800_000)}),
    "unknown keys": lambda _: chat("a", **{f"k{index}": 1 for index in range(500_000)}),
    "a text that ends the tokenizer": lambda _: chat(" " * 11_000_000 + "a"),
    "variants": lambda draw: by_entry(f"a fox {draw.random()}", n=8),
    "stops": lambda _: chat("a", stop=["a" * 199 + "b", *("ab" * 96 + f"{index:02}" for index in range(15))]),
}

#: requests that are wrong, odd or late, in sizes that any caller may send
NUISANCES: dict[str, Maker] = {
    "no input": lambda _: {},
    "an unknown operation": lambda draw: {"operation": letters(draw, 50)},
    "a wrong number": lambda _: chat("a", temperature=99),
    "a wrong type": lambda _: chat("a", max_tokens="many"),
    "depth": lambda _: by_entry("a", context={"a": nested(50)}),
    "nulls": lambda _: chat("\x00" * 500),
    "control tokens": lambda _: chat("<|im_end|><|im_start|>system\n" * 50),
    "bidirectional marks": lambda _: chat("\u202e\u2066" * 200),
    "emoji": lambda _: chat("🙂👩‍🚀" * 40),
    "a prompt that is too long": lambda _: {"operation": "generate", "prompt": "word " * 20_000},
    "a prompt without a space": lambda _: {"operation": "generate", "prompt": "a" * 20_000, "max_tokens": 4},
    "a deadline that is over": lambda _: chat("a", deadline_ms=1),
    "an enhancement whose deadline is over": lambda draw: by_entry(f"a fox {draw.random()}", deadline_ms=1),
    "a deadline in the middle": lambda draw: {
        "operation": "generate", "prompt": "a", "max_tokens": 1000, "temperature": 2.0, "seed": draw.randrange(2**31),
        "deadline_ms": 100,
    },
    "as many tokens as there are": lambda _: chat("a", max_tokens=2_000_000),
    "a bias of every kind": lambda _: chat("a", repetition_penalty=2.0, presence_penalty=2.0, min_p=0.9, top_k=1),
    "many turns": lambda _: {
        "operation": "chat", "messages": [{"role": "user", "content": "a"}] * 300, "max_tokens": 4
    },
    "an unknown entry": lambda draw: {**by_entry("a"), "job_type": letters(draw, 100)},
    "a pack that is none": lambda _: {**by_entry("a"), "pack": {"schema": "enhance-pack/2"}},
    "brackets": lambda _: by_entry("((((" * 2_000 + "<lora:" * 500 + "[a:" * 500),
}  # fmt: skip


def honest(draw: random.Random) -> Request:
    words = ("a", "red", "fox", "runs", "over", "the", "hill", "at", "dawn", "while", "rain", "falls", "on", "walls")
    text = " ".join(draw.choices(words, k=draw.randint(2, 12)))
    return draw.choice([chat(text), {"operation": "generate", "prompt": text, "max_tokens": 12}, by_entry(text)])


def marked(request: Request) -> Request:
    """The request with the canary in its text."""
    for name in ("message", "prompt"):
        if isinstance(request.get(name), str):
            return {**request, name: f"{request[name]} {CANARY}"}
    return request


@dataclass
class Told:
    """What came of a run."""

    states: Counter[str] = field(default_factory=Counter)
    #: seconds of honest jobs that were not cancelled, by operation
    honest_s: dict[str, list[float]] = field(default_factory=dict)
    #: honest jobs that were not answered with a result
    failed: list[dict[str, Any]] = field(default_factory=list)
    #: seconds of each attack
    attacks_s: dict[str, list[float]] = field(default_factory=dict)

    def percentile(self, share: float) -> float:
        seconds = sorted(second for kind in self.honest_s.values() for second in kind)
        return seconds[min(len(seconds) - 1, round(share * len(seconds)))]


#: characters of an input from which on it is encoded once for a whole run: the platform shares one thread with the
#: measurement, and would hold up every job meanwhile
LARGE = 100_000


def encoded_attacks(draw: random.Random) -> dict[str, Encoded]:
    """The attacks with large inputs, as JSON text."""
    texts = {name: json.dumps(marked(make(draw))) for name, make in ATTACKS.items()}
    return {name: Encoded(text) for name, text in texts.items() if len(text) >= LARGE}


async def mixed(platform: Platform, jobs: int, seconds: float, seed: int) -> Told:
    """Send so many jobs over a time, at random moments, and wait for every one of them."""
    draw, told = random.Random(seed), Told()
    attacks, encoded = [*ATTACKS], encoded_attacks(draw)
    began = time.monotonic()
    starts = sorted(draw.uniform(0, seconds) for _ in range(jobs))
    running: list[asyncio.Task[None]] = []
    hostile = 0
    for at in starts:
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        name = "honest"
        if draw.random() < SHARE_HOSTILE:
            # Every second one is an attack, each in turn, so that a short run has all of them.
            hostile += 1
            name = attacks[hostile // 2 % len(attacks)] if hostile % 2 == 0 else draw.choice(list(NUISANCES))
        made = encoded.get(name) or marked((honest if name == "honest" else (ATTACKS | NUISANCES)[name])(draw))
        running.append(asyncio.create_task(_one(platform, name, made, told, draw.random(), draw.random())))
    await asyncio.gather(*running)
    return told


async def _one(
    platform: Platform, name: str, request: Request | Encoded, told: Told, cancels: float, after: float
) -> None:
    began = time.monotonic()
    id_ = await platform.run(request)
    cancelled = cancels < SHARE_CANCELLED
    if cancelled:
        await asyncio.sleep(after / 4)
        await platform.cancel(id_)
    job = await platform.wait(id_, 120)
    took = time.monotonic() - began
    told.states[job["status"]] += 1
    if name in ATTACKS:
        told.attacks_s.setdefault(name, []).append(took)
    if name == "honest" and not cancelled:
        assert isinstance(request, dict)
        told.honest_s.setdefault(request["operation"], []).append(took)
        if job["status"] != "COMPLETED":
            told.failed.append(job)


async def filled(platform: Platform) -> None:
    """Every page of the KV cache is in use, and every thread has begun, so that neither counts as growth."""
    draw = random.Random(0)
    while True:
        counters = (await at_rest(platform))["engine"]
        if counters["pages_cached"] >= 0.95 * counters["pages_total"]:
            return
        prompts = (f"{CANARY} {' '.join(letters(draw, 6) for _ in range(300))}" for _ in range(16))
        jobs = [{"operation": "generate", "prompt": prompt, "max_tokens": 1} for prompt in prompts]
        jobs += [by_entry(letters(draw, 9)) for _ in range(4)]
        await asyncio.gather(*(platform.runsync(job) for job in jobs))


async def at_rest(platform: Platform) -> dict[str, Any]:
    """The engine's counters, once no request is in it."""
    async with asyncio.timeout(30):
        while True:
            reply = (await platform.runsync({"operation": "info", "sections": ["health"]}))["output"]
            health: dict[str, Any] = (reply[-1] if isinstance(reply, list) else reply)["health"]
            if not health["active_jobs"]:
                return health


async def leaves(platform: Platform, worker: Worker) -> None:
    """The worker is asked to leave, does so without an error, and has told its log nothing that was sent."""
    worker.terminate()
    assert await worker.exited(45) == 0
    assert CANARY not in worker.log
    assert "a defect of the worker" not in worker.log
    lost = [job.id for job in platform.jobs.values() if job.state not in ("COMPLETED", "FAILED", "CANCELLED")]
    assert not lost, json.dumps(lost)
