"""One job: its input in, pieces of text and then a reply or a failure out. The one boundary for errors and cancelling.

Makes no JSON text: the queue and the command line do.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from pydantic import JsonValue

from handler import log
from handler.api.enhance import EnhanceReply
from handler.api.failure import Failure
from handler.api.generate import ScoreReply
from handler.api.parse import parse
from handler.api.reply import Reply
from handler.api.requests import Request
from handler.api.text import TextReply, TextRequest
from handler.engine.fold import Piece
from handler.errors import Internal, WorkerError
from handler.openai.served import Served
from handler.operations.operations import Operations
from handler.report import JobRecord, Report

#: as the caller sent it: `id`, `input`
Job = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Jobs:
    """Runs jobs, many at a time, each in a task of its own."""

    operations: Operations
    report: Report
    clock: Callable[[], float] = time.monotonic

    def served(self) -> Served:
        """The model that runs the jobs, as OpenAI's routes name it."""
        core = self.operations.core
        return Served.of(core.model, core.engine, core.worker.version)

    async def answer(self, job: Job) -> Reply | Failure:
        """The end of a job's events, for a caller who does not read pieces."""
        end: Reply | Failure = Failure.of(Internal())
        async with aclosing(self.run(job)) as events:
            async for event in events:
                if not isinstance(event, Piece):
                    end = event
        return end

    def run(self, job: Job) -> AsyncGenerator[Piece | Reply | Failure, None]:
        """The events of a job with a native input; see `events`."""
        return self.events(str(job.get("id", "")), lambda: parse(job.get("input")))

    async def events(self, job_id: str, read: Callable[[], Request]) -> AsyncGenerator[Piece | Reply | Failure, None]:
        """Pieces where the request asks to be streamed, then the reply or a failure. Closing it cancels the job.

        `read` makes the request, or raises the `WorkerError` with which it is refused.
        """
        started = self.clock()
        log.current_job.set(job_id)
        record = JobRecord(job_id, None, "cancelled", 0)
        try:
            request = read()
            record = replace(record, operation=request.operation)
            wants_pieces = isinstance(request, TextRequest) and request.stream
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
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of a library in Rust is no Exception
            log.defect(error, job_id)
            record = replace(record, outcome=Internal.code)
            yield Failure.of(Internal())
        finally:
            self.report.job_done(replace(record, total_ms=round((self.clock() - started) * 1000, 2)))


def _with_reply(record: JobRecord, reply: Reply) -> JobRecord:
    if isinstance(reply, ScoreReply):
        usage, timing = reply.usage, reply.timing
        return replace(record, outcome="ok", prompt_tokens=usage.prompt_tokens, queue_ms=timing.queue_ms)
    if not isinstance(reply, TextReply):
        return replace(record, outcome="ok")
    run, degraded = reply.run, reply.enhanced.degraded if isinstance(reply, EnhanceReply) else None
    return replace(
        record,
        outcome="ok" if degraded is None else "degraded",
        reason=None if degraded is None else degraded.code,
        prompt_tokens=run.usage.prompt_tokens,
        completion_tokens=run.usage.completion_tokens,
        queue_ms=run.timing.queue_ms,
        ttft_ms=run.timing.ttft_ms,
        finish_reason=run.finish_reason,
    )
