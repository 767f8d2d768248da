"""The outputs of a job's handler: chunks, and at the end a result or a failure. Knows the line's events, not RunPod."""

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import assert_never

from pydantic import JsonValue

from handler.api.failure import Failure
from handler.api.pieces import piece_to_wire
from handler.api.reply import Reply, to_wire
from handler.engine.fold import Piece
from handler.errors import WorkerError
from handler.queue.encoding import JsonObject

Job = Mapping[str, JsonValue]
Event = Piece | Reply | Failure


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of the answer, sent before its end."""

    value: JsonObject


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a job that completed; a key `error` in `value` does not make it fail."""

    value: JsonObject


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


def handler(run: Callable[[Job], AsyncGenerator[Event, None]], *, streams: bool) -> Handler:
    """A handler of jobs that `run` answers; `streams` says whether clients read chunks."""

    async def outputs(job: Job) -> AsyncGenerator[Output, None]:
        index = 0
        async with aclosing(run(job)) as events:
            async for event in events:
                match event:
                    case Piece():
                        yield Chunk(piece_to_wire(index, event))
                        index += 1
                    case Reply():
                        yield Result(to_wire(event))
                    case Failure():
                        if streams:
                            # `/stream` gets chunks alone: without this one it would end without a reason.
                            yield Chunk({"index": index, "failure": event.to_wire()})
                        yield Failed.of(event)
                    case _:
                        assert_never(event)

    return outputs
