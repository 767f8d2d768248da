"""Which jobs run, and how each is answered: against a platform of thirty lines, without processes or a network."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from handler.queue import intake
from handler.queue.answer import Answers, Handler, Kept
from handler.queue.delivery import Backoff, Patience, Post, Receipt
from handler.queue.encoding import NotJson, decode, encode
from handler.queue.intake import Intake

DELIVERED = Receipt("delivered", "", 1)


@dataclass
class Wire:
    """Hands out what a test puts in `queue`, and remembers what was posted."""

    queue: "asyncio.Queue[dict[str, Any]]" = field(default_factory=asyncio.Queue)
    stopped: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)
    asked: list[int] = field(default_factory=list)
    results: dict[str, list[bytes]] = field(default_factory=dict)
    chunks: list[tuple[bytes, int | None]] = field(default_factory=list)
    warnings: list[tuple[str, str | None]] = field(default_factory=list)
    in_progress: set[str] = field(default_factory=set)
    receipts: list[Receipt] = field(default_factory=list)  # what the next posts get
    slow_body: asyncio.Event | None = None

    async def take(self, count: int) -> "Wire.Reply":
        self.asked.append(count)
        return Wire.Reply([await self.queue.get()], self.slow_body)

    @dataclass
    class Reply:
        items: list[dict[str, Any]]
        arrived: asyncio.Event | None

        async def jobs(self) -> list[Any]:
            if self.arrived:
                await self.arrived.wait()
            return self.items

    async def stops(self) -> list[str]:
        return [await self.stopped.get()]

    async def chunk(self, job_id: str, body: bytes, *, tries: int | None = None) -> Receipt:
        self.chunks.append((body, tries))
        return self.receipts.pop(0) if self.receipts else DELIVERED

    async def result(self, job_id: str, body: bytes, *, streamed: bool) -> Receipt:
        self.results.setdefault(job_id, []).append(body)
        return self.receipts.pop(0) if self.receipts else DELIVERED

    def started(self, job_id: str) -> None:
        self.in_progress.add(job_id)

    def ended(self, job_id: str) -> None:
        self.in_progress.remove(job_id)

    def warn(self, message: str, job_id: str | None = None) -> None:
        self.warnings.append((message, job_id))


def played(
    scenario: Callable[[Wire, "asyncio.Task[int]"], Any],
    handler: Handler,
    broken: Callable[[], str | None] = lambda: None,
) -> int:
    """Run a scenario beside an intake of two slots, send SIGTERM, and return what `run` returns."""

    async def both() -> int:
        wire = Wire()
        running = asyncio.create_task(Intake(wire, handler, capacity=2, grace_s=0.2, broken=broken).run())
        await asyncio.sleep(0.01)
        await scenario(wire, running)
        if not running.done():
            os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            return await running

    return asyncio.run(both())


class Gate:
    """A handler whose jobs wait until they are let go."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.entered: list[str] = []

    async def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        self.entered.append(job["id"])
        await self.open.wait()
        return {"id": job["id"]}


def job(id_: str) -> dict[str, Any]:
    return {"id": id_, "input": {}}


def test_it_holds_no_more_than_its_capacity_and_takes_at_once_when_one_ends() -> None:
    gate = Gate()

    async def scenario(wire: Wire, _: object) -> None:
        for name in "abc":
            wire.queue.put_nowait(job(name))
        await asyncio.sleep(0.05)
        assert (gate.entered, wire.asked) == (["a", "b"], [2, 1])
        gate.open.set()
        await asyncio.sleep(0.05)
        assert (gate.entered, wire.asked[2]) == (["a", "b", "c"], 2)
        assert wire.in_progress == set()

    assert played(scenario, gate) == 0


def test_a_job_that_is_stopped_before_its_first_step_never_begins_and_is_forgotten() -> None:
    gate = Gate()

    async def scenario() -> None:
        wire = Wire()
        taking = Intake(wire, gate, capacity=1, grace_s=0, broken=lambda: None)
        taking._start(job("a"))
        taking._stop("a")  # before the loop has run once
        await asyncio.sleep(0.01)
        assert (gate.entered, wire.results, wire.in_progress) == ([], {}, set())

    asyncio.run(scenario())


@pytest.mark.parametrize("item", [None, "job", [], {"input": {}}, {"id": 7}, {"id": ""}], ids=repr)
def test_an_item_without_an_id_never_runs(item: object) -> None:
    gate = Gate()

    async def scenario() -> None:
        wire = Wire()
        Intake(wire, gate, capacity=1, grace_s=0, broken=lambda: None)._start(item)
        await asyncio.sleep(0.01)
        assert (gate.entered, wire.results, wire.in_progress) == ([], {}, set())
        assert len(wire.warnings) == 1

    asyncio.run(scenario())


def test_a_stop_that_overtakes_its_job_is_remembered_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "EARLY_STOP_S", 0.1)
    gate = Gate()

    async def scenario(wire: Wire, _: object) -> None:
        for name in "ab":
            wire.stopped.put_nowait(name)
        await asyncio.sleep(0.02)
        wire.queue.put_nowait(job("a"))
        await asyncio.sleep(0.15)
        wire.queue.put_nowait(job("b"))  # stopped long ago: this is another run, as /retry asks for
        wire.queue.put_nowait(job("a"))
        await asyncio.sleep(0.02)
        assert gate.entered == ["b", "a"]

    played(scenario, gate)


def test_jobs_whose_handing_out_has_begun_are_finished_although_the_worker_is_told_to_stop() -> None:
    async def handler(job: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": job["id"]}

    async def scenario(wire: Wire, running: "asyncio.Task[int]") -> None:
        wire.slow_body = asyncio.Event()
        wire.queue.put_nowait(job("a"))
        await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        wire.slow_body.set()
        assert await running == 0
        assert wire.results == {"a": [b'{"output":{"id":"a"}}']}

    played(scenario, handler)


def test_a_reply_that_never_ends_does_not_keep_the_worker() -> None:
    async def scenario(wire: Wire, running: "asyncio.Task[int]") -> None:
        wire.slow_body = asyncio.Event()
        wire.queue.put_nowait(job("a"))
        await asyncio.sleep(0.02)

    assert played(scenario, Gate()) == 0


def test_a_take_that_is_held_when_the_worker_is_told_to_stop_is_given_up_after_a_moment_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "LAST_TAKE_S", 0.1)

    async def handler(job: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    async def scenario(wire: Wire, running: "asyncio.Task[int]") -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.02)
        wire.queue.put_nowait(job("a"))
        assert await running == 0
        assert list(wire.results) == ["a"]
        assert len(wire.asked) == 1

    played(scenario, handler)

    async def nothing_comes(wire: Wire, running: "asyncio.Task[int]") -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0
        wire.queue.put_nowait(job("a"))
        await asyncio.sleep(0.02)
        assert (wire.queue.qsize(), wire.results) == (1, {})

    played(nothing_comes, handler)


def test_an_answer_that_is_on_its_way_when_the_grace_period_ends_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "LAST_TAKE_S", 0.01)

    async def handler(job: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    async def scenario(wire: Wire, running: "asyncio.Task[int]") -> None:
        post = wire.result

        async def slow(job_id: str, body: bytes, *, streamed: bool) -> Receipt:
            await asyncio.sleep(0.4)
            return await post(job_id, body, streamed=streamed)

        wire.result = slow  # type: ignore[method-assign]
        wire.queue.put_nowait(job("a"))
        await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0
        assert wire.results == {"a": [b'{"output":{}}']}

    played(scenario, handler)


def test_a_broken_engine_ends_the_worker_although_its_jobs_hang() -> None:
    gate = Gate()
    reasons: list[str] = []
    seen: list[Wire] = []

    async def scenario(wire: Wire, running: "asyncio.Task[int]") -> None:
        seen.append(wire)
        wire.queue.put_nowait(job("a"))
        await asyncio.sleep(0.02)
        reasons.append("the engine has failed")
        await running

    assert played(scenario, gate, lambda: reasons[0] if reasons else None) == 1
    assert b"engine_failed" in seen[0].results["a"][0]
    assert seen[0].warnings == [("the worker ends: the engine has failed", None)]


def test_a_broken_engine_is_seen_before_the_next_job_is_taken() -> None:
    async def handler(job: Mapping[str, Any]) -> dict[str, Any]:
        reasons.append("broken")
        return {}

    reasons: list[str] = []

    async def scenario(wire: Wire, running: "asyncio.Task[int]") -> None:
        for name in "abcdef":
            wire.queue.put_nowait(job(name))
        await running
        assert len(wire.results) <= 2

    assert played(scenario, handler, lambda: reasons[0] if reasons else None) == 1


def test_a_worker_that_can_no_longer_take_does_not_stay() -> None:
    async def scenario(wire: Wire, running: "asyncio.Task[int]") -> None:
        def started(job_id: str) -> None:
            raise KeyError(job_id)

        wire.started = started  # type: ignore[method-assign]
        wire.queue.put_nowait(job("a"))
        assert await running == 1
        assert ("the worker ends: a defect of its own, KeyError", None) in wire.warnings

    played(scenario, Gate())


class TestAnswers:
    def answered(self, wire: Wire, handler: Handler, *receipts: Receipt) -> list[bytes]:
        async def scenario() -> None:
            wire.receipts += receipts
            answers = Answers(wire, handler)
            await answers.deliver("a", await answers.to("a", job("a")))

        asyncio.run(scenario())
        return wire.results["a"]

    def test_a_refused_result_is_followed_by_an_error_that_says_so(self) -> None:
        async def handler(job: Mapping[str, Any]) -> dict[str, Any]:
            return {"text": "x" * 1000}

        wire = Wire()
        whole, error = self.answered(wire, handler, Receipt("refused", "HTTP 413", 3))
        assert len(whole) > 1000
        assert b"HTTP 413" in error
        assert wire.warnings == [("result of 1022 bytes refused after 3 tries (HTTP 413)", "a")]

    def test_a_lost_result_is_followed_by_nothing_as_it_may_have_arrived(self) -> None:
        async def handler(job: Mapping[str, Any]) -> dict[str, Any]:
            return {"text": "x"}

        assert len(self.answered(Wire(), handler, Receipt("lost", "TimeoutError", 9))) == 1

    def test_a_chunk_larger_than_the_platform_takes_comes_with_the_result_alone(self) -> None:
        async def handler(job: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
            yield {"delta": "a"}
            yield {"text": "x" * 1_000_000}

        wire = Wire()
        (whole,) = self.answered(wire, handler)
        assert [body for body, _ in wire.chunks] == [b'{"output":{"delta":"a"}}']
        assert len(whole) > 1_000_000
        assert wire.warnings == [("chunk 1 of 1000022 bytes comes with the result alone", "a")]

    def test_a_stream_that_ends_in_an_error_fails_its_job(self) -> None:
        async def handler(job: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
            yield {"delta": "a"}
            yield {"error": "told"}

        wire = Wire()
        assert self.answered(wire, handler) == [b'{"error":"told"}']
        assert len(wire.chunks) == 1

    def test_after_a_lost_chunk_the_others_get_one_try_each(self) -> None:
        async def handler(job: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
            for index in range(3):
                yield {"index": index}

        wire = Wire()
        (whole,) = self.answered(wire, handler, DELIVERED, Receipt("lost", "TimeoutError", 9))
        assert [tries for _, tries in wire.chunks] == [None, None, 1]
        assert whole == b'{"output":[{"index":0},{"index":1},{"index":2}]}'

    def test_what_is_kept_is_bounded_and_the_oldest_goes_first(self) -> None:
        kept = Kept(max_bytes=10)
        for name in "abc":
            kept.keep(name, b"1234")
        kept.keep("large", b"x" * 11)
        assert [kept.get(name) for name in ("a", "b", "c", "large")] == [None] * 4
        kept.keep("d", b"1234")
        assert kept.get("d") == b"1234"


class Session:
    """Answers each post with the next of these statuses or errors, the last one for ever; every post takes a second."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.now = 0.0

    @asynccontextmanager
    async def post(self, url: str, **sent: Any) -> AsyncIterator[SimpleNamespace]:
        self.now += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        yield SimpleNamespace(status=answer)


class TestPost:
    def sent(self, *answers: int | Exception, least: int = 5, tries: int | None = None) -> Receipt:
        session = Session(*answers)
        patience = Patience(give_up_s=20, refused_s=8, tries=least, first_pause_s=0, longest_pause_s=0)
        post = Post(cast(aiohttp.ClientSession, session), patience, lambda: session.now)
        return asyncio.run(post("url", b"", "a", tries=tries))

    @pytest.mark.parametrize(
        "moment", [408, 425, 429, 500, 503, aiohttp.ServerDisconnectedError(), TimeoutError(), OSError()], ids=repr
    )
    def test_what_speaks_of_the_moment_is_tried_until_patience_ends(self, moment: int | Exception) -> None:
        assert self.sent(*[moment] * 19, 200) == Receipt("delivered", "", 20)
        problem = f"HTTP {moment}" if isinstance(moment, int) else type(moment).__name__
        assert self.sent(moment) == Receipt("lost", problem, 20)

    @pytest.mark.parametrize("status", [301, 400, 401, 404])
    def test_a_refusal_is_believed_after_a_while_and_a_message_that_is_too_large_at_once(self, status: int) -> None:
        assert self.sent(*[status] * 7, 200) == Receipt("delivered", "", 8)
        assert self.sent(status) == Receipt("refused", f"HTTP {status}", 8)
        assert self.sent(413) == Receipt("refused", "HTTP 413", 1)

    def test_a_worker_that_slept_past_its_deadline_still_tries(self) -> None:
        assert self.sent(500, least=30) == Receipt("lost", "HTTP 500", 30)
        assert self.sent(400, least=30) == Receipt("refused", "HTTP 400", 30)

    def test_tries_may_be_fewer(self) -> None:
        assert self.sent(400, tries=1) == Receipt("lost", "HTTP 400", 1)


def test_pauses_double_up_to_a_limit_with_jitter_and_begin_again() -> None:
    draws = iter([0.0, 1.0, 0.0, 1.0, 0.0])
    backoff = Backoff(1.0, 3.0, lambda: next(draws))
    assert [backoff.pause() for _ in range(4)] == [0.5, 2.0, 1.5, 3.0]
    backoff.reset()
    assert backoff.pause() == 0.5


@pytest.mark.parametrize("odd", [float("inf"), "\udfff", {1, 2}, b"bytes"], ids=repr)
def test_what_json_does_not_have_is_never_sent(odd: object) -> None:
    with pytest.raises(NotJson):
        encode({"output": odd})


class TestWhatComesIn:
    @pytest.mark.parametrize(
        "odd",
        [b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 5_000 + b"1" + b"}" * 5_000, b"7" * 5_000, b"-" + b"7" * 5_000],
        ids=["a deep list", "a deep object", "a huge integer", "a huge negative integer"],
    )
    def test_a_value_that_python_cannot_parse_is_nan_and_its_neighbours_are_whole(self, odd: bytes) -> None:
        before = rb'{"id":"a","input":{"text":"]}[{\"\\","n":[1,-2.5,[[]]]}}'
        hostile, sound = decode(b'[{"id":"h","input":{"seed":' + odd + b',"x":"}"}},' + before + b"]")
        assert sound == {"id": "a", "input": {"text": ']}[{"\\', "n": [1, -2.5, [[]]]}}
        assert (hostile["id"], hostile["input"]["x"]) == ("h", "}")
        assert "NaN" in str(json.dumps(hostile))

    def test_bytes_that_are_no_text_are_lone_surrogates(self) -> None:
        assert decode(b'{"a":"\xff","b":"\xc3\xa9"}') == {"a": "\udcff", "b": "é"}

    @pytest.mark.parametrize("raw", [b"", b"{", b"<html>", b"[" * 100_000], ids=["", "{", "<html>", "open"])
    def test_what_is_no_json_is_refused(self, raw: bytes) -> None:
        with pytest.raises(ValueError, match="char"):
            decode(raw)
