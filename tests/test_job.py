"""A job: its input in, a reply or a failure out, with pieces before it where the request asks to be streamed."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from handler.api.enhance import EnhanceReply
from handler.api.failure import Failure
from handler.api.reply import Reply, to_wire
from handler.engine.fold import Piece
from handler.errors import EngineFailed, Overloaded, WorkerError
from handler.job import Jobs
from handler.openai.served import Served
from handler.operations.operations import Operations
from handler.queue.encoding import encode
from handler.queue.output import Chunk, Failed, Output, Result, handler
from handler.report import JobRecord, Report
from runpod_local import eventually
from tests.support.fakes import ScriptedEngine
from tests.support.panicking import FATAL, panicking_template

HI: dict[str, Any] = {"operation": "chat", "messages": [{"role": "user", "content": "hi"}]}
Line = Callable[[ScriptedEngine], Operations]


def answer(operations: Operations, job: dict[str, Any]) -> dict[str, Any]:
    """The reply of a job that is not streamed."""
    end = asyncio.run(Jobs(operations, Report()).answer(job))
    assert isinstance(end, Reply), end
    return to_wire(end)


def failure(operations: Operations, job: dict[str, Any]) -> Failure:
    end = asyncio.run(Jobs(operations, Report()).answer(job))
    assert isinstance(end, Failure), end
    return end


def streamed(jobs: Jobs, job: dict[str, Any]) -> AsyncGenerator[Output, None]:
    return handler(jobs, Served("scripted", "fp_1", 1))(job)


def outputs(operations: Operations, job: dict[str, Any]) -> list[Output]:
    async def gather() -> list[Output]:
        return [output async for output in streamed(Jobs(operations, Report()), job)]

    return asyncio.run(gather())


def chunks(operations: Operations, job: dict[str, Any]) -> list[dict[str, Any]]:
    """What a client of a stream reads: chunks, and the reply as the last one."""
    values: list[dict[str, Any]] = []
    for output in outputs(operations, job):
        values.append(value_of(output))
    return values


def value_of(output: Output) -> dict[str, Any]:
    """The object of a chunk or of a result."""
    assert isinstance(output, Chunk | Result), output
    assert isinstance(output.value, dict)
    return output.value


def test_the_json_face_answers_with_one_object_the_answer_first(line: Line) -> None:
    reply = answer(line(ScriptedEngine()), {"id": "j", "input": HI})
    assert list(reply)[:2] == ["success", "response"]
    assert (reply["success"], reply["response"]) == (True, "Hello, world!")
    json.dumps(reply, allow_nan=False)


def test_streamed_chunks_are_indexed_and_fold_to_the_last_one(line: Line) -> None:
    *deltas, reply = chunks(line(ScriptedEngine(step_s=0.01)), {"id": "j", "input": {**HI, "stream": True}})
    assert [chunk["index"] for chunk in deltas] == list(range(len(deltas)))
    assert len(deltas) > 1
    assert "".join(chunk["delta"] for chunk in deltas) == reply["response"] == "Hello, world!"


def test_thoughts_are_streamed_by_a_name_of_their_own() -> None:
    async def run(request: object) -> AsyncIterator[Piece]:
        yield Piece("hm", reasoning=True)
        yield Piece("yes")

    operations = cast(Operations, SimpleNamespace(run=run))
    assert chunks(operations, {"id": "j", "input": {**HI, "stream": True}}) == [
        {"index": 0, "reasoning_delta": "hm"},
        {"index": 1, "delta": "yes"},
    ]


def test_log_probabilities_come_with_the_whole_reply_and_not_with_chunks(line: Line) -> None:
    request = {**HI, "stream": True, "logprobs": True, "top_logprobs": 1}
    *deltas, reply = chunks(line(ScriptedEngine(step_s=0.01)), {"id": "j", "input": request})
    assert {key for chunk in deltas for key in chunk} == {"index", "delta"}
    assert [token["token_id"] for token in reply["logprobs"]] == [0, 1, 2, 3]
    assert set(reply["logprobs"][0]) == {"token", "bytes", "token_id", "logprob", "top"}
    assert set(reply["logprobs"][0]["top"][0]) == {"token", "bytes", "token_id", "logprob"}


def test_a_slow_consumer_gets_fewer_and_larger_chunks(line: Line) -> None:
    async def dawdle() -> list[dict[str, Any]]:
        got = []
        jobs = Jobs(line(ScriptedEngine(["x"] * 50, step_s=0.001)), Report())
        async for output in streamed(jobs, {"id": "j", "input": {**HI, "stream": True}}):
            got.append(value_of(output))
            await asyncio.sleep(0.05)
        return got

    *deltas, reply = asyncio.run(dawdle())
    assert len(deltas) < 25
    assert "".join(chunk["delta"] for chunk in deltas) == reply["response"] == "x" * 50


def test_a_request_that_does_not_ask_to_be_streamed_gets_the_reply_alone(line: Line) -> None:
    assert [chunk["response"] for chunk in chunks(line(ScriptedEngine()), {"id": "j", "input": HI})] == [
        "Hello, world!"
    ]


@pytest.mark.parametrize("job", [{"id": "j"}, {"id": "j", "input": None}, {"id": "j", "input": {"operation": "x"}}, {}])
def test_a_bad_job_is_answered_with_json_text_that_names_the_field(line: Line, job: dict[str, Any]) -> None:
    error = json.loads(Failed.of(failure(line(ScriptedEngine()), job)).text)
    assert (error["code"], error["retryable"]) == ("invalid_request", False)
    assert error["field"] in ("input", "operation")


def test_an_error_ends_a_stream_with_a_failure_chunk_and_then_the_error(line: Line) -> None:
    engine = ScriptedEngine(["a", "b", EngineFailed("broken")], step_s=0.01)
    *deltas, before_last, last = outputs(line(engine), {"id": "j", "input": {**HI, "stream": True}})
    assert "".join(value_of(chunk)["delta"] for chunk in deltas) == "ab"
    assert isinstance(last, Failed)
    assert before_last == Chunk({"index": len(deltas), "failure": json.loads(last.text)})
    assert json.loads(last.text)["code"] == "engine_failed"


SECRET = "what a user sent"


class Defect(ScriptedEngine):
    """An engine with a defect of ours, whose words quote a caller."""

    def stream(self, *args: object, **kwargs: object) -> Any:
        raise RuntimeError(SECRET)


def test_a_defect_is_answered_without_a_traceback_and_logged_without_the_words_of_the_exception(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Failed.of(failure(line(Defect()), {"id": "j-1", "input": HI})).text
    assert json.loads(text)["code"] == "internal"
    log = capsys.readouterr().err
    assert SECRET not in text + log
    assert "Traceback" not in text
    (defect, _) = map(json.loads, log.splitlines())
    assert (defect["requestId"], defect["level"]) == ("j-1", "ERROR")
    assert "RuntimeError" in defect["message"]
    assert defect["frames"][-1].endswith(" stream")


def test_a_name_that_is_no_character_does_not_spoil_the_error_text(line: Line) -> None:
    job: dict[str, Any] = {"id": "j", "input": {**HI, "\ud800": 1}}
    json.dumps(failure(line(ScriptedEngine()), job).to_wire(), ensure_ascii=False).encode()
    chunk, _ = outputs(line(ScriptedEngine()), {**job, "input": {**job["input"], "stream": True}})
    assert isinstance(chunk, Chunk)
    encode({"output": chunk.value})


def test_a_failure_leaves_out_what_has_no_value_and_is_made_of_all_that_its_error_says() -> None:
    full = Failure.of(Overloaded("full", field="prompt", retry_after_s=3))
    wire = {"code": "overloaded", "message": "full", "retryable": True, "field": "prompt", "retry_after_s": 3}
    assert full.to_wire() == wire
    assert Failure.of(EngineFailed("x")).to_wire() == {"code": "engine_failed", "message": "x", "retryable": True}


def test_cancelling_the_json_face_stops_the_engine(line: Line) -> None:
    engine = ScriptedEngine(["x"] * 1000, step_s=0.001)

    async def cancel() -> None:
        task = asyncio.create_task(Jobs(line(engine), Report()).answer({"id": "j", "input": HI}))
        await eventually(lambda: engine.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: (engine.cancelled, engine.running) == (1, 0))

    asyncio.run(cancel())


@pytest.mark.parametrize("closes", [True, False], ids=["our loop", "the SDK's own loop"])
def test_cancelling_a_job_while_a_chunk_is_posted_stops_the_engine(line: Line, closes: bool) -> None:
    """Our loop closes the generator; the SDK's drops it, and asyncio closes it."""
    engine, report, posted = ScriptedEngine(["x"] * 1000, step_s=0.001), Report(), asyncio.Event()

    async def run_job() -> None:
        generator = streamed(Jobs(line(engine), report), {"id": "j", "input": {**HI, "stream": True}})
        try:
            async for _ in generator:
                posted.set()
                await asyncio.sleep(3600)
        finally:
            if closes:
                await generator.aclose()

    async def cancel() -> None:
        task = asyncio.create_task(run_job())
        await posted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if closes:
            assert report.outcomes == {"cancelled": 1}
        await eventually(lambda: (engine.cancelled, engine.running) == (1, 0))
        assert report.outcomes == {"cancelled": 1}

    asyncio.run(cancel())


@pytest.mark.parametrize(
    ("script", "fields", "outcome"),
    [(["a"], {}, "ok"), ([EngineFailed("x")], {}, "engine_failed"), (["a"], {"top_p": 5}, "invalid_request")],
)
def test_every_job_is_counted_and_logged_without_its_content(
    line: Line,
    capsys: pytest.CaptureFixture[str],
    script: list[str | WorkerError],
    fields: dict[str, Any],
    outcome: str,
) -> None:
    report = Report()
    asyncio.run(Jobs(line(ScriptedEngine(script)), report).answer({"id": "j-7", "input": {**HI, **fields}}))
    assert report.outcomes == {outcome: 1}
    logged = json.loads(capsys.readouterr().err)
    assert logged["requestId"] == "j-7"
    assert f"outcome={outcome}" in logged["message"]


@pytest.mark.parametrize(
    ("script", "outcome", "reason"),
    [
        (["a", " fox", ", soft light"], "ok", None),
        ([EngineFailed("x")], "degraded", "engine_failed"),
        (["a", " 狐", "狸", "在", "雪"], "degraded", "language"),
    ],
)
def test_an_enhancement_that_is_not_the_models_is_counted_as_degraded_and_logged_with_the_reason(
    line: Line, capsys: pytest.CaptureFixture[str], script: list[str | WorkerError], outcome: str, reason: str | None
) -> None:
    report, engine = Report(), ScriptedEngine(script)
    job: dict[str, Any] = {
        "id": "j",
        "input": {"operation": "enhance", "prompt": "a fox", "job_type": "sdxl_image_fast"},
    }
    reply = asyncio.run(Jobs(line(engine), report).answer(job))
    assert isinstance(reply, EnhanceReply)
    degraded = reply.enhanced.degraded
    assert (None if degraded is None else degraded.code) == reason
    assert report.outcomes == {outcome: 1}
    logged = json.loads(capsys.readouterr().err)["message"]
    assert (f"outcome={outcome}" in logged, f"reason={reason}" in logged) == (True, reason is not None)


class Remembering(Report):
    """Keeps the records of its jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[JobRecord] = []

    def job_done(self, job: JobRecord) -> None:
        self.records.append(job)


def recorded(operations: Operations, request: dict[str, Any]) -> JobRecord:
    report, clock = Remembering(), iter([10.0, 10.25])
    jobs = Jobs(operations, report, clock=lambda: next(clock))
    asyncio.run(jobs.answer({"id": "j", "input": request}))
    return report.records[0]


def test_a_jobs_record_tells_what_ran_how_it_ended_and_what_it_took(line: Line) -> None:
    record = recorded(line(ScriptedEngine()), HI)
    assert (record.job_id, record.operation, record.outcome, record.finish_reason) == ("j", "chat", "ok", "stop")
    assert (record.completion_tokens, record.total_ms) == (4, 250)
    assert None not in (record.prompt_tokens or None, record.queue_ms, record.ttft_ms)


@pytest.mark.parametrize(
    ("request_", "operation", "outcome"),
    [
        ({"operation": "info"}, "info", "ok"),
        ({**HI, "dry_run": True}, "chat", "ok"),
        (HI, "chat", "internal"),
        ({**HI, "top_p": 5}, None, "invalid_request"),
    ],
)
def test_the_record_of_a_job_that_ran_no_model_says_no_tokens(
    line: Line, request_: dict[str, Any], operation: str | None, outcome: str
) -> None:
    assert recorded(line(Defect()), request_) == JobRecord("j", operation, outcome, 250)


def test_a_cancelled_job_is_counted_as_cancelled(line: Line) -> None:
    report = Report()

    async def cancel() -> None:
        engine = ScriptedEngine(["x"] * 1000, step_s=0.001)
        task = asyncio.create_task(Jobs(line(engine), report).answer({"id": "j", "input": HI}))
        await eventually(lambda: engine.running == 1)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(cancel())
    assert report.outcomes == {"cancelled": 1}


def test_a_panic_of_the_tokenizer_is_answered_as_internal_and_the_next_job_runs(
    line: Line, capfd: pytest.CaptureFixture[str]
) -> None:
    operations, report = line(ScriptedEngine()), Report()
    jobs = Jobs(Operations(replace(operations.core, template=panicking_template())), report)
    panicked = asyncio.run(jobs.answer({"id": "j", "input": {"operation": "chat", "message": FATAL}}))
    assert isinstance(panicked, Failure)
    assert (panicked.code, report.outcomes) == ("internal", {"internal": 1})
    assert isinstance(asyncio.run(jobs.answer({"id": "k", "input": HI})), Reply)
    assert "PanicException" in capfd.readouterr().err


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_ends_the_process_or_the_job_is_not_answered(line: Line, ending: type[BaseException]) -> None:
    class Ending(ScriptedEngine):
        def stream(self, *args: object, **kwargs: object) -> Any:
            raise ending

    with pytest.raises(ending):
        asyncio.run(Jobs(line(Ending()), Report()).answer({"id": "j", "input": HI}))
