"""Where memory goes: to loading, to the KV cache, and to what 1,000 requests of every kind leave behind.

    python -m bench.memory [--shape 50m] [--requests 1000] [--gpu] [--save]

A checkpoint of random weights is written, loaded and sized as the worker does it. Twice as many requests at once as may
run: options, penalties, log-probabilities, stop strings, shared prefixes, deadlines; some are cancelled midway, some
never read, some refused. Fails where a page, a row or a request is still held once all have ended, where host memory
grew by more than `SLACK` in the second half, or memory allocated on CUDA by as much since the beginning.
"""

import argparse
import asyncio
import gc
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path

from bench.cold_start import write_checkpoint
from bench.harness import Bench
from handler.engine.protocol import MAX_TOP_LOGPROBS, Prompt
from handler.engine.sampling import Sampling
from handler.engine.stream import Finish, Stream
from handler.errors import ContextLengthExceeded, InvalidRequest
from handler.inference.config import GIB, EngineConfig, EngineOptions
from handler.inference.loop import BatchingEngine
from handler.inference.plan import HEAD_ROOM_BYTES, HEAD_ROOM_SHARE, plan
from handler.inference.request import Request
from handler.machine import memory
from handler.model import weights
from handler.model.snapshot import Snapshot
from handler.start import set_cpu_library_defaults

MB = 1e6
#: bytes: on CUDA libraries keep workspaces from their first large step on, a host's allocator keeps fragments
SLACK = 64 << 20
#: tokens of a prompt's own and of what some share, and of an answer, at most
OWN, SHARED, NEW = 100, 200, 32


@dataclass(frozen=True)
class Asked:
    """A request, and what its caller does."""

    prompt: Prompt
    sampling: Sampling
    logprobs: int | None
    #: seconds
    within: float | None
    #: deltas after which it is cancelled
    leaves_after: int | None
    read: bool


@dataclass(frozen=True)
class Held:
    """What an engine has when it is idle, and what is not freed: each should be 0."""

    pages: int
    rows: int
    open: int
    requests: int
    streams: int

    @classmethod
    def by(cls, engine: BatchingEngine) -> "Held":
        """Reaches into an engine, as only a bench may."""
        scheduler = engine._scheduler
        gc.collect()
        objects = Counter(map(type, gc.get_objects()))
        return cls(
            pages=scheduler.cache.total - scheduler.cache.free,
            rows=engine._config.rows - len(scheduler._free_rows),
            open=len(engine._open),
            requests=objects[Request],
            streams=objects[Stream],
        )


def requests(count: int, vocab: int, longest: int) -> list[Asked]:
    """Of every kind at random; one in ten cannot be accepted."""
    heads = [_ids(SHARED, vocab) for _ in range(4)]
    return [_request(random.choice(heads) if random.random() < 0.4 else [], vocab, longest) for _ in range(count)]


def _request(head: list[int], vocab: int, longest: int) -> Asked:
    ids, new = head + _ids(random.randint(1, OWN), vocab), random.randint(1, NEW)
    if random.random() < 0.1:
        ids, new = random.choice([([], new), ([*ids, vocab], new), (ids, longest)])
    sampling = Sampling(
        max_tokens=new,
        temperature=random.choice((0.0, 0.7, 1.5)),
        top_p=random.choice((1.0, 0.9)),
        top_k=random.choice((0, 1, 20)),
        min_p=random.choice((0.0, 0.05)),
        repetition_penalty=random.choice((1.0, 1.1)),
        presence_penalty=random.choice((0.0, 0.5)),
        frequency_penalty=random.choice((0.0, 0.2)),
        seed=random.getrandbits(63),
        stop=tuple(random.sample(("e", "th", " the", "a sea of"), random.choice((0, 0, 1, 3)))),
    )
    return Asked(
        Prompt(tuple(ids)),
        sampling,
        logprobs=random.choice((None, None, 0, MAX_TOP_LOGPROBS)),
        within=random.uniform(0, 0.5) if random.random() < 0.15 else None,
        leaves_after=random.randint(1, 8) if random.random() < 0.15 else None,
        read=random.random() < 0.95,
    )


def _ids(count: int, vocab: int) -> list[int]:
    return random.choices(range(vocab), k=count)


async def ask(engine: BatchingEngine, asked: Asked) -> str:
    """Returns how it ended."""
    deadline = None if asked.within is None else time.monotonic() + asked.within
    try:
        stream = engine.stream(asked.prompt, asked.sampling, logprobs=asked.logprobs, deadline=deadline)
    except (InvalidRequest, ContextLengthExceeded) as error:
        return f"refused, {error.code}"
    if not asked.read:
        return "not read"
    deltas = 0
    async for event in stream:
        if isinstance(event, Finish):
            return event.reason
        deltas += 1
        if deltas == asked.leaves_after:
            stream.cancel()
    raise AssertionError("a stream ends with a Finish")


async def serve(engine: BatchingEngine, all_asked: Iterable[Asked], at_once: int) -> Counter[str]:
    """How many ended how."""
    ends: Counter[str] = Counter()
    rest = iter(all_asked)

    async def client() -> None:
        for asked in rest:
            ends[await ask(engine, asked)] += 1

    await asyncio.gather(*(client() for _ in range(at_once)))
    return ends


def settle(engine: BatchingEngine) -> None:
    """Wait until nothing runs and all graphs are captured; a minute is enough for what ends at all."""
    until = time.monotonic() + 60
    while time.monotonic() < until and (engine._open or engine._launched or not engine.settled(0)):
        time.sleep(0.05)
    turned = threading.Event()  # a turn later no frame of the engine's thread holds a request
    engine._command(turned.set)
    turned.wait(60)


def load(bench: Bench, shape: str) -> weights.Loaded:
    """Random weights, through files. Another process writes them: the peak is to be of loading alone."""
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        path = Path(folder) / shape
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
            other.submit(write_checkpoint, path, shape).result()
        before = memory.read()["rss"] or 0
        snapshot = Snapshot(path, "path", shape, None)
        loaded, read = weights.load(snapshot), snapshot.bytes()
    now = memory.read()
    peak, after = now["peak_rss"] or 0, now["rss"] or 0
    table = bench.table(f"Loading {shape}, MB of the host", ["weights", "before", "peak", "after", "peak - before"])
    table.add(*(figure / MB for figure in (read, before, peak, after, peak - before)))
    return loaded


def start(bench: Bench, loaded: weights.Loaded) -> tuple[BatchingEngine, EngineConfig]:
    """An engine of the size that the worker's would have."""
    model, template, info = loaded
    cuda, free = model.device.type == "cuda", memory.free(model.device)
    config = plan(EngineOptions(), model.shape, device="cuda" if cuda else "cpu", free_bytes=free)
    step = model.shape.step_bytes(config.prefill_alone + config.rows, config.rows)
    room = int(free * HEAD_ROOM_SHARE) + HEAD_ROOM_BYTES if cuda else 0
    if cuda:
        graphs = config.graph_buckets
        step += model.shape.attention_bytes(max(config.prefill_contexts or 0, config.max_model_len), config.rows)
        room += model.shape.graph_bytes(max(graphs), len(graphs)) + model.shape.history_bytes(config.rows + 1)
    cache = config.pages * config.page_size * config.token_bytes
    full = config.pages > config.rows * -(-config.max_model_len // config.page_size)
    table = bench.table(
        "The plan, GiB", ["free", "one step", "graphs and head room", "KV cache", "% of free", "limited by"]
    )
    limit = "rows and context" if full else "memory"
    table.add(*(figure / GIB for figure in (free, step, room, cache)), 100 * cache / free, limit)
    engine = BatchingEngine(model, info, template.token_bytes, config, tokens_in_vocab=template.tokens_in_vocab)
    if not cuda:  # whose memory is committed as it is written: here at once, so that whatever grows later shows
        for pages in (*engine._runner._pages.k, *engine._runner._pages.v):
            pages.zero_()
    return engine, config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="50m")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--gpu", action="store_true", help="Qwen2.5-7B's shape on CUDA")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    device, shape = ("cuda", "7b") if wishes.gpu else ("cpu", wishes.shape)
    set_cpu_library_defaults()
    random.seed(0)
    bench = Bench("memory", device=device)
    loaded = load(bench, shape)
    engine, config = start(bench, loaded)
    names = [field.name for field in fields(Held)]
    table = bench.table(
        "Held when idle; MB", ["after", *names, "host", "device, allocated", "device, reserved", "device, free"]
    )
    ends: Counter[str] = Counter()
    all_asked = requests(wishes.requests, loaded.info.vocab_size, config.max_model_len)
    half = len(all_asked) // 2
    host, allocated = [], []
    for part in ([], all_asked[:half], all_asked[half:]):
        ends += asyncio.run(serve(engine, part, 2 * config.rows))
        settle(engine)
        held, now = Held.by(engine), memory.read()
        figures = [now[name] for name in ("rss", "device_allocated", "device_reserved", "device_free")]
        megabytes = (None if figure is None else figure / MB for figure in figures)
        table.add(f"{ends.total():,} requests", *asdict(held).values(), *megabytes)
        host.append(now["rss"] or 0)
        allocated.append(now["device_allocated"] or 0)
    table = bench.table("How they ended", ["end", "requests"])
    for end, count in sorted(ends.items()):
        table.add(end, count)
    engine.close()
    bench.finish(wishes.save)
    left = {name: count for name, count in asdict(held).items() if count}
    grown = {"host": host[-1] - host[1], "device": allocated[-1] - allocated[0]}
    left |= {f"bytes of the {where}": more for where, more in grown.items() if more > SLACK}
    print(f"left behind: {left or 'nothing'}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
