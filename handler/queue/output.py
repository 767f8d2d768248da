"""The queue's side of a job: chunks, and at the end a result or a failure. Knows the line's events, not RunPod."""

import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import assert_never

from pydantic import JsonValue

from handler.api.failure import Failure
from handler.api.pieces import piece_to_wire
from handler.api.reply import Reply, to_wire
from handler.engine.fold import Piece
from handler.errors import WorkerError
from handler.job import Jobs
from handler.openai import errors, replies
from handler.openai.call import Call
from handler.openai.requests import wants_stream
from handler.openai.served import Served
from handler.queue.encoding import JsonObject

Job = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of the answer, sent before its end: an object, or text of server-sent events."""

    value: JsonObject | str


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a job that completed; a key `error` in `value` does not make it fail."""

    value: JsonObject | str


@dataclass(frozen=True, slots=True)
class Failed:
    """The end of a job that failed."""

    #: JSON: RunPod keeps an error whole only where it is text
    text: str

    @classmethod
    def of(cls, failure: Failure) -> "Failed":
        return cls(json.dumps(failure.to_wire()))

    @classmethod
    def by(cls, error: WorkerError) -> "Failed":
        return cls.of(Failure.of(error))


Output = Chunk | Result | Failed
#: Runs one job. A `Result` or a `Failed` is the last output.
Handler = Callable[[Job], AsyncGenerator[Output, None]]


@dataclass(frozen=True, slots=True)
class Way:
    """How the answer to one job goes to the platform."""

    #: the caller reads the answer while it comes
    wants_pieces: bool
    #: chunks are posted, the reply as the last one, and the job's result is their list
    streamed: bool
    #: The job is a call of OpenAI's API: nothing in a chunk shows that it came twice, or that one before it is missing.
    openai: bool

    @classmethod
    def of(cls, job: object) -> "Way":
        """The way that a job asks for; its input may be anything."""
        given = job.get("input") if isinstance(job, Mapping) else None
        if isinstance(given, dict) and "openai_route" in given:
            # As the official workers do: RunPod passes what is streamed on to the client of /openai, one object too.
            return cls(wants_stream(given.get("openai_input")), streamed=True, openai=True)
        wants = wants_stream(given)
        return cls(wants, streamed=wants, openai=False)

    def failure(self, failure: Failure, index: int = 0) -> Iterator[Output]:
        """The outputs that end a job with a failure; `index`: of the next chunk.

        What is streamed ends with the failure, since its reader sees chunks alone: without one an answer that is cut
        off would look like a whole one.
        """
        if not self.openai:
            if self.streamed:
                yield Chunk({"index": index, "failure": failure.to_wire()})
            yield Failed.of(failure)
            return
        if self.wants_pieces:
            yield Chunk(replies.failed(failure))
        yield Failed(json.dumps(errors.body(failure)[1]))


def handler(jobs: Jobs, served: Served) -> Handler:
    """A handler of jobs, native ones and calls of OpenAI's API."""

    def outputs(job: Job) -> AsyncGenerator[Output, None]:
        way = Way.of(job)
        return _openai(jobs, served, job, way) if way.openai else _native(jobs, job, way)

    return outputs


async def _native(jobs: Jobs, job: Job, way: Way) -> AsyncGenerator[Output, None]:
    index = 0
    async with aclosing(jobs.run(job)) as events:
        async for event in events:
            match event:
                case Piece():
                    yield Chunk(piece_to_wire(index, event))
                    index += 1
                case Reply():
                    yield Result(to_wire(event))
                case Failure():
                    for output in way.failure(event, index):
                        yield output
                case _:
                    assert_never(event)


async def _openai(jobs: Jobs, served: Served, job: Job, way: Way) -> AsyncGenerator[Output, None]:
    given = job["input"]
    assert isinstance(given, dict)
    call = Call(str(given["openai_route"]), given.get("openai_input"), served)
    async with aclosing(jobs.events(str(job.get("id", "")), call.read)) as events:
        async for event in events:
            match event:
                case Piece():
                    yield Chunk(call.chunk(event))
                case Reply():
                    yield Result(call.chunk(event) if call.streamed else call.whole(event))
                case Failure():
                    for output in way.failure(call.named(event)):
                        yield output
                case _:
                    assert_never(event)
