"""One job's answer: what its handler gives, as messages that arrive. A result, however it ends; chunks on the way.

Knows a handler's two kinds and what the platform makes of their outputs; knows no HTTP and no other job.
"""

import inspect
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol, cast

from handler.errors import Internal
from handler.queue.delivery import Receipt
from handler.queue.encoding import NotJson, encode, failure

Job = Mapping[str, Any]
Output = dict[str, Any]
Handler = Callable[[Job], Awaitable[Output]] | Callable[[Job], AsyncIterator[Output]]

#: Results kept for jobs that are handed out again, in bytes
KEPT = 8 * 2**20


#: What RunPod takes of a chunk, in bytes
CHUNK = 1_000_000


class Channel(Protocol):
    """The way to the platform. Posting raises nothing: the receipt tells."""

    async def chunk(self, job_id: str, body: bytes, *, tries: int | None = None) -> Receipt: ...

    async def result(self, job_id: str, body: bytes, *, streamed: bool) -> Receipt: ...

    def warn(self, message: str, job_id: str | None = None) -> None:
        """One line in the worker's log."""
        ...


class Answers:
    """Answers jobs with one handler; a generator function streams."""

    def __init__(self, channel: Channel, handler: Handler) -> None:
        self._channel = channel
        self._handler = handler
        self._streams = inspect.isasyncgenfunction(handler)
        self._kept = Kept(KEPT)

    async def to(self, id_: str, job: Job) -> bytes:
        """The message that ends the job; raises nothing but CancelledError."""
        if body := self._kept.get(id_):
            return body
        message = await self._message(id_, job)
        # Encoded before anything is posted: what cannot be sent must not leave the job hanging.
        try:
            body = encode(message)
        except NotJson as error:
            message = self._defect(id_, f"its result is not JSON ({error})")
            body = encode(message)
        if "error" not in message:
            # A job that failed may come again by /retry, under the same id, and is then to run again.
            self._kept.keep(id_, body)
        return body

    async def deliver(self, id_: str, body: bytes) -> None:
        """Send the message that ends the job; what cannot be sent is told by its size."""
        receipt = await self._channel.result(id_, body, streamed=self._streams)
        if receipt.outcome == "delivered":
            return
        told = f"{receipt.outcome} after {receipt.tries} tries ({receipt.problem})"
        self._channel.warn(f"result of {len(body)} bytes {told}", id_)
        if receipt.outcome == "refused":
            error = Internal(f"the platform refused the result of {len(body)} bytes with {receipt.problem}")
            await self._channel.result(id_, encode(failure(error)), streamed=self._streams)

    async def _message(self, id_: str, job: Job) -> Output:
        try:
            if self._streams:
                return await self._stream(id_, cast(AsyncGenerator[Output, None], self._handler(job)))
            output = await cast(Awaitable[Output], self._handler(job))
            return output if "error" in output else {"output": output}
        except (Exception, SystemExit) as error:  # no job ends the worker
            return self._defect(id_, f"its handler raised {type(error).__name__}")

    async def _stream(self, id_: str, outputs: AsyncGenerator[Output, None]) -> Output:
        whole: list[Output] = []
        tries = None
        async with aclosing(outputs):
            async for output in outputs:
                if "error" in output:
                    return output
                whole.append(output)
                body = encode({"output": output})
                if len(body) > CHUNK:
                    told = f"chunk {len(whole) - 1} of {len(body)} bytes comes with the result alone"
                    self._channel.warn(told, id_)
                    continue
                receipt = await self._channel.chunk(id_, body, tries=tries)
                if receipt.outcome != "delivered":
                    # The result carries all of it. A channel that was dead for so long gets no second long wait.
                    tries = 1
                    self._channel.warn(f"chunk {len(whole) - 1} {receipt.outcome} ({receipt.problem})", id_)
        return {"output": whole}

    def _defect(self, id_: str, what: str) -> Output:
        self._channel.warn(f"failed on a defect: {what}", id_)
        return failure(Internal("the worker failed on a defect of its own; the log of this job tells more"))


class Kept:
    """The latest results, by job id: a job that is handed out again is answered again, not run again."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._bodies: OrderedDict[str, bytes] = OrderedDict()

    def get(self, id_: str) -> bytes | None:
        return self._bodies.get(id_)

    def keep(self, id_: str, body: bytes) -> None:
        """Keep a result that is not kept yet."""
        self._bodies[id_] = body
        self._bytes += len(body)
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._bodies.popitem(last=False)[1])
