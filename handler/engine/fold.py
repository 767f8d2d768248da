"""An engine's stream as pieces of text, and then the whole of it. Knows no request and no reply."""

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import assert_never

from handler.engine.stream import Delta, Finish, Logprob, Stream
from handler.engine.thinking import Thinking
from handler.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Piece:
    """Text as it comes: of the answer, or of the reasoning before it."""

    text: str
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: a folded stream."""

    text: str
    #: None where thinking was not asked for
    reasoning: str | None
    #: each token and how likely it was, where that was asked for
    drawn: list[tuple[int, Logprob]]
    finish: Finish


async def read(stream: Stream, thinking: Thinking | None) -> AsyncGenerator[Piece | Answer, None]:
    """The engine's stream as text, then the whole of it; the request is cancelled when this is closed."""
    answer: list[str] = []
    reasoning: list[str] = []
    drawn: list[tuple[int, Logprob]] = []

    def pieces(thought: str, said: str) -> Iterator[Piece]:
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
                    drawn.extend(zip(event.token_ids, event.logprobs, strict=False))
                    for piece in pieces(*(thinking.push(event.text) if thinking else ("", event.text))):
                        yield piece
                case Finish():
                    if event.reason == "deadline" and event.usage.completion_tokens == 0:
                        raise DeadlineExceeded("the deadline passed before the first token")
                    for piece in pieces(*(thinking.flush() if thinking else ("", ""))):
                        yield piece
                    yield Answer("".join(answer), "".join(reasoning) if thinking else None, drawn, event)
                case _:
                    assert_never(event)
    finally:
        stream.cancel()
