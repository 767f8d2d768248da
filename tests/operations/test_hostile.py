"""Whatever a caller sends gets `invalid_request` naming the field, or a normal answer: soon, and without a leak.

The line is the real one from the wire's bytes to the wire's bytes, over an engine that says a few words. Hypothesis
draws 10,000 inputs. What they cost is printed (`pytest -rP`).
"""

import asyncio
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
from handler.api.reply import to_wire
from handler.api.requests import REQUESTS
from handler.job import Jobs
from handler.operations.operations import Operations
from handler.queue.answer import failure_body
from handler.queue.encoding import decode, encode
from handler.queue.output import Failed
from handler.report import Report
from tests.support.fakes import ScriptedEngine

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

Line = Callable[[bytes], tuple[dict[str, Any], float]]


@pytest.fixture
def line(line: Callable[[ScriptedEngine], Operations], caplog: Any, capfd: Any) -> Iterator[Line]:
    """A job's input as bytes of JSON → what is posted, and the seconds it took. Looks for leaks at the end."""
    jobs = Jobs(line(ScriptedEngine()), Report(), streaming=False)
    caplog.set_level(logging.DEBUG)

    def answer(raw: bytes) -> tuple[dict[str, Any], float]:
        began = time.perf_counter()
        job = decode(b'{"id":"hostile","input":' + raw + b"}")
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


def test_any_json_gets_a_refusal_that_names_the_field_or_an_answer(line: Line) -> None:
    outcomes: dict[str, int] = {}
    slowest = 0.0

    @seed(20261120)
    @settings(max_examples=INPUTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs())
    def each(value: Any) -> None:
        nonlocal slowest
        posted, seconds = line(json.dumps(value).encode())
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
def test_every_field_refuses_what_it_cannot_hold(line: Line, odd: bytes) -> None:
    for name in [*FIELDS, "unknown"]:
        for request in VALID.values():
            raw = {key: json.dumps(value).encode() for key, value in request.items()} | {name: odd}
            posted, seconds = line(b"{" + b",".join(b'"%s":%s' % (k.encode(), v) for k, v in raw.items()) + b"}")
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
def test_what_is_too_much_is_refused_in_bounded_time_and_memory(line: Line, raw: bytes, field: str | None) -> None:
    before = memory_mb()
    posted, seconds = line(raw)
    outcome, grown = check(posted), memory_mb() - before
    print(f"{len(raw) / MEGABYTE:.1f} MB: {outcome} in {seconds:.2f} s, memory +{grown:.0f} MB")  # noqa: T201
    assert field is None or json.loads(posted["error"])["field"] == field
    assert seconds < 20
    assert grown < 2_000
