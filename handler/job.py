"""One job: its input in, pieces of text and then a reply or a failure out. The one boundary for errors and cancelling.

Makes no JSON text: the queue and the command line do.
"""

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from pydantic import JsonValue

from handler import log
from handler.api.contracts import InfoRequest
from handler.api.failure import Failure
from handler.api.parse import parse
from handler.api.replies import EnhanceReply, Reply, TextReply
from handler.engine.fold import Piece
from handler.errors import Internal, Unsupported, WorkerError
from handler.operations.run import Operations
from handler.report import JobRecord, Report

#: as the caller sent it: `id`, `input`
Job = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Jobs:
    """Runs jobs, many at a time, each in a task of its own."""

    operations: Operations
    report: Report
    #: False where clients get one object: a request that asks to be streamed is then refused, not ignored
    streaming: bool
    clock: Callable[[], float] = time.monotonic

    async def answer(self, job: Job) -> Reply | Failure:
        """The end of a job's events, for a caller who does not read pieces."""
        end: Reply | Failure = Failure.of(Internal())
        async with aclosing(self.run(job)) as events:
            async for event in events:
                if not isinstance(event, Piece):
                    end = event
        return end

    async def run(self, job: Job) -> AsyncGenerator[Piece | Reply | Failure, None]:
        """Pieces where the request asks to be streamed, then the reply or a failure. Closing it cancels the job."""
        started = self.clock()
        job_id = str(job.get("id", ""))
        log.current_job.set(job_id)
        record = JobRecord(job_id, None, "cancelled", 0)
        try:
            request = parse(job.get("input"))
            record = replace(record, operation=request.operation)
            wants_pieces = not isinstance(request, InfoRequest) and request.stream
            if wants_pieces and not self.streaming:
                raise Unsupported("this worker does not stream; it was started without STREAMING=true", field="stream")
            async with aclosing(self.operations.run(request)) as events:
                async for event in events:
                    if isinstance(event, Reply):
                        record = _with_reply(record, event)
                        yield event
                    elif wants_pieces:
                        yield event
        except WorkerError as error:
            record = replace(record, outcome=error.code)
            yield Failure.of(error)
        except Exception as error:
            log.defect(error, job_id)
            record = replace(record, outcome=Internal.code)
            yield Failure.of(Internal())
        finally:
            self.report.job_done(replace(record, total_ms=round((self.clock() - started) * 1000, 2)))


def _with_reply(record: JobRecord, reply: Reply) -> JobRecord:
    if not isinstance(reply, TextReply):
        return replace(record, outcome="ok")
    outcome, reason = ("degraded", reply.reason) if isinstance(reply, EnhanceReply) and reply.degraded else ("ok", None)
    return replace(
        record,
        outcome=outcome,
        reason=reason,
        prompt_tokens=reply.usage.prompt_tokens,
        completion_tokens=reply.usage.completion_tokens,
        queue_ms=reply.timing.queue_ms,
        ttft_ms=reply.timing.ttft_ms,
        finish_reason=reply.finish_reason,
    )
