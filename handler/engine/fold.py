"""The one reader of an engine's stream: pieces of text as they come, then the whole completion.

Knows no request and no reply.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import assert_never

from handler.engine.stream import Delta, Finish, Logprob, Stream
from handler.errors import DeadlineExceeded, EngineFailed


@dataclass(frozen=True, slots=True)
class Piece:
    """Text as it comes: of the answer, or of the reasoning before it."""

    text: str
    reasoning: bool = False
    #: which of the `n` answers it belongs to, from 0; None where the request asked for one alone
    variant: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer: a folded stream."""

    text: str
    #: None where no think block was looked for
    reasoning: str | None
    token_ids: tuple[int, ...]
    #: one for each token, where the request asked for them
    logprobs: tuple[Logprob, ...]
    finish: Finish


async def fold(stream: Stream) -> AsyncGenerator[Piece | Completion, None]:
    """Yield the text as it comes, then the completion. Closing the iterator cancels the request.

    Raises:
        DeadlineExceeded: the deadline passed before the first token.
        WorkerError: the error that the stream ended with.
    """
    answer: list[str] = []
    reasoning: list[str] = []
    token_ids: list[int] = []
    logprobs: list[Logprob] = []

    try:
        async for event in stream:
            match event:
                case Delta():
                    token_ids.extend(event.token_ids)
                    logprobs.extend(event.logprobs)
                    if event.reasoning:
                        reasoning.append(event.reasoning)
                        yield Piece(event.reasoning, reasoning=True)
                    if event.text:
                        answer.append(event.text)
                        yield Piece(event.text)
                case Finish():
                    if event.reason == "deadline" and event.usage.completion_tokens == 0:
                        raise DeadlineExceeded("the deadline passed before the first token")
                    thoughts = None if event.reasoning_cut is None else "".join(reasoning)
                    yield Completion("".join(answer), thoughts, tuple(token_ids), tuple(logprobs), event)
                case _:
                    assert_never(event)
    finally:
        stream.cancel()


async def whole(stream: Stream) -> Completion:
    """The completion alone; raises as `fold` does."""
    async with aclosing(fold(stream)) as events:
        async for event in events:
            if isinstance(event, Completion):
                return event
    raise EngineFailed("the stream ended without a finish")
