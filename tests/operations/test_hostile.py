"""Whatever a caller sends gets `invalid_request` naming the field, or a normal answer: soon, and without a leak.

The line is the real one from the wire's bytes to the wire's bytes, over an engine that says a few words. Hypothesis
draws 10,000 inputs. What they cost is printed (`pytest -rP`).
"""

import asyncio
import gc
import json
import logging
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from handler.api.failure import Failure
from handler.api.reply import Reply, to_wire
from handler.api.requests import REQUESTS
from handler.job import Jobs
from handler.operations.operations import Operations
from handler.queue.answer import failure_body
from handler.queue.encoding import encode
from handler.queue.output import Failed
from handler.report import Report
from handler.settings import Settings
from handler.start import start
from tests.support.fakes import ScriptedEngine
from tests.support.taking import taken

INPUTS = 10_000
#: typed by the caller wherever there is room for a string; it may come back in an answer, never in an error or a log
CANARY = "canary-8c1f"
#: codes that say what is wrong with the request
REFUSALS = {"invalid_request", "context_length_exceeded", "unsupported", "no_pack"}
MEGABYTE = 1_000_000

VALID: dict[str, dict[str, Any]] = {
    "chat": {"operation": "chat", "messages": [{"role": "user", "content": CANARY}]},
    "message": {
        "operation": "chat",
        "message": CANARY,
        "system_prompt": CANARY,
        "conversation_history": [{"sender": "user", "content": CANARY, "created_at": "then"}],
    },
    "generate": {"operation": "generate", "prompt": CANARY, "stop": [CANARY], "max_tokens": 9},
    "enhance": {"operation": "enhance", "prompt": CANARY, "system_prompt": CANARY, "context": {"a": [CANARY]}},
    "info": {"operation": "info", "sections": ["worker"]},
}
MODELS = {name: REQUESTS[request["operation"]] for name, request in VALID.items()}
FIELDS = sorted({name for model in MODELS.values() for name in model.model_fields})

Wire = Callable[[bytes], tuple[dict[str, Any], float]]


@pytest.fixture
def wire(line: Callable[[ScriptedEngine], Operations], caplog: Any, capfd: Any) -> Iterator[Wire]:
    """A job's input as bytes of JSON → what is posted, and the seconds it took. Looks for leaks at the end."""
    jobs = Jobs(line(ScriptedEngine()), Report())
    caplog.set_level(logging.DEBUG)

    def answer(raw: bytes) -> tuple[dict[str, Any], float]:
        began = time.perf_counter()
        (job,) = runner.run(taken(b'{"id":"hostile","input":' + raw + b"}"))
        end = runner.run(jobs.answer(job))
        posted = failure_body(Failed.of(end)) if isinstance(end, Failure) else encode(to_wire(end))
        return json.loads(posted), time.perf_counter() - began

    with asyncio.Runner() as runner:
        yield answer
    told = caplog.text + "".join(capfd.readouterr())
    for leak in (CANARY, "Traceback", "site-packages", "defect"):
        assert leak not in told


def check(posted: dict[str, Any]) -> str:
    """The outcome: `ok`, or the code of an error that helps its reader."""
    if "error" not in posted:
        assert posted["success"] is True
        return "ok"
    error = json.loads(posted["error"])
    assert error["code"] in REFUSALS, error
    assert error["retryable"] is False
    assert error["field"]
    assert len(posted["error"]) < 8_000  # a path of a few hundred levels
    for leak in (CANARY, "Traceback", "/work", "site-packages", "pydantic", 'File "'):
        assert leak not in posted["error"]
    return str(error["code"])


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


#: what people type, and what breaks what they type into
WORDS = (CANARY, "", " ", "\x00", "<|im_end|>", "🙂" * 50, "\u202e", "ﷺ")
NUMBERS = (0, -1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**300, 1e308, 1e-320, -0.0, 0.5, 1.5)
text = st.text(max_size=20) | st.sampled_from(WORDS)
number = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(NUMBERS)
name = st.sampled_from([field for field in FIELDS if field != "deadline_ms"]) | text.filter(
    lambda typed: typed != CANARY
)  # a refusal names the field
anything = st.recursive(
    st.none() | st.booleans() | number | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(name, inner, max_size=4),
    max_leaves=12,
)


#: values that some field takes
FITTING = (None, 0, 1, 9, 0.5, True, False, "a", CANARY, [CANARY], "model", "fast", {"a": [1]}, ["worker"])
OWN = {
    kind: st.sampled_from(sorted(model.model_fields.keys() - {"operation", "deadline_ms"}))
    for kind, model in MODELS.items()
}


@st.composite
def inputs(draw: st.DrawFn) -> Any:
    """Nothing like a request, or a request with up to three fields replaced by something."""
    if draw(st.integers(0, 9)) == 0:
        return draw(anything)
    kind = draw(st.sampled_from(sorted(VALID)))
    request = dict(VALID[kind])
    names = OWN[kind] if draw(st.booleans()) else name
    for replaced in draw(st.lists(names, min_size=1, max_size=3)):
        request[replaced] = draw(st.sampled_from(FITTING) if draw(st.booleans()) else anything)
    return request


def test_any_json_gets_a_refusal_that_names_the_field_or_an_answer(wire: Wire) -> None:
    outcomes: dict[str, int] = {}
    slowest = 0.0

    @seed(20261120)
    @settings(max_examples=INPUTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs())
    def each(value: Any) -> None:
        nonlocal slowest
        posted, seconds = wire(json.dumps(value).encode())
        outcome = check(posted)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        slowest = max(slowest, seconds)
        assert seconds < 5

    before = memory_mb()
    each()
    grown = memory_mb() - before
    print(f"{sum(outcomes.values())} inputs: {outcomes}, slowest {slowest * 1000:.1f} ms, memory +{grown:.0f} MB")  # noqa: T201
    assert outcomes["ok"] > INPUTS / 20
    assert grown < 300


def large(size: int) -> bytes:
    return b'"' + b"word " * (size // 5) + b'"'


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


#: What a field may be given: as it stands on the wire.
ODD: dict[str, bytes] = {
    "NaN": b"NaN",
    "infinity": b"-Infinity",
    "1e999": b"1e999",
    "a huge integer": b"9" * 300,
    "an integer past every limit": b"9" * 5_000,
    "2^63": b"9223372036854775808",
    "a lone surrogate": rb'"\ud800"',
    "bytes that are no text": b'"\xff"',
    "null bytes": rb'"\u0000"',
    "true": b"true",
    "a list": b"[]",
    "an object": b"{}",
    "a number as text": b'"1"',
    "deep": deep(500),
    "deeper": deep(20_000),
    "deep objects": b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_every_field_refuses_what_it_cannot_hold(wire: Wire, odd: bytes) -> None:
    for name in [*FIELDS, "unknown"]:
        for request in VALID.values():
            raw = {key: json.dumps(value).encode() for key, value in request.items()} | {name: odd}
            posted, seconds = wire(b"{" + b",".join(b'"%s":%s' % (k.encode(), v) for k, v in raw.items()) + b"}")
            check(posted)
            assert seconds < 5


WRITTEN: dict[str, tuple[bytes, str | None]] = {
    "a message of 30 MB": (b'{"operation":"chat","message":%s}' % large(30 * MEGABYTE), "message"),
    "a prompt of 30 MB": (b'{"operation":"generate","prompt":%s}' % large(30 * MEGABYTE), "prompt"),
    "a prompt of 30 MB without a space": (b'{"operation":"generate","prompt":"%s"}' % (b"a" * 30 * MEGABYTE), "prompt"),
    "an operation of 30 MB": (b'{"operation":%s}' % large(30 * MEGABYTE), "operation"),
    "a name of 30 MB": (b'{"operation":"info",%s:1}' % large(30 * MEGABYTE), None),
    "a stop of 30 MB": (b'{"operation":"generate","prompt":"a","stop":%s}' % large(30 * MEGABYTE), None),
    "an echo of 30 MB": (b'{"operation":"chat","message":"a","project_id":%s}' % large(30 * MEGABYTE), "project_id"),
    "a million messages": (
        b'{"operation":"chat","messages":[%s]}' % b",".join([b'{"role":"user","content":"a"}'] * MEGABYTE),
        "messages",
    ),
    "a million numbers for messages": (b'{"operation":"chat","messages":[%s]}' % b",".join([b"1"] * MEGABYTE), None),
    "a million turns": (
        b'{"operation":"chat","message":"a","conversation_history":[%s]}'
        % b",".join([b'{"sender":"user","content":"a"}'] * MEGABYTE),
        "conversation_history",
    ),
    "a million stops": (b'{"operation":"generate","prompt":"a","stop":[%s]}' % b",".join([b'"a"'] * MEGABYTE), "stop"),
    "a million sections": (b'{"operation":"info","sections":[%s]}' % b",".join([b'"worker"'] * MEGABYTE), None),
    "a million unknown fields": (
        b'{"operation":"info",%s}' % b",".join(b'"f%d":1' % index for index in range(MEGABYTE)),
        "input",
    ),
    "ten thousand messages": (
        b'{"operation":"chat","messages":[%s]}' % b",".join([b'{"role":"user","content":"a"}'] * 10_000),
        "messages",
    ),
    "an operation that is a list": (b'{"operation":["chat"]}', "operation"),
    "an operation that is an object": (b'{"operation":{}}', "operation"),
    "no operation": (b"{}", "operation"),
    "a list": (b"[]", "input"),
    "null": (b"null", "input"),
    "a string": (b'"chat"', "input"),
    "only depth": (deep(100_000), "input"),
}


@pytest.mark.parametrize(("raw", "field"), WRITTEN.values(), ids=WRITTEN)
def test_what_is_too_much_is_refused_in_bounded_time_and_memory(wire: Wire, raw: bytes, field: str | None) -> None:
    before = memory_mb()
    posted, seconds = wire(raw)
    outcome, grown = check(posted), memory_mb() - before
    print(f"{len(raw) / MEGABYTE:.1f} MB: {outcome} in {seconds:.2f} s, memory +{grown:.0f} MB")  # noqa: T201
    assert field is None or json.loads(posted["error"])["field"] == field
    assert seconds < 20
    assert grown < 2_000


TEN_MB = 10 * MEGABYTE


def repeated(item: bytes, between: bytes = b",") -> bytes:
    """So many of an item that they take 10 MB."""
    return between.join([item] * (TEN_MB // len(item + between)))


def enhance(field: bytes, value: bytes) -> bytes:
    return b'{"operation":"enhance","prompt":"a","system_prompt":"b","%s":%s}' % (field, value)


#: 10 MB that cost much where each value is looked at, built or reported
HEAVY: dict[str, bytes] = {
    "a section again and again": b'{"operation":"info","sections":[%s]}' % repeated(b'"memory"'),
    "sections that there are not": b'{"operation":"info","sections":[%s]}' % repeated(b'"x"'),
    "numbers to protect": enhance(b"protect", b"[%s]" % repeated(b"1")),
    "empty lists in a context": enhance(b"context", b'{"a":[%s]}' % repeated(b"[]")),
    "lists of lists in a context": enhance(b"context", b'{"a":[%s]}' % repeated(b"[" * 60 + b"]" * 60)),
    "keys of a context": enhance(b"context", b"{%s}" % b",".join(b'"%d":1' % index for index in range(MEGABYTE))),
    "unknown fields of a message": b'{"operation":"chat","messages":[{"role":"user","content":"a",%s}]}'
    % b",".join(b'"%d":1' % index for index in range(MEGABYTE)),
    "99,000 unknown fields of a message": b'{"operation":"chat","messages":[{"role":"user","content":"a",%s}]}'
    % b",".join(b'"%0100d":1' % index for index in range(95_000)),
    "99,000 sections": b'{"operation":"info","sections":[%s]}' % b",".join([b'"%s"' % (b"x" * 98)] * 99_000),
    "depth": enhance(b"context", b"[" * (TEN_MB // 2) + b"]" * (TEN_MB // 2)),
    "escapes": b'{"operation":"chat","message":"%s"}' % repeated(rb"\"", b""),
    "one text": b'{"operation":"chat","message":"%s"}' % repeated(b"a", b""),
    "white space": b'{"operation":"chat","message":"%s"}' % repeated(b" ", b""),
    "an echo": enhance(b"context", b'{"a":"%s"}' % repeated(rb"\n", b"")),
    "stop strings": b'{"operation":"chat","message":"a","stop":[%s]}' % repeated(b'"a"'),
    "turns": b'{"operation":"chat","messages":[%s]}' % repeated(b'{"role":"user","content":"a"}'),
}
#: seconds that the event loop may stand still, and that a chat of others may take
LAG_S, CHAT_S = 0.25, 1.0


@pytest.fixture
def as_after_a_start() -> Iterator[None]:
    """A garbage collection does not look at what was there before, here all other tests' objects: `start` freezes."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("as_after_a_start")
@pytest.mark.parametrize("raw", HEAVY.values(), ids=HEAVY)
def test_ten_megabytes_keep_neither_the_event_loop_nor_a_chat_of_others_waiting(
    line: Callable[[ScriptedEngine], Operations], raw: bytes
) -> None:
    jobs = Jobs(line(ScriptedEngine()), Report())
    lags, chats = [0.0], [0.0]

    async def beat() -> None:
        while True:
            wall, processor = time.perf_counter(), time.process_time()
            await asyncio.sleep(0.002)
            # The smaller: what other processes took of the machine is in the first alone, what a thread computed beside
            # the loop's in the second alone.
            lags.append(min(time.perf_counter() - wall, time.process_time() - processor))

    async def chat() -> None:
        while True:
            began = time.perf_counter()
            assert isinstance(await jobs.answer({"id": "honest", "input": VALID["chat"]}), Reply)
            chats.append(time.perf_counter() - began)
            await asyncio.sleep(0.02)

    async def attack() -> Reply | Failure:
        beside = [asyncio.create_task(beat()), asyncio.create_task(chat())]
        await asyncio.sleep(0.1)
        (hostile,) = await taken(b'[{"id":"hostile","input":%s}]' % raw)
        end = await jobs.answer(hostile)
        await asyncio.sleep(0.05)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        return end

    end = asyncio.run(attack())
    assert isinstance(end, Failure)
    check({"error": json.dumps(end.to_wire())})
    print(f"worst lag {max(lags):.3f} s, slowest of {len(chats)} chats {max(chats):.3f} s")  # noqa: T201
    assert max(lags) <= LAG_S
    assert max(chats) <= CHAT_S


def test_a_start_leaves_nothing_for_garbage_collections_to_look_at() -> None:
    gc.unfreeze()
    start(Settings(model_path="demo"), Report()).engine.close()
    assert gc.get_freeze_count() > 100_000
    gc.unfreeze()
