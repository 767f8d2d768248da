"""One job's answer, as messages to the platform: chunks, and then the result or the failure. Knows no HTTP."""

import asyncio
from collections import OrderedDict
from contextlib import aclosing
from typing import Protocol, assert_never

from pydantic import JsonValue

from handler import log
from handler.errors import Internal
from handler.queue.delivery import Receipt
from handler.queue.encoding import JsonObject, encode
from handler.queue.output import Chunk, Failed, Handler, Job, Result
from handler.queue.reading import Unread

#: bytes of results that are kept for jobs that the platform hands out again
KEPT_BYTES = 8 * 2**20
#: the largest chunk that RunPod takes, in bytes
MAX_CHUNK_BYTES = 1_000_000


class Channel(Protocol):
    """Sends messages to the platform. Neither method raises on a failure: the receipt says what became of it."""

    async def chunk(self, job_id: str, body: bytes, *, tries: int | None = None) -> Receipt: ...

    async def result(self, job_id: str, body: bytes, *, streamed: bool) -> Receipt: ...


class Answers:
    """Answers jobs with one handler."""

    def __init__(self, channel: Channel, handler: Handler, *, streams: bool) -> None:
        """`streams`: chunks are posted, the reply as the last one, and the job's result is their list."""
        self._channel = channel
        self._handler = handler
        self._streams = streams
        self._results = ResultCache(KEPT_BYTES)

    async def answer(self, id_: str, job: Job | Unread) -> bytes:
        """Read the job where that was left, and run it; returns the body of the message that ends it.

        Of errors only cancelling and KeyboardInterrupt pass.
        """
        if body := self._results.get(id_):
            return body
        try:
            ended = await self._run(id_, await job.read() if isinstance(job, Unread) else job)
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # a job must not end the worker; a panic of a library in Rust is no Exception
            log.defect(error, id_)
            ended = Failed.by(Internal())
        if isinstance(ended, Failed):
            # Not kept: a failed job may come again by /retry, under the same id, and has to run again.
            return failure_body(ended)
        self._results.keep(id_, ended)
        return ended

    async def deliver(self, id_: str, body: bytes) -> None:
        """Send the message that ends the job; where the platform refuses it, a failure that says so."""
        receipt = await self._channel.result(id_, body, streamed=self._streams)
        if receipt.outcome == "delivered":
            return
        outcome = f"{receipt.outcome} after {receipt.tries} tries ({receipt.problem})"
        log.warn(f"result of {len(body)} bytes {outcome}", id_)
        if receipt.outcome == "refused":
            error = Internal(f"the platform refused the result of {len(body)} bytes with {receipt.problem}")
            await self._channel.result(id_, failure_body(Failed.by(error)), streamed=self._streams)

    async def _run(self, id_: str, job: Job) -> bytes | Failed:
        """The body of the result, encoded before it is posted: one that is not JSON must fail the job, not hang it."""
        chunks = _Chunks(self._channel, id_)
        async with aclosing(self._handler(job)) as outputs:
            async for output in outputs:
                match output:
                    case Chunk():
                        if self._streams:
                            await chunks.send(output.value)
                    case Result():
                        if not self._streams:
                            return encode({"output": output.value})
                        await chunks.send(output.value)
                        return encode({"output": chunks.values})
                    case Failed():
                        return output
                    case _:
                        assert_never(output)
        raise RuntimeError("the handler ended without a result")


def failure_body(end: Failed) -> bytes:
    """The body of the message that marks a job FAILED."""
    return encode({"error": end.text})


class _Chunks:
    """The chunks of one job. The result repeats all of them, so that one that is lost costs the client nothing."""

    def __init__(self, channel: Channel, job_id: str) -> None:
        self.values: list[JsonValue] = []
        self._channel = channel
        self._job_id = job_id
        self._tries: int | None = None

    async def send(self, value: JsonObject) -> None:
        """Post a chunk, and wait until it has arrived or is given up."""
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


class ResultCache:
    """The latest results, by job id: a job that is handed out again is answered again, not run again."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._bodies: OrderedDict[str, bytes] = OrderedDict()

    def get(self, id_: str) -> bytes | None:
        return self._bodies.get(id_)

    def keep(self, id_: str, body: bytes) -> None:
        """Keep a result that is not kept yet; the oldest ones are dropped where there is too little room."""
        self._bodies[id_] = body
        self._bytes += len(body)
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._bodies.popitem(last=False)[1])
