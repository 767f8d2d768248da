import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from handler.errors import EngineFailed, Internal, OutOfMemory, Overloaded, WorkerError
from handler.operations.operations import Operations
from handler.report import Report
from handler.settings import Settings
from handler.web import answers
from handler.web.face import Face
from handler.web.routes import GETS, POSTS
from tests.support.facing import Answer, Client, faced, serving, slow, until
from tests.support.fakes import ScriptedEngine

Line = Callable[[ScriptedEngine], Operations]
CHAT = {"message": "hi"}


def asked(face: Face, *calls: tuple[str, Any], **more: Any) -> list[Answer]:
    """The answers to POSTs, one after the other."""

    async def scenario() -> list[Answer]:
        async with serving(face) as client:
            return [await client.post(path, body, **more) for path, body in calls]

    return asyncio.run(scenario())


def test_each_native_path_answers_with_the_reply_of_its_operation(line: Line) -> None:
    chat, generate, enhance, info = asked(
        faced(line(ScriptedEngine())),
        ("/chat", CHAT),
        ("/generate", {"prompt": "a"}),
        ("/enhance", {"prompt": "a fox", "system_prompt": "Rewrite."}),
        ("/info", {"sections": ["worker"]}),
    )
    assert [one.status for one in (chat, generate, enhance, info)] == [200] * 4
    assert chat.json["response"] == generate.json["text"] == enhance.json["enhanced_prompt"] == "Hello, world!"
    assert info.json["worker"]["worker_type"] == "pure_inference_engine"
    assert chat.headers["content-type"] == "application/json; charset=utf-8" or chat.headers["x-request-id"]


def test_a_streamed_answer_is_events_whose_deltas_join_to_the_reply_that_comes_last(line: Line) -> None:
    (answer,) = asked(faced(line(ScriptedEngine())), ("/chat", {**CHAT, "stream": True}))
    *pieces, reply = answer.events
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [piece["index"] for piece in pieces] == [*range(len(pieces))]
    assert "".join(piece["delta"] for piece in pieces) == reply["response"] == "Hello, world!"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Overloaded("full", retry_after_s=2.2), 503),
        (OutOfMemory("too large"), 503),
        (EngineFailed("gone"), 503),
        (Internal(), 500),
    ],
)
def test_an_error_has_its_status_and_says_whether_to_try_again(line: Line, error: WorkerError, status: int) -> None:
    for stream in (False, True):
        (answer,) = asked(faced(line(ScriptedEngine([error]))), ("/chat", {**CHAT, "stream": stream}))
        assert answer.status == status
        assert answer.json["success"] is False
        assert (answer.json["error"], answer.json["code"]) == (error.message, error.code)
        assert answer.json["retryable"] is error.retryable
    assert answer.headers.get("retry-after") == ("3" if status == 503 and error.retry_after_s else None)
    assert answer.headers.get("x-should-retry") == ("false" if status == 500 else None)


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(line: Line) -> None:
    face = faced(line(ScriptedEngine(["Hel", EngineFailed("gone")])))
    (answer,) = asked(face, ("/chat", {**CHAT, "stream": True}))
    assert answer.status == 200
    assert answer.events[0]["delta"] == "Hel"
    assert answer.events[-1] == {"success": False, "error": "gone", "code": "engine_failed", "retryable": True}
    assert "event: error\n" in answer.text


def test_a_refused_enhance_gives_the_original_prompt_back(line: Line) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "a fox"}]
    answers = asked(
        faced(line(ScriptedEngine())),
        ("/enhance", {"prompt": "a fox", "job_type": "sdxl_image_fast", "no_such": 1}),
        ("/enhance/legacy", {"messages": messages, "no_such": 1}),
        ("/enhance/sdxl", {"original_prompt": "a fox", "target_model": "wan"}),
        ("/enhance/wan", {"prompt": "a fox", "job_type": "no such"}),
    )
    assert [answer.status for answer in answers] == [400] * 4
    assert [answer.json["enhanced_prompt"] for answer in answers] == ["a fox"] * 4
    assert [answer.json["field"] for answer in answers] == ["no_such", "no_such", "target_model", "job_type"]


def test_a_full_worker_refuses_at_once_and_still_answers_what_needs_no_engine(line: Line) -> None:
    engine = slow()
    face = faced(line(engine), slots=2)

    async def scenario() -> None:
        async with serving(face) as client:
            running = [asyncio.create_task(client.post("/chat", CHAT)) for _ in range(2)]
            await until(lambda: engine.running == 2)
            refused = await client.post("/chat", CHAT)
            assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
            enhance = await client.post("/enhance", {"prompt": "a fox", "system_prompt": "s"})
            assert (enhance.status, enhance.json["enhanced_prompt"]) == (503, "a fox")
            openai = await client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})
            assert (openai.status, openai.json["error"]["type"]) == (503, "server_error")
            assert [(await client.get(path)).status for path in ("/ping", "/health", "/metrics", "/v1/models")] == [
                200
            ] * 4
            assert (await client.post("/info", {})).status == 200
            assert "qwen_worker_http_requests_refused_total 3\n" in (await client.get("/metrics")).text
            for task in running:
                task.cancel()
            await until(lambda: engine.running == 0)
            assert (await client.post("/generate", {"prompt": "a", "max_tokens": 2})).status == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions"])
def test_a_client_that_goes_away_ends_its_request(line: Line, stream: bool, path: str) -> None:
    engine = slow()
    face = faced(line(engine))
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": stream}

    async def scenario() -> None:
        async with serving(face) as client:
            task = asyncio.create_task(client.post(path, body))
            await until(lambda: engine.running == 1)
            task.cancel()
            await until(lambda: engine.running == 0, 2)
            assert engine.cancelled == 1
            await until(lambda: face.line.running == 0, 2)

    asyncio.run(scenario())
    assert face.report.outcomes == {"cancelled": 1}


def test_while_the_model_loads_the_ping_is_empty_and_health_says_so_and_requests_are_to_come_again() -> None:
    face = Face(Settings(face="http", health_check_path="/alive"), Report())

    async def scenario() -> None:
        async with serving(face) as client:
            for path in ("/ping", "/alive"):
                ping = await client.get(path)
                assert (ping.status, ping.text) == (204, "")
            health = await client.get("/health")
            assert (health.status, health.json["status"], health.json["model_loaded"]) == (200, "loading", False)
            assert 'qwen_worker_state{state="loading"} 1' in (await client.get("/metrics")).text
            for path in POSTS:
                answer = await client.post(path, {"prompt": "a fox"})
                assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "overloaded", "5")
                assert answer.json.get("enhanced_prompt") == (
                    "a fox" if path.startswith("/enhance/") or path == "/enhance" else None
                )
            assert (await client.get("/v1/models")).json["error"]["code"] == "overloaded"

    asyncio.run(scenario())


def test_a_worker_that_drains_or_is_broken_says_so_and_takes_nothing_more(line: Line) -> None:
    async def scenario(face: Face) -> None:
        async with serving(face) as client:
            assert (await client.get("/ping")).status == 200
            face.report.draining()
            assert (await client.get("/ping")).status == 503
            assert (await client.post("/chat", CHAT)).status == 503
            face.report.broken()
            assert (await client.get("/ping")).json == {"status": "broken"}
            assert (await client.post("/chat", CHAT)).json["code"] == "overloaded"

    asyncio.run(scenario(faced(line(ScriptedEngine()))))


def test_with_a_key_everything_but_the_ping_needs_it(line: Line) -> None:
    face = faced(line(ScriptedEngine()), api_key="s3crét")

    async def scenario(client: Client) -> None:
        key = {"authorization": "Bearer s3crét"}
        wrong: list[dict[str, str]] = [{}, {"authorization": "Bearer s3cre"}, {"authorization": "Basic s3crét"}]
        assert (await client.get("/ping")).status == 200
        for headers in wrong:
            for path in (*GETS, "/metrics", "/nope"):
                answer = await client.get(path, headers=headers)
                assert (answer.status, answer.json["code"]) == (401, "unauthorized")
            assert (await client.post("/chat", CHAT, headers=headers)).status == 401
            openai = await client.get("/v1/models", headers=headers)
            assert (openai.status, openai.json["error"]["type"]) == (401, "invalid_request_error")
        assert (await client.get("/metrics", headers=key)).status == 200
        assert (await client.post("/chat", CHAT, headers=key)).status == 200

    async def served() -> None:
        async with serving(face) as client:
            await scenario(client)

    asyncio.run(served())


def test_what_http_refuses_has_the_shape_of_every_other_error(line: Line) -> None:
    face = faced(line(ScriptedEngine()))

    async def scenario() -> None:
        async with serving(face) as client:
            for method, path, status, code in (
                ("GET", "/nope", 404, "unknown_url"),
                ("POST", "/chat/unrestricted", 404, "unknown_url"),
                ("GET", "/chat", 405, "method_not_allowed"),
                ("DELETE", "/health", 405, "method_not_allowed"),
            ):
                answer = await client.send(method, path)
                assert (answer.status, answer.json["code"]) == (status, code)
                assert answer.json["success"] is answer.json["retryable"] is False
            removed = await client.post("/chat/unrestricted", CHAT)
            assert "what may be said is the caller's decision" in removed.json["error"]
            for method, path, status, code in (
                ("POST", "/v1/responses", 404, "unknown_url"),
                ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
                ("POST", "/v1/models", 405, "method_not_allowed"),
            ):
                answer = await client.send(method, path, data=b"{}")
                error = answer.json["error"]
                assert (answer.status, error["code"], error["type"]) == (status, code, "invalid_request_error")

    asyncio.run(scenario())


def test_a_request_without_a_deadline_gets_one_below_the_platforms_and_one_with_keeps_it(line: Line) -> None:
    engine = ScriptedEngine()
    asked(
        faced(line(engine)),
        ("/chat", CHAT),
        ("/chat", {**CHAT, "deadline_ms": 400_000}),
        ("/v1/completions", {"prompt": "a"}),
    )
    left = [(deadline or 0) - time.monotonic() for _, _, deadline in engine.seen]
    assert left == [pytest.approx(320, abs=15), pytest.approx(400, abs=15), pytest.approx(320, abs=15)]


def test_openais_answers_stream_and_name_what_had_no_effect_in_a_header(line: Line) -> None:
    body = {"messages": [{"role": "user", "content": "hi", "a b\r\n": 1}], "user": "u", "model": "scripted"}
    whole, streamed, wrong, models = asked(
        faced(line(ScriptedEngine())),
        ("/v1/chat/completions", body),
        ("/v1/chat/completions", {**body, "stream": True}),
        ("/v1/chat/completions", {**body, "stream": True, "tools": [1]}),
        ("/v1/chat/completions", {**body, "model": "gpt-4"}),
    )
    assert whole.json["choices"][0]["message"]["content"] == "Hello, world!"
    assert "user" in whole.headers["x-worker-ignored"]
    deltas = [event["choices"][0]["delta"].get("content") or "" for event in streamed.events if event["choices"]]
    assert "".join(deltas) == "Hello, world!"
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert "user" in streamed.headers["x-worker-ignored"]
    assert (wrong.status, wrong.json["error"]["param"]) == (400, "tools")
    assert (models.status, models.json["error"]["code"]) == (404, "model_not_found")


def test_a_silent_stream_is_kept_open_by_comments(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SILENCE_S", 0.05)
    engine = ScriptedEngine([EngineFailed("gone")], step_s=0.3)
    native, openai = asked(
        faced(line(engine)),
        ("/chat", {**CHAT, "stream": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "stream": True}),
    )
    for answer in (native, openai):
        assert answer.status == 200
        assert answer.text.startswith(": \n\n")
    assert native.events[-1]["code"] == "engine_failed"
    assert openai.events[-1]["error"]["code"] == "engine_failed"
    json.loads(native.text.rpartition("data: ")[2])


def test_requests_that_are_cut_off_get_a_typed_error_in_their_own_shape(line: Line) -> None:
    engine = slow()
    face = faced(line(engine))
    messages = {"messages": [{"role": "user", "content": "hi"}]}

    async def scenario() -> list[Answer]:
        async with serving(face) as client:
            calls = [("/chat", False), ("/chat", True), ("/v1/chat/completions", False), ("/v1/chat/completions", True)]
            tasks = [asyncio.create_task(client.post(path, {**messages, "stream": stream})) for path, stream in calls]
            await until(lambda: engine.running == 4)
            await asyncio.sleep(0.1)
            face.report.draining()
            assert not await face.line.empty(0.05)
            face.line.abandon()
            answers = await asyncio.gather(*tasks)
            assert await face.line.empty(1)
            await until(lambda: engine.running == 0, 2)
            return answers

    whole, streamed, openai, openai_streamed = asyncio.run(scenario())
    assert (whole.status, whole.json["code"], whole.json["retryable"]) == (503, "engine_failed", True)
    assert streamed.status == 200
    assert streamed.events[0]["delta"]
    assert streamed.events[-1]["code"] == "engine_failed"
    assert (openai.status, openai.json["error"]["code"]) == (503, "engine_failed")
    assert openai_streamed.events[-1]["error"]["code"] == "engine_failed"
