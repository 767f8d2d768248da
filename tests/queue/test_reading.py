"""A reply to a take: its small jobs begin at once, and a large one costs no other job its time."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.pool import Pool
from handler.queue import reading
from handler.queue.encoding import SMALL_BYTES, decode, items
from handler.queue.output import Job, Output, Result
from handler.queue.reading import Handout, Unread
from tests.queue.test_encoding import JSON, TEXT
from tests.queue.test_intake import FakePlatform, intake_of, job, until
from tests.support.taking import taken

LARGE = "x" * SMALL_BYTES


@given(st.lists(JSON, max_size=5), st.sampled_from([None, 1]), st.booleans())
def test_the_items_of_a_list_are_found_without_decoding_them(
    values: list[Any], indent: int | None, plain: bool
) -> None:
    raw = json.dumps(values, indent=indent, ensure_ascii=plain).encode()
    found = list(items(raw))
    assert [json.loads(item) for item, _ in found] == values
    ids = [value.get("id") if isinstance(value, dict) else None for value in values]
    assert [id_ for _, id_ in found] == [id_ if isinstance(id_, str) else None for id_ in ids]


@given(st.dictionaries(TEXT | st.just("id"), JSON, max_size=4))
def test_one_job_alone_is_the_one_item(value: dict[str, Any]) -> None:
    id_ = value.get("id")
    ((item, found),) = items(json.dumps(value).encode())
    assert (json.loads(item), found) == (value, id_ if isinstance(id_, str) else None)


@pytest.mark.parametrize(
    "raw",
    [b"[", b"[1", b"[1 2]", b"[1,]", b"[,1]", b"[1]]", b"[1] 2", b'{"a"}', b'{"a":}', b'{"a":1', b'{a":1}', b'["a',
     b"{} {}", b'[{"id":"a"', b'[{"id":"a"} {"id":"b"}]'],
    ids=repr,
)  # fmt: skip
def test_a_reply_that_is_no_json_is_refused_however_large(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SMALL_BYTES", -1)
    with pytest.raises(ValueError, match="char"):
        asyncio.run(taken(raw))


@pytest.mark.parametrize("raw", [b'"text"', b"7", b"null", b"<html>"], ids=repr)
def test_a_reply_that_is_neither_a_job_nor_a_list_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="neither a job nor a list"):
        asyncio.run(taken(raw))


def test_an_empty_reply_has_no_job() -> None:
    assert asyncio.run(taken(b"")) == asyncio.run(taken(b" [ ] ")) == []


def test_only_large_jobs_are_left_to_be_decoded() -> None:
    async def offered() -> list[Any]:
        raw = json.dumps([{"id": "a", "input": LARGE}, {"id": "b"}]).encode()
        return [one async for one in Handout.of(raw, Pool("reading", 1)).jobs]

    large, small = asyncio.run(offered())
    assert isinstance(large, Unread)
    assert (large.id, small) == ("a", {"id": "b"})
    assert decode(large.raw) == {"id": "a", "input": LARGE}


class Answered:
    """A handler that notes the jobs which began."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def __call__(self, job: Job) -> AsyncGenerator[Output, None]:
        self.ids.append(str(job["id"]))
        yield Result({"size": len(str(job.get("input")))})


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set: large jobs may be decoded."""
    may = threading.Event()

    def slow(raw: bytes) -> Any:
        if len(raw) > SMALL_BYTES:
            assert may.wait(10)
        return decode(raw)

    monkeypatch.setattr(reading, "decode", slow)
    return may


class Burst(FakePlatform):
    """Hands out all that is queued in one reply."""

    async def take(self, count: int) -> FakePlatform.Reply:
        self.asked.append(count)
        found = [await self.queue.get()]
        while len(found) < count and not self.queue.empty():
            found.append(self.queue.get_nowait())
        return FakePlatform.Reply(found, self.slow_body)


def test_many_large_jobs_at_once_hold_up_no_small_one_in_their_reply_or_after_it(decoding: threading.Event) -> None:
    answered = Answered()

    async def scenario() -> None:
        platform = Burst()
        running = asyncio.create_task(intake_of(platform, answered, capacity=8).run())
        for name in ("h1", "h2", "a", "h3"):
            platform.queue.put_nowait({"id": name, "input": LARGE} if name[0] == "h" else job(name))
        await until(lambda: "a" in platform.results)
        platform.queue.put_nowait(job("b"))
        await until(lambda: "b" in platform.results)
        assert answered.ids == ["a", "b"]
        assert platform.in_progress == {"h1", "h2", "h3"}  # heartbeats list them while they wait
        platform.stopped.put_nowait("h2")
        await until(lambda: platform.in_progress == {"h1", "h3"})
        decoding.set()
        await until(lambda: {"h1", "h3"} <= platform.results.keys())
        assert json.loads(platform.results["h1"][0]) == {"output": {"size": len(LARGE)}}
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0

    asyncio.run(scenario())
    assert answered.ids == ["a", "b", "h1", "h3"]


def test_jobs_that_a_reply_may_still_hold_count_as_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    answered, may = Answered(), threading.Event()

    def slow(raw: bytes) -> Any:
        for item in items(raw):
            assert may.wait(10)
            yield item

    monkeypatch.setattr(reading, "items", slow)

    async def scenario() -> None:
        platform = Burst()
        running = asyncio.create_task(intake_of(platform, answered, capacity=20).run())
        await asyncio.sleep(0.02)
        platform.queue.put_nowait({"id": "h", "input": LARGE})
        await until(lambda: len(platform.asked) == 2)
        assert platform.asked == [16, 4]  # 16 are asked for at once, of which 15 may still come
        may.set()
        await until(lambda: "h" in platform.results)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0

    asyncio.run(scenario())


def test_a_stop_waits_for_the_jobs_of_a_reply_that_is_read(decoding: threading.Event) -> None:
    answered = Answered()

    async def scenario() -> None:
        platform = Burst()
        running = asyncio.create_task(intake_of(platform, answered).run())
        platform.queue.put_nowait({"id": "h", "input": LARGE})
        await until(lambda: platform.in_progress == {"h"})
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        decoding.set()
        assert await running == 0
        assert platform.results.keys() == {"h"}

    asyncio.run(scenario())


def test_a_large_job_that_is_no_json_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = Answered()

    async def scenario() -> None:
        platform = Burst()

        async def broken(self: FakePlatform.Reply) -> Handout:
            raw = json.dumps(self.items).encode().replace(b'"bad"', b"[1 2]")
            return Handout.of(raw, Pool("reading", 1))

        monkeypatch.setattr(FakePlatform.Reply, "jobs", broken)
        running = asyncio.create_task(intake_of(platform, answered).run())
        platform.queue.put_nowait({"id": "h", "input": LARGE, "more": "bad"})
        platform.queue.put_nowait(job("a"))
        await until(lambda: {"h", "a"} <= platform.results.keys())
        assert json.loads(json.loads(platform.results["h"][0])["error"])["code"] == "internal"
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0

    asyncio.run(scenario())
    assert answered.ids == ["a"]
