"""One job: a dict in, a dict (or chunks) out. The one boundary for errors and for cancelling."""

import json
import logging
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from handler.api.enhance import EnhanceReply
from handler.api.parse import parse
from handler.api.reply import Reply, to_wire
from handler.api.text import TextReply
from handler.engine.fold import Piece
from handler.errors import Internal, Unsupported, WorkerError
from handler.operations.operations import Operations
from handler.report import JobRecord, Report

Json = dict[str, Any]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Jobs:
    """The two faces over the same line. RunPod tells them apart by the kind of function it is given.

    `answer` returns one object. `stream` yields `{"index", "delta"}` chunks and then the whole reply, from which a
    client can repair what it missed.
    """

    operations: Operations
    report: Report
    #: False where the worker serves `answer`: a request that asks to be streamed is then refused, not quietly folded
    streaming: bool
    clock: Callable[[], float] = time.monotonic

    async def answer(self, job: Mapping[str, Any]) -> Json:
        """The JSON face: fold the line to its reply."""
        whole: Json = {}
        async with aclosing(self._line(job)) as events:
            async for event in events:
                if not isinstance(event, Piece):
                    whole = event
        return whole

    async def stream(self, job: Mapping[str, Any]) -> AsyncIterator[Json]:
        """The streaming face: indexed chunks, then the reply. Text comes only where `stream` was asked for."""
        index = 0
        async with aclosing(self._line(job)) as events:
            async for event in events:
                if isinstance(event, Piece):
                    yield {"index": index, "reasoning_delta" if event.reasoning else "delta": event.text}
                    index += 1
                elif "error" in event:
                    # The SDK does not send a chunk that holds `error`; one that does not tells `/stream` why it ended.
                    yield {"index": index, "failure": json.loads(event["error"])}
                    yield event
                else:
                    yield event

    async def _line(self, job: Mapping[str, Any]) -> AsyncGenerator[Piece | Json, None]:
        """Parse, run, and turn whatever comes into what RunPod may be given."""
        started = self.clock()
        job_id = str(job.get("id", ""))
        record = JobRecord(job_id, None, "cancelled", 0)
        try:
            request = parse(job.get("input"))
            record = replace(record, operation=request.operation)
            wants_text = getattr(request, "stream", False)
            if wants_text and not self.streaming:
                raise Unsupported("this worker does not stream; it was started without STREAMING=true", field="stream")
            async with aclosing(self.operations.run(request)) as events:
                async for event in events:
                    if isinstance(event, Reply):
                        record = _with_reply(record, event)
                        yield to_wire(event)
                    elif wants_text:
                        yield event
        except WorkerError as error:
            record = replace(record, outcome=error.code)
            yield _failure(error)
        except Exception as error:
            # Where it broke, without the exception's own words: they may quote the caller.
            frames = "".join(traceback.format_tb(error.__traceback__))
            _log.error("job %s failed on a defect: %s\n%s", job_id, type(error).__name__, frames)
            record = replace(record, outcome=Internal.code)
            yield _failure(Internal("the worker failed on a defect of its own; the log of this job tells more"))
        finally:
            self.report.job_done(replace(record, total_ms=round((self.clock() - started) * 1000, 2)))


def _failure(error: WorkerError) -> Json:
    """RunPod marks a job FAILED by a top-level `error`, and keeps it whole only as text."""
    return {"error": json.dumps(error.to_wire())}


def _with_reply(record: JobRecord, reply: Reply) -> JobRecord:
    if not isinstance(reply, TextReply):
        return replace(record, outcome="ok")
    degraded = reply.enhanced.degraded if isinstance(reply, EnhanceReply) else None
    return replace(
        record,
        outcome="ok" if degraded is None else "degraded",
        reason=None if degraded is None else degraded.code,
        prompt_tokens=reply.run.usage.prompt_tokens,
        completion_tokens=reply.run.usage.completion_tokens,
        queue_ms=reply.run.timing.queue_ms,
        ttft_ms=reply.run.timing.ttft_ms,
        finish_reason=reply.run.finish_reason,
    )
