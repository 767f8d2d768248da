"""Replies, pieces and failures in OpenAI's shape, over the line with an engine that says what it is told to."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from handler.api.failure import Failure
from handler.api.reply import Reply, to_wire
from handler.engine.fold import Piece
from handler.errors import EngineFailed, Overloaded
from handler.job import Jobs
from handler.openai import events, replies
from handler.openai.call import Call
from handler.operations.operations import Operations
from handler.report import Report
from tests.support.fakes import ScriptedEngine
from tests.support.openai_bodies import BODIES, PATHS, SERVED

Line = Callable[[ScriptedEngine], Operations]
Json = dict[str, Any]


def ask(operations: Operations, *, path: str = PATHS["chat"], **fields: Any) -> Any:
    """The object of a call, or of its failure; of a streamed one the objects of its events."""
    body = BODIES["completions" if path == PATHS["completions"] else "chat"]
    call = Call(path, {**body, **fields}, SERVED)

    async def run() -> list[Any]:
        found: list[Any] = []
        async for event in Jobs(operations, Report()).events("j", call.read):
            if call.streamed:
                found.append(call.chunk(event))
            elif isinstance(event, Failure):
                found.append(call.failed(event))
            else:
                assert isinstance(event, Reply)
                found.append(call.whole(event))
        return found

    found = asyncio.run(run())
    return parsed("".join(found)) if call.streamed else found[-1]


def parsed(text: str) -> list[Json]:
    """The objects of a stream that ends as it should."""
    *lines, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_reply_has_all_that_clients_read_and_our_facts_beside_it(line: Line) -> None:
    reply = ask(line(ScriptedEngine()), temperature=0, seed=7, user="u")
    assert reply["id"].startswith("chatcmpl-")
    assert {name: reply[name] for name in ("object", "model", "system_fingerprint")} == {
        "object": "chat.completion",
        "model": SERVED.name,
        "system_fingerprint": SERVED.fingerprint,
    }
    message = {"role": "assistant", "content": "Hello, world!", "refusal": None}
    assert reply["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert set(reply["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"}
    assert set(reply["worker"]) == {"ignored", "finish_reason", "sampling", "prompt_sha256", "timing"}
    assert (reply["worker"]["ignored"], reply["worker"]["sampling"]["seed"]) == (["user"], 7)


def test_a_stream_has_the_role_first_and_joins_to_the_plain_answer(line: Line) -> None:
    chunks = ask(line(ScriptedEngine(step_s=0.01)), stream=True, stream_options={"include_usage": True})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert all(set(delta) == {"content"} for delta in deltas[1:-1])
    assert "".join(delta["content"] for delta in deltas[:-1]) == "Hello, world!"
    assert (deltas[-1], chunks[-2]["choices"][0]["finish_reason"]) == ({}, "stop")
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == ([], 4)
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert ["worker" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1


def test_usage_comes_only_where_it_was_asked_for(line: Line) -> None:
    chunks = ask(line(ScriptedEngine()), stream=True)
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)
    assert "worker" in chunks[-1]


def test_completions_have_their_own_shape(line: Line) -> None:
    reply = ask(line(ScriptedEngine()), path=PATHS["completions"])
    assert (reply["object"], reply["id"][:5]) == ("text_completion", "cmpl-")
    assert reply["choices"] == [{"index": 0, "text": "Hello, world!", "logprobs": None, "finish_reason": "stop"}]
    chunks = ask(line(ScriptedEngine(step_s=0.01)), path=PATHS["completions"], stream=True)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hello, world!"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_log_probabilities_come_whole_and_in_a_stream_with_the_reason(line: Line) -> None:
    asked: Json = {"logprobs": True, "top_logprobs": 2}
    told = ask(line(ScriptedEngine()), **asked)["choices"][0]["logprobs"]
    assert [set(one) for one in told["content"]] == [{"token", "logprob", "bytes", "top_logprobs"}] * 4
    assert len(told["content"][0]["top_logprobs"]) == 2
    chunks = ask(line(ScriptedEngine(step_s=0.01)), stream=True, **asked)
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks] == [None] * (len(chunks) - 1) + [told]


def test_a_deadline_is_a_length_and_our_word_stands_beside_it(line: Line) -> None:
    reply = ask(line(ScriptedEngine(["x"] * 1000, step_s=0.01)), deadline_ms=100)
    assert (reply["choices"][0]["finish_reason"], reply["worker"]["finish_reason"]) == ("length", "deadline")


def test_max_tokens_that_are_not_sent_are_what_the_context_leaves(line: Line) -> None:
    engine = ScriptedEngine(max_model_len=100)
    ask(line(engine))
    ((prompt, sampling, _),) = engine.seen
    assert sampling.max_tokens == 100 - len(prompt.token_ids)


def test_an_error_has_its_status_and_in_a_stream_it_is_the_last_event(line: Line) -> None:
    full = Overloaded("full", retry_after_s=3)
    status, body = ask(line(ScriptedEngine([full])))
    assert (status, body["error"]["code"], body["error"]["retry_after_s"]) == (503, "overloaded", 3)
    *chunks, last = ask(line(ScriptedEngine(["a", EngineFailed("broken")], step_s=0.01)), stream=True)
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "a"]
    error = {"message": "broken", "type": "server_error", "param": None, "code": "engine_failed"}
    assert last == {"error": error}
    (refused,) = ask(line(ScriptedEngine()), stream=True, temprature=1)
    assert refused["error"]["param"] == "temprature"


def test_a_context_that_is_too_short_is_named_as_the_caller_named_it(line: Line) -> None:
    status, body = ask(line(ScriptedEngine(max_model_len=100)), max_completion_tokens=1000)
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
    assert body["error"]["param"] == "max_completion_tokens"
    assert body["error"]["message"].startswith("max_completion_tokens is 1000")


def scripted(*events: Piece | Reply) -> Operations:
    async def run(request: object) -> AsyncGenerator[Piece | Reply, None]:
        for event in events:
            yield event

    return cast(Operations, SimpleNamespace(run=run))


def test_thoughts_are_reasoning_content() -> None:
    thought = scripted(Piece("hm", reasoning=True), Piece("yes"))
    call = Call(PATHS["chat"], {**BODIES["chat"], "stream": True}, SERVED)

    async def run() -> str:
        return "".join([call.chunk(event) async for event in Jobs(thought, Report()).events("j", call.read)])

    lines = [json.loads(line.removeprefix("data: ")) for line in asyncio.run(run()).split("\n\n")[:-1]]
    assert [line["choices"][0]["delta"] for line in lines[1:]] == [{"reasoning_content": "hm"}, {"content": "yes"}]


def test_each_variant_is_a_choice_with_its_own_seed_below_worker(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The native reply is given its variants here, as `n` makes them."""
    native = to_wire

    def with_variants(reply: Reply) -> Json:
        wire: Json = native(reply)
        if "response" not in wire:
            return wire
        variants = [
            {"response": text, "seed": seed, "finish_reason": reason, "completion_tokens": 1}
            for text, seed, reason in (("one", 7, "stop"), ("two", 8, "deadline"))
        ]
        return {**wire, "variants": variants}

    monkeypatch.setattr(replies, "to_wire", with_variants)
    reply = ask(line(ScriptedEngine()))
    assert [(one["index"], one["message"]["content"], one["finish_reason"]) for one in reply["choices"]] == [
        (0, "one", "stop"),
        (1, "two", "length"),
    ]
    assert reply["worker"]["variants"] == [
        {"seed": 7, "finish_reason": "stop", "completion_tokens": 1},
        {"seed": 8, "finish_reason": "deadline", "completion_tokens": 1},
    ]
    chunks = ask(line(ScriptedEngine()), stream=True, stream_options={"include_usage": True})
    ends = {one["choices"][0]["index"]: one["choices"][0]["finish_reason"] for one in chunks if one["choices"]}
    assert ends == {0: "stop", 1: "length"}
    roles = [one["choices"][0]["index"] for one in chunks if one["choices"] and "role" in one["choices"][0]["delta"]]
    assert roles == [0, 1]


@pytest.mark.parametrize("text", ["a\u2028b\u2029c\u0085d", 'data: "error"\n\n', "\ud800", "\x1e\x0b"])
def test_an_event_is_one_line_whatever_its_text(text: str) -> None:
    event = events.event({"x": text})
    assert event.encode(errors="strict").decode().splitlines()[0] + "\n\n" == event
    assert json.loads(event.removeprefix("data: ")) == {"x": text}
