"""OpenAI's API on the queue: what a client of RunPod's /openai reads, also where the platform breaks."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from handler.queue.answer import MAX_CHUNK_BYTES, Answers
from handler.queue.delivery import Post, Receipt, RetryPolicy
from handler.queue.joining import joined
from handler.queue.output import Chunk, Failed, Job, Output, Result
from runpod_local import Platform, Worker, eventually
from tests.queue.test_delivery import ECHO, ENV
from tests.queue.test_intake import FakePlatform

CHAT = "/v1/chat/completions"
STREAM: dict[str, Any] = {"openai_route": CHAT, "openai_input": {"stream": True, "chunks": 3}}
WHOLE: dict[str, Any] = {"openai_route": CHAT, "openai_input": {"say": 1}}
#: where a chunk's reply leaves open whether it was taken
DOUBTS: dict[str, dict[str, Any]] = {
    "a connection dropped before the effect": {"drop": True},
    "a connection dropped after the effect": {"drop": True, "after": True},
    "502 after the effect": {"status": 502, "after": True},
    "500": {"status": 500},
    "408": {"status": 408},
    "no answer at all": {"hang": True},
}
#: where it was certainly not taken
CERTAIN: dict[str, dict[str, Any]] = {
    "503 twice": {"status": 503, "times": 2},
    "429 twice": {"status": 429, "times": 2},
    "a stray 400": {"status": 400},
}


@asynccontextmanager
async def worker(**env: str) -> AsyncIterator[tuple[Platform, Worker]]:
    async with Platform(hold_s=20) as platform, platform.worker(ECHO, env={**ENV, **env}) as one:
        await one.ready()
        yield platform, one


def texts(chunks: list[Any]) -> str:
    return "".join(map(str, chunks))


def test_a_chunk_that_was_certainly_not_taken_is_sent_again() -> None:
    async def scenario() -> None:
        async with worker() as (platform, _):
            for fault in CERTAIN.values():
                platform.fault("stream", **fault)
                id_ = await platform.run(STREAM)
                job = await platform.wait(id_)
                whole = "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: [DONE]\n\n"
                assert (job["status"], texts(job["output"])) == ("COMPLETED", whole), fault
                assert texts(platform.jobs[id_].chunks) == whole
                assert platform.calls("done", id_)[0].query["isStream"] == "true"

    asyncio.run(scenario())


def test_a_chunk_in_doubt_is_never_sent_twice_and_the_stream_ends_with_an_error() -> None:
    async def scenario() -> None:
        async with worker() as (platform, _):
            for fault in DOUBTS.values():
                platform.faults.clear()
                platform.fault("stream", **fault)
                id_ = await platform.run({**STREAM, "openai_input": {"stream": True, "chunks": 3, "pace": 0.2}})
                job = await platform.wait(id_)
                assert job["status"] == "FAILED", fault
                assert json.loads(job["error"])["error"]["code"] == "engine_failed"
                posted = [call.body["output"] for call in platform.calls("stream", id_)]
                assert len(posted) == 2, fault
                assert posted[0] == "data: 0\n\n"
                event, done = posted[1].removeprefix("data: ").split("\n\n", 1)
                assert done == "data: [DONE]\n\n"
                assert json.loads(event)["error"]["type"] == "server_error"

    asyncio.run(scenario())


def test_one_object_is_posted_as_a_chunk_and_a_doubt_fails_its_job() -> None:
    async def scenario() -> None:
        async with worker() as (platform, _):
            id_ = await platform.run(WHOLE)
            job = await platform.wait(id_)
            assert (job["status"], job["output"]) == ("COMPLETED", [{"say": 1, "runs": 1}])
            assert platform.jobs[id_].chunks == job["output"]
            platform.fault("stream", status=502, after=True)
            doubted = await platform.run(WHOLE)
            assert (await platform.wait(doubted))["status"] == "FAILED"
            assert len(platform.calls("stream", doubted)) == 1  # no error as a normal output

    asyncio.run(scenario())


def test_native_jobs_on_the_same_worker_are_streamed_where_they_ask_for_it() -> None:
    async def scenario() -> None:
        async with worker() as (platform, _):
            for given, streamed in (({"say": 1}, "false"), ({"say": 1, "stream": True}, "true"), (STREAM, "true")):
                id_ = await platform.run(given)
                await platform.wait(id_)
                assert platform.calls("done", id_)[0].query["isStream"] == streamed

    asyncio.run(scenario())


def test_a_stream_that_the_end_of_the_worker_cuts_off_ends_with_an_error() -> None:
    async def scenario() -> None:
        async with worker(GRACE_S="0.5") as (platform, one):
            id_ = await platform.run({**STREAM, "openai_input": {"stream": True, "chunks": 1000, "pace": 0.1}})
            native = await platform.run({"stream": True, "chunks": 1000, "pace": 0.1})
            await eventually(lambda: all(platform.jobs[each].chunks for each in (id_, native)))
            one.terminate()
            assert await one.exited() == 0
            job = await platform.wait(id_)
            assert (job["status"], json.loads(job["error"])["error"]["code"]) == ("FAILED", "engine_failed")
            assert '"code":"engine_failed"' in platform.jobs[id_].chunks[-1]
            last = platform.jobs[native].chunks[-1]
            assert (last["failure"]["code"], last["index"]) == ("engine_failed", len(platform.jobs[native].chunks) - 1)

    asyncio.run(scenario())


class TestAnswers:
    def run(self, job: Job, outputs: list[Output], *receipts: Receipt) -> tuple[FakePlatform, bytes]:
        async def handler(job: Job) -> AsyncGenerator[Output, None]:
            for output in outputs:
                yield output

        platform = FakePlatform(receipts=[*receipts])
        body = asyncio.run(Answers(platform, handler).begin("a", job).run())
        return platform, body

    def test_a_text_larger_than_a_chunk_is_posted_in_parts(self) -> None:
        text = 'data: "' + "字\\" * 400_000 + '"\n\n'
        platform, body = self.run({"id": "a", "input": STREAM}, [Result(text)])
        posted = [json.loads(body)["output"] for body, _ in platform.chunks]
        assert len(posted) > 1
        assert texts(posted) == text == texts(json.loads(body)["output"])
        assert all(len(body) <= MAX_CHUNK_BYTES for body, _ in platform.chunks)
        assert platform.once == [True] * len(posted)

    def test_an_object_larger_than_a_chunk_is_posted_as_its_json(self) -> None:
        value: dict[str, Any] = {"text": "x" * MAX_CHUNK_BYTES}
        platform, _ = self.run({"id": "a", "input": WHOLE}, [Result(value)])
        assert json.loads(texts([json.loads(body)["output"] for body, _ in platform.chunks])) == value

    def test_a_defect_in_the_middle_of_a_stream_is_an_event_and_then_a_failure(self) -> None:
        async def breaks(job: Job) -> AsyncGenerator[Output, None]:
            yield Chunk("data: 1\n\n")
            raise ValueError("x")

        platform = FakePlatform()
        body = asyncio.run(Answers(platform, breaks).begin("a", {"id": "a", "input": STREAM}).run())
        assert json.loads(json.loads(body)["error"])["error"]["code"] == "internal"
        assert '"code":"internal"' in json.loads(platform.chunks[-1][0])["output"]

    def test_the_word_error_in_a_text_ends_nothing(self) -> None:
        outputs: list[Output] = [Chunk('data: {"error": 1}\n\n'), Result("data: [DONE]\n\n")]
        _, body = self.run({"id": "a", "input": STREAM}, outputs)
        assert texts(json.loads(body)["output"]) == 'data: {"error": 1}\n\ndata: [DONE]\n\n'


class TestJoining:
    def test_texts_that_wait_come_as_one_and_objects_stay_as_they_are(self) -> None:
        sent: list[Output] = [Chunk("a"), Chunk("b"), Chunk({"x": 1}), Chunk("c"), Result("d")]

        async def outputs() -> AsyncGenerator[Output, None]:
            for output in sent:
                yield output

        async def scenario() -> list[Output]:
            return [output async for output in joined(outputs())]

        assert asyncio.run(scenario()) == [Chunk("ab"), Chunk({"x": 1}), Result("cd")]

    def test_a_text_does_not_wait_for_the_next_one(self) -> None:
        async def scenario() -> None:
            more = asyncio.Event()

            async def outputs() -> AsyncGenerator[Output, None]:
                yield Chunk("a")
                await more.wait()
                yield Failed("x")

            async with aclosing(joined(outputs())) as events:
                assert await anext(events) == Chunk("a")
                more.set()
                assert await anext(events) == Failed("x")

        asyncio.run(asyncio.wait_for(scenario(), 5))

    def test_closing_it_closes_what_it_reads(self) -> None:
        async def scenario() -> None:
            closed = asyncio.Event()

            async def outputs() -> AsyncGenerator[Output, None]:
                try:
                    yield Chunk("a")
                    await asyncio.sleep(60)
                finally:
                    closed.set()

            events = joined(outputs())
            await anext(events)
            await events.aclose()
            assert closed.is_set()

        asyncio.run(asyncio.wait_for(scenario(), 5))

    def test_an_error_passes_after_what_came_before_it(self) -> None:
        async def scenario() -> None:
            async def outputs() -> AsyncGenerator[Output, None]:
                yield Chunk("a")
                raise ValueError("x")

            events = joined(outputs())
            assert await anext(events) == Chunk("a")
            with pytest.raises(ValueError, match="x"):
                await anext(events)

        asyncio.run(scenario())


def test_where_there_is_no_connection_a_message_was_not_taken() -> None:
    refused = aiohttp.ClientConnectorError(cast(Any, SimpleNamespace(host="h", port=1, ssl=None)), OSError("refused"))
    tries: list[Exception | int] = [refused, aiohttp.ConnectionTimeoutError(), 200]
    assert sent(*tries) == Receipt("delivered", "", 3)
    assert sent(aiohttp.ServerDisconnectedError(), 200) == Receipt("lost", "ServerDisconnectedError", 1)
    assert sent(aiohttp.SocketTimeoutError(), 200) == Receipt("lost", "SocketTimeoutError", 1)


def sent(*answers: Exception | int) -> Receipt:
    """The receipt of a message that is to be sent once, over a session that answers so."""
    left = [*answers]

    @asynccontextmanager
    async def post(*_: Any, **__: Any) -> AsyncIterator[SimpleNamespace]:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        yield SimpleNamespace(status=answer)

    session = cast(aiohttp.ClientSession, SimpleNamespace(post=post))
    policy = RetryPolicy(first_pause_s=0.001, longest_pause_s=0.001)
    return asyncio.run(Post(session, policy)("http://x", b"", "a", once=True))
