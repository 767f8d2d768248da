"""The one reader of an engine's stream: pieces of text as they come, then the whole completion.

Knows no request and no reply.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import assert_never

from handler.engine.stream import Delta, Finish, Logprob, Stream
from handler.engine.thinking import Thinking
from handler.errors import DeadlineExceeded, EngineFailed


@dataclass(frozen=True, slots=True)
class Piece:
    """Text as it comes: of the answer, or of the reasoning before it."""

    text: str
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer: a folded stream."""

    text: str
    #: None where thinking was not asked for
    reasoning: str | None
    token_ids: tuple[int, ...]
    #: one for each token, where the request asked for them
    logprobs: tuple[Logprob, ...]
    finish: Finish


async def fold(stream: Stream, thinking: Thinking | None = None) -> AsyncGenerator[Piece | Completion, None]:
    """Yield the text as it comes, then the completion. Closing the iterator cancels the request.

    Raises:
        DeadlineExceeded: the deadline passed before the first token.
        WorkerError: the error that the stream ended with.
    """
    answer: list[str] = []
    reasoning: list[str] = []
    token_ids: list[int] = []
    logprobs: list[Logprob] = []

    def split(text: str, *, last: bool = False) -> Iterator[Piece]:
        thought, said = ("", text) if thinking is None else thinking.flush() if last else thinking.push(text)
        if thought:
            reasoning.append(thought)
            yield Piece(thought, reasoning=True)
        if said:
            answer.append(said)
            yield Piece(said)

    try:
        async for event in stream:
            match event:
                case Delta():
                    token_ids.extend(event.token_ids)
                    logprobs.extend(event.logprobs)
                    for piece in split(event.text):
                        yield piece
                case Finish():
                    if event.reason == "deadline" and event.usage.completion_tokens == 0:
                        raise DeadlineExceeded("the deadline passed before the first token")
                    for piece in split("", last=True):
                        yield piece
                    thoughts = None if thinking is None else "".join(reasoning)
                    yield Completion("".join(answer), thoughts, tuple(token_ids), tuple(logprobs), event)
                case _:
                    assert_never(event)
    finally:
        stream.cancel()


async def whole(stream: Stream, thinking: Thinking | None = None) -> Completion:
    """The completion alone; raises as `fold` does."""
    async with aclosing(fold(stream, thinking)) as events:
        async for event in events:
            if isinstance(event, Completion):
                return event
    raise EngineFailed("the stream ended without a finish")
