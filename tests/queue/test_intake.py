"""Which jobs run, and how each is answered: against a platform of thirty lines, without processes or a network."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from handler.pool import Pool
from handler.queue import intake
from handler.queue.answer import Answers, ResultCache
from handler.queue.delivery import Backoff, Post, Receipt, RetryPolicy
from handler.queue.encoding import NotJson, decode, encode
from handler.queue.intake import Intake
from handler.queue.output import Chunk, Failed, Handler, Job, Output, Result, Way
from handler.queue.reading import Handout
from handler.report import Report

DELIVERED = Receipt("delivered", "", 1)
WAY = Way(wants_pieces=False, streamed=False, openai=False)


READING = Pool("reading", 1)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110  no event tells it
            await asyncio.sleep(0.005)


@dataclass
class FakePlatform:
    """Hands out what a test puts in `queue`, and remembers what was posted."""

    queue: "asyncio.Queue[dict[str, Any]]" = field(default_factory=asyncio.Queue)
    stopped: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)
    asked: list[int] = field(default_factory=list)
    results: dict[str, list[bytes]] = field(default_factory=dict)
    chunks: list[tuple[bytes, int | None]] = field(default_factory=list)
    once: list[bool] = field(default_factory=list)
    in_progress: set[str] = field(default_factory=set)
    receipts: list[Receipt] = field(default_factory=list)  # what the next posts get
    slow_body: asyncio.Event | None = None

    async def take(self, count: int) -> "FakePlatform.Reply":
        self.asked.append(count)
        return FakePlatform.Reply([await self.queue.get()], self.slow_body)

    @dataclass
    class Reply:
        items: list[dict[str, Any]]
        arrived: asyncio.Event | None

        async def jobs(self) -> Handout:
            if self.arrived:
                await self.arrived.wait()
            return Handout.of(json.dumps(self.items).encode(), READING)

    async def stops(self) -> list[str]:
        return [await self.stopped.get()]

    async def chunk(self, job_id: str, body: bytes, *, tries: int | None = None, once: bool = False) -> Receipt:
        self.chunks.append((body, tries))
        self.once.append(once)
        return self.receipts.pop(0) if self.receipts else DELIVERED

    async def result(self, job_id: str, body: bytes, *, streamed: bool) -> Receipt:
        self.results.setdefault(job_id, []).append(body)
        return self.receipts.pop(0) if self.receipts else DELIVERED

    def started(self, job_id: str) -> None:
        self.in_progress.add(job_id)

    def ended(self, job_id: str) -> None:
        self.in_progress.remove(job_id)


def intake_of(
    platform: FakePlatform,
    handler: Handler,
    *,
    capacity: int = 2,
    fault: Callable[[], str | None] = lambda: None,
    report: Report | None = None,
) -> Intake:
    return Intake(platform, handler, capacity=capacity, grace_s=0.2, fault=fault, health=report or Report())


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[tuple[str, str | None]]]:
    """The log's lines since the last call: message and job's id."""

    def read() -> list[tuple[str, str | None]]:
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        return [(line["message"], line["requestId"]) for line in lines]

    return read


Logged = Callable[[], list[tuple[str, str | None]]]


def played(
    scenario: Callable[[FakePlatform, "asyncio.Task[int]"], Any],
    handler: Handler,
    fault: Callable[[], str | None] = lambda: None,
    report: Report | None = None,
) -> int:
    """Run a scenario beside an intake of two slots, send SIGTERM, and return what `run` returns."""

    async def both() -> int:
        platform = FakePlatform()
        running = asyncio.create_task(intake_of(platform, handler, fault=fault, report=report).run())
        await asyncio.sleep(0.01)
        await scenario(platform, running)
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

    async def __call__(self, job: Job) -> AsyncGenerator[Output, None]:
        self.entered.append(str(job["id"]))
        await self.open.wait()
        yield Result({"id": job["id"]})


async def at_once(job: Job) -> AsyncGenerator[Output, None]:
    """A handler whose jobs end at once."""
    yield Result({"id": job["id"]})


def job(id_: str) -> dict[str, Any]:
    return {"id": id_, "input": {}}


def test_it_holds_no_more_than_its_capacity_and_takes_at_once_when_one_ends() -> None:
    gate = Gate()

    async def scenario(platform: FakePlatform, _: object) -> None:
        for name in "abc":
            platform.queue.put_nowait(job(name))
        await asyncio.sleep(0.05)
        assert (gate.entered, platform.asked) == (["a", "b"], [2, 1])
        gate.open.set()
        await asyncio.sleep(0.05)
        assert (gate.entered, platform.asked[2]) == (["a", "b", "c"], 2)
        assert platform.in_progress == set()

    assert played(scenario, gate) == 0


def asked_and_taken(platform: FakePlatform, name: str, asked: list[int]) -> bool:
    return platform.asked == asked and name in platform.in_progress


def test_while_large_jobs_run_few_are_taken_or_none_and_all_again_when_they_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "LARGE_BYTES", 1_000)
    gates = {name: Gate() for name in "abc"}

    async def handler(job: Job) -> AsyncGenerator[Output, None]:
        async for output in gates[str(job["id"])](job):
            yield output

    def large(name: str, size: int) -> dict[str, Any]:
        return {"id": name, "input": {"messages": [{"role": "user", "content": "x" * size}]}}

    async def scenario() -> None:
        platform = FakePlatform()
        running = asyncio.create_task(intake_of(platform, handler, capacity=8).run())
        for name, size, asked in (("a", 400, [8, 7]), ("b", 300, [8, 7, 1]), ("c", 400, [8, 7, 1])):
            platform.queue.put_nowait(large(name, size))
            await until(partial(asked_and_taken, platform, name, asked))
        gates["c"].open.set()
        await until(lambda: platform.asked == [8, 7, 1, 1])
        for gate in gates.values():
            gate.open.set()
        platform.queue.put_nowait(job("c"))
        await until(lambda: platform.asked == [8, 7, 1, 1, 7])
        os.kill(os.getpid(), signal.SIGTERM)
        await running

    asyncio.run(scenario())


def test_a_job_that_is_stopped_before_its_first_step_never_begins_and_is_forgotten() -> None:
    gate = Gate()

    async def scenario() -> None:
        platform = FakePlatform()
        taking = intake_of(platform, gate, capacity=1)
        taking._start(job("a"))
        taking._stop("a")  # before the loop has run once
        await asyncio.sleep(0.01)
        assert (gate.entered, platform.results, platform.in_progress) == ([], {}, set())

    asyncio.run(scenario())


@pytest.mark.parametrize("item", [None, "job", [], {"input": {}}, {"id": 7}, {"id": ""}], ids=repr)
def test_an_item_without_an_id_never_runs(item: object, logged: Logged) -> None:
    gate = Gate()

    async def scenario() -> None:
        platform = FakePlatform()
        intake_of(platform, gate, capacity=1)._start(item)
        await asyncio.sleep(0.01)
        assert (gate.entered, platform.results, platform.in_progress) == ([], {}, set())
        assert len(logged()) == 1

    asyncio.run(scenario())


def test_a_stop_that_overtakes_its_job_is_remembered_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "EARLY_STOP_S", 0.1)
    gate = Gate()

    async def scenario(platform: FakePlatform, _: object) -> None:
        for name in "ab":
            platform.stopped.put_nowait(name)
        await asyncio.sleep(0.02)
        platform.queue.put_nowait(job("a"))
        await asyncio.sleep(0.15)
        platform.queue.put_nowait(job("b"))  # stopped long ago: this is another run, as /retry asks for
        platform.queue.put_nowait(job("a"))
        await asyncio.sleep(0.02)
        assert gate.entered == ["b", "a"]

    played(scenario, gate)


def test_jobs_whose_handing_out_has_begun_are_finished_although_the_worker_is_told_to_stop() -> None:
    async def scenario(platform: FakePlatform, running: "asyncio.Task[int]") -> None:
        platform.slow_body = asyncio.Event()
        platform.queue.put_nowait(job("a"))
        await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        platform.slow_body.set()
        assert await running == 0
        assert platform.results == {"a": [b'{"output":{"id":"a"}}']}

    played(scenario, at_once)


class Panic(BaseException):
    """What a library in Rust raises."""


@pytest.mark.parametrize("error", [Panic, SystemExit, RuntimeError])
def test_a_handler_that_fails_in_any_way_is_answered_as_internal(error: type[BaseException]) -> None:
    async def fails(job: Job) -> AsyncGenerator[Output, None]:
        raise error
        yield Result({})

    async def scenario(platform: FakePlatform, _: object) -> None:
        platform.queue.put_nowait(job("a"))
        await asyncio.sleep(0.05)
        (body,) = platform.results["a"]
        assert json.loads(json.loads(body)["error"])["code"] == "internal"

    assert played(scenario, fails) == 0


def test_a_reply_that_never_ends_does_not_keep_the_worker() -> None:
    async def scenario(platform: FakePlatform, running: "asyncio.Task[int]") -> None:
        platform.slow_body = asyncio.Event()
        platform.queue.put_nowait(job("a"))
        await asyncio.sleep(0.02)

    assert played(scenario, Gate()) == 0


def test_a_take_that_is_held_when_the_worker_is_told_to_stop_is_given_up_after_a_moment_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "LAST_TAKE_S", 0.1)

    async def scenario(platform: FakePlatform, running: "asyncio.Task[int]") -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.02)
        platform.queue.put_nowait(job("a"))
        assert await running == 0
        assert list(platform.results) == ["a"]
        assert len(platform.asked) == 1

    played(scenario, at_once)

    async def nothing_comes(platform: FakePlatform, running: "asyncio.Task[int]") -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0
        platform.queue.put_nowait(job("a"))
        await asyncio.sleep(0.02)
        assert (platform.queue.qsize(), platform.results) == (1, {})

    played(nothing_comes, at_once)


def test_an_answer_that_is_on_its_way_when_the_grace_period_ends_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "LAST_TAKE_S", 0.01)

    async def scenario(platform: FakePlatform, running: "asyncio.Task[int]") -> None:
        post = platform.result

        async def slow(job_id: str, body: bytes, *, streamed: bool) -> Receipt:
            await asyncio.sleep(0.4)
            return await post(job_id, body, streamed=streamed)

        platform.result = slow  # type: ignore[method-assign]
        platform.queue.put_nowait(job("a"))
        await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0
        assert platform.results == {"a": [b'{"output":{"id":"a"}}']}

    played(scenario, at_once)


def test_a_broken_engine_ends_the_worker_although_its_jobs_hang(logged: Logged) -> None:
    gate = Gate()
    reasons: list[str] = []
    seen: list[FakePlatform] = []

    async def scenario(platform: FakePlatform, running: "asyncio.Task[int]") -> None:
        seen.append(platform)
        platform.queue.put_nowait(job("a"))
        await asyncio.sleep(0.02)
        reasons.append("the engine has failed")
        await running

    assert played(scenario, gate, lambda: reasons[0] if reasons else None) == 1
    assert b"engine_failed" in seen[0].results["a"][0]
    assert logged() == [("the worker ends: the engine has failed", None)]


def test_a_broken_engine_is_seen_before_the_next_job_is_taken() -> None:
    async def handler(job: Job) -> AsyncGenerator[Output, None]:
        reasons.append("broken")
        yield Result({})

    reasons: list[str] = []

    async def scenario(platform: FakePlatform, running: "asyncio.Task[int]") -> None:
        for name in "abcdef":
            platform.queue.put_nowait(job(name))
        await running
        assert len(platform.results) <= 2

    assert played(scenario, handler, lambda: reasons[0] if reasons else None) == 1


def test_a_worker_that_can_no_longer_take_does_not_stay(logged: Logged) -> None:
    async def scenario(platform: FakePlatform, running: "asyncio.Task[int]") -> None:
        def started(job_id: str) -> None:
            raise KeyError(job_id)

        platform.started = started  # type: ignore[method-assign]
        platform.queue.put_nowait(job("a"))
        assert await running == 1
        assert ("the worker ends: a defect of its own, KeyError", None) in logged()

    played(scenario, Gate())


def test_the_state_is_draining_once_the_worker_takes_no_more_and_broken_where_its_engine_is() -> None:
    states: list[str] = []
    faults: list[str] = []
    report = Report()
    gate = Gate()

    async def drained(platform: FakePlatform, running: "asyncio.Task[int]") -> None:
        report.ready()
        platform.queue.put_nowait(job("a"))
        await asyncio.sleep(0.02)
        states.append(report.state)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.02)
        states.append(report.state)
        gate.open.set()
        assert await running == 0

    played(drained, gate, report=report)
    assert states == ["healthy", "draining"]

    async def broken(platform: FakePlatform, running: "asyncio.Task[int]") -> None:
        faults.append("the engine has failed")
        await running

    report = Report()
    assert played(broken, at_once, lambda: faults[0] if faults else None, report) == 1
    assert report.state == "broken"


class TestAnswers:
    def answered(
        self, platform: FakePlatform, outputs: list[Output], *receipts: Receipt, streams: bool = False, **given: Any
    ) -> list[bytes]:
        """The results of a job with the input `given`."""
        asked: Job = {"id": "a", "input": {**given, **({"stream": True} if streams else {})}}

        async def handler(job: Job) -> AsyncGenerator[Output, None]:
            for output in outputs:
                yield output

        async def scenario() -> None:
            platform.receipts += receipts
            answer = Answers(platform, handler).begin("a", asked)
            await answer.deliver(await answer.run())

        asyncio.run(scenario())
        return platform.results["a"]

    def test_a_refused_result_is_followed_by_an_error_that_says_so(self, logged: Logged) -> None:
        platform = FakePlatform()
        whole, error = self.answered(platform, [Result({"text": "x" * 1000})], Receipt("refused", "HTTP 413", 3))
        assert len(whole) > 1000
        assert b"HTTP 413" in error
        assert logged() == [("result of 1022 bytes refused after 3 tries (HTTP 413)", "a")]

    def test_a_lost_result_is_followed_by_nothing_as_it_may_have_arrived(self) -> None:
        assert len(self.answered(FakePlatform(), [Result({"text": "x"})], Receipt("lost", "TimeoutError", 9))) == 1

    def test_a_chunk_larger_than_the_platform_takes_comes_with_the_result_alone(self, logged: Logged) -> None:
        platform = FakePlatform()
        (whole,) = self.answered(platform, [Chunk({"delta": "a"}), Result({"text": "x" * 1_000_000})], streams=True)
        assert [body for body, _ in platform.chunks] == [b'{"output":{"delta":"a"}}']
        assert len(whole) > 1_000_000
        assert logged() == [("chunk 1 of 1000022 bytes is too large to post; the result holds it", "a")]

    def test_a_stream_that_ends_in_an_error_fails_its_job(self) -> None:
        platform = FakePlatform()
        outputs: list[Output] = [Chunk({"delta": "a"}), Failed("told")]
        assert self.answered(platform, outputs, streams=True) == [b'{"error":"told"}']
        assert len(platform.chunks) == 1

    def test_after_a_lost_chunk_the_others_get_one_try_each(self) -> None:
        platform = FakePlatform()
        outputs: list[Output] = [Chunk({"index": 0}), Chunk({"index": 1}), Result({"index": 2})]
        (whole,) = self.answered(platform, outputs, DELIVERED, Receipt("lost", "TimeoutError", 9), streams=True)
        assert [tries for _, tries in platform.chunks] == [None, None, 1]
        assert whole == b'{"output":[{"index":0},{"index":1},{"index":2}]}'

    @pytest.mark.parametrize("reply", [{"error": "no prompt"}, {"text": "error"}], ids=["a key", "a text"])
    def test_an_error_in_a_reply_or_in_its_text_does_not_fail_its_job(self, reply: dict[str, Any]) -> None:
        platform = FakePlatform()
        assert self.answered(platform, [Result(reply)]) == [encode({"output": reply})]
        deltas: list[Any] = [{"index": 0, "delta": "error"}, {"index": 1, "error": "a key"}]
        (whole,) = self.answered(FakePlatform(), [*map(Chunk, deltas), Result(reply)], streams=True)
        assert whole == encode({"output": [*deltas, reply]})

    def test_a_completed_job_with_an_error_in_its_reply_is_kept_and_a_failed_one_is_not(self) -> None:
        async def scenario(*outputs: Output) -> int:
            runs = 0

            async def handler(job: Job) -> AsyncGenerator[Output, None]:
                nonlocal runs
                runs += 1
                for output in outputs:
                    yield output

            answers = Answers(FakePlatform(), handler)
            assert await answers.begin("a", job("a")).run() == await answers.begin("a", job("a")).run()
            return runs

        assert asyncio.run(scenario(Result({"error": "no prompt"}))) == 1
        assert asyncio.run(scenario(Failed("no prompt"))) == 2

    def test_a_handler_that_ends_without_a_result_fails_its_job(self, logged: Logged) -> None:
        for streams in (False, True):
            (error,) = self.answered(FakePlatform(), [Chunk({"delta": "a"})], streams=streams)
            assert json.loads(json.loads(error)["error"])["code"] == "internal"
            assert logged() == [("a defect of the worker: RuntimeError", "a")]

    def test_what_is_kept_is_bounded_and_the_oldest_goes_first(self) -> None:
        kept = ResultCache(max_bytes=10)
        for name in "abc":
            kept.keep(name, b"1234", WAY)
        kept.keep("large", b"x" * 11, WAY)
        assert [kept.get(name) for name in ("a", "b", "c", "large")] == [None] * 4
        kept.keep("d", b"1234", WAY)
        assert kept.get("d") == (b"1234", WAY)


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
        policy = RetryPolicy(give_up_s=20, refused_s=8, min_tries=least, first_pause_s=0, longest_pause_s=0)
        post = Post(cast(aiohttp.ClientSession, session), policy, lambda: session.now)
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
        encode({"output": cast(Any, odd)})


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
