"""One job's answer, as messages to the platform: chunks, and then the result or the failure. Knows no HTTP."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import aclosing
from typing import Protocol, assert_never

from pydantic import JsonValue

from handler import log
from handler.api.failure import Failure
from handler.errors import EngineFailed, Internal, WorkerError
from handler.queue.delivery import Receipt
from handler.queue.encoding import encode
from handler.queue.joining import joined
from handler.queue.output import Chunk, Failed, Handler, Job, Result, Way
from handler.queue.reading import Unread

#: bytes of results that are kept for jobs that the platform hands out again
KEPT_BYTES = 8 * 2**20
#: the largest chunk that RunPod takes, in bytes
MAX_CHUNK_BYTES = 1_000_000


class Channel(Protocol):
    """Sends messages to the platform. Neither method raises on a failure: the receipt says what became of it."""

    async def chunk(self, job_id: str, body: bytes, *, tries: int | None = None, once: bool = False) -> Receipt:
        """`once`: the message is sent again only where it is certain that the platform did not take it."""
        ...

    async def result(self, job_id: str, body: bytes, *, streamed: bool) -> Receipt: ...


class Answers:
    """Answers jobs with one handler."""

    def __init__(self, channel: Channel, handler: Handler) -> None:
        self._channel = channel
        self._handler = handler
        self._results = ResultCache(KEPT_BYTES)

    def begin(self, id_: str, job: Job | Unread) -> "Answer":
        """The answer to a job that was taken."""
        return Answer(id_, job, self._channel, self._handler, self._results)


class Answer:
    """The answer to one job: `run`, or `fail` where that was cancelled, and then `deliver`."""

    def __init__(self, id_: str, job: Job | Unread, channel: Channel, handler: Handler, results: "ResultCache") -> None:
        self._id = id_
        self._job = job
        self._channel = channel
        self._handler = handler
        self._results = results
        # Before the job was read, the platform is told of no stream.
        self._way = Way.of(None if isinstance(job, Unread) else job)
        self._chunks = _Chunks(channel, id_)

    async def run(self) -> bytes:
        """Read the job where that was left, and run it; returns the body of the message that ends it.

        Of errors only cancelling and KeyboardInterrupt pass.
        """
        if kept := self._results.get(self._id):
            body, self._way = kept
            return body
        try:
            job = await self._job.read() if isinstance(self._job, Unread) else self._job
            self._way = Way.of(job)
            ended = await self._run(job)
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
            raise
        except _Undelivered as error:
            log.warn(f"a part of the answer may be missing ({error}): its job fails", self._id)
            return await self.fail(
                EngineFailed(f"the worker could not send a part of the answer ({error}); send the request again")
            )
        except BaseException as error:  # a job must not end the worker; a panic of a library in Rust is no Exception
            log.defect(error, self._id)
            return await self.fail(Internal())
        if isinstance(ended, Failed):
            # Not kept: a failed job may come again by /retry, under the same id, and has to run again.
            return failure_body(ended)
        self._results.keep(self._id, ended, self._way)
        return ended

    async def fail(self, error: WorkerError) -> bytes:
        """End the job with an error, a stream with one that its reader sees; returns the body of the last message."""
        for output in self._way.failure(Failure.of(error), len(self._chunks.values)):
            if isinstance(output, Failed):
                return failure_body(output)
            if isinstance(output, Chunk):
                await self._chunks.farewell(output.value, once=self._way.openai)
        raise RuntimeError("a failure has no end")

    async def deliver(self, body: bytes) -> None:
        """Send the message that ends the job; where the platform refuses it, a failure that says so."""
        receipt = await self._channel.result(self._id, body, streamed=self._way.streamed)
        if receipt.outcome == "delivered":
            return
        outcome = f"{receipt.outcome} after {receipt.tries} tries ({receipt.problem})"
        log.warn(f"result of {len(body)} bytes {outcome}", self._id)
        if receipt.outcome == "refused":
            error = Internal(f"the platform refused the result of {len(body)} bytes with {receipt.problem}")
            *_, failed = self._way.failure(Failure.of(error))
            assert isinstance(failed, Failed)
            await self._channel.result(self._id, failure_body(failed), streamed=self._way.streamed)

    async def _run(self, job: Job) -> bytes | Failed:
        """The body of the result, encoded before it is posted: one that is not JSON must fail the job, not hang it."""
        way, outputs = self._way, self._handler(job)
        async with aclosing(joined(outputs) if way.openai else outputs) as ready:
            async for output in ready:
                match output:
                    case Chunk():
                        if way.streamed:
                            await self._chunks.send(output.value, once=way.openai)
                    case Result():
                        if not way.streamed:
                            return encode({"output": output.value})
                        await self._chunks.send(output.value, once=way.openai)
                        return encode({"output": self._chunks.values})
                    case Failed():
                        return output
                    case _:
                        assert_never(output)
        raise RuntimeError("the handler ended without a result")


def failure_body(end: Failed) -> bytes:
    """The body of the message that marks a job FAILED."""
    return encode({"error": end.text})


class _Undelivered(Exception):
    """A chunk that nothing makes up for was refused, or may not have arrived."""


class _Chunks:
    """The chunks of one job. The result repeats all of them."""

    def __init__(self, channel: Channel, job_id: str) -> None:
        self.values: list[JsonValue] = []
        self._channel = channel
        self._job_id = job_id
        self._tries: int | None = None

    async def send(self, value: JsonValue, *, once: bool) -> None:
        """Post a chunk, and wait until it has arrived or is given up.

        A chunk of ours that is lost costs its reader nothing: chunks are counted, and the result repeats them all.

        Args:
            once: its reader sees neither that it came twice nor that it is missing.

        Raises:
            _Undelivered: with `once`, it is not certain that it arrived.
        """
        if once:
            for part in _parts(value):
                await self._send_once(part)
            return
        number = len(self.values)
        self.values.append(value)
        body = encode({"output": value})
        if len(body) > MAX_CHUNK_BYTES:
            log.warn(f"chunk {number} of {len(body)} bytes is too large to post; the result holds it", self._job_id)
            return
        receipt = await self._channel.chunk(self._job_id, body, tries=self._tries)
        if receipt.outcome != "delivered":
            # A channel that has failed for so long gets no second long wait.
            self._tries = 1
            log.warn(f"chunk {number} {receipt.outcome} ({receipt.problem}); the result holds it", self._job_id)

    async def farewell(self, value: JsonValue, *, once: bool) -> None:
        """Post the last chunk of a job that fails: one try, since the job's own end follows in any case."""
        self.values.append(value)
        receipt = await self._channel.chunk(self._job_id, encode({"output": value}), tries=1, once=once)
        if receipt.outcome != "delivered":
            log.warn(f"the stream's error {receipt.outcome} ({receipt.problem})", self._job_id)

    async def _send_once(self, value: JsonValue) -> None:
        self.values.append(value)
        receipt = await self._channel.chunk(self._job_id, encode({"output": value}), once=True)
        if receipt.outcome != "delivered":
            raise _Undelivered(f"chunk {len(self.values) - 1} {receipt.outcome}, {receipt.problem}")


def _parts(value: JsonValue) -> Iterator[JsonValue]:
    """A value that the platform takes, or texts that it does; it writes texts one after the other to the caller.

    That it does so with texts that are cut anywhere is known of the official vLLM worker, whose chunks are what a
    socket read at a time; of one object as texts it is assumed.
    """
    if len(encode({"output": value})) <= MAX_CHUNK_BYTES:
        yield value
        return
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Of a text every character may be escaped, in at most six bytes.
    size = MAX_CHUNK_BYTES // 6 - 100
    yield from (text[start : start + size] for start in range(0, len(text), size))


class ResultCache:
    """The latest results, by job id: a job that is handed out again is answered again, not run again."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[bytes, Way]] = OrderedDict()

    def get(self, id_: str) -> tuple[bytes, Way] | None:
        return self._kept.get(id_)

    def keep(self, id_: str, body: bytes, way: Way) -> None:
        """Keep a result that is not kept yet; the oldest ones are dropped where there is too little room."""
        self._kept[id_] = body, way
        self._bytes += len(body)
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._kept.popitem(last=False)[1][0])
