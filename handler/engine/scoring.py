"""The score of a given text: the log-probability of each of its tokens after a prompt. Knows no tensor."""

import math
from dataclasses import dataclass

from handler.engine.stream import Delta, Finish, Logprob, Stream, Timing, Usage
from handler.errors import DeadlineExceeded, EngineFailed


@dataclass(frozen=True, slots=True)
class Scored:
    """A text, scored."""

    #: one for each token of the text, in order
    logprobs: tuple[Logprob, ...]
    #: prompt and text count as prompt tokens, and none is completed
    usage: Usage
    timing: Timing

    @property
    def sum(self) -> float:
        """The log-probability of the whole text, in nats."""
        return math.fsum(token.logprob for token in self.logprobs)

    @property
    def mean(self) -> float:
        """The log-probability of a token, in nats; exp(-mean) is the perplexity."""
        return self.sum / len(self.logprobs)


async def scored(stream: Stream) -> Scored:
    """Read the stream of a text that is scored. Cancelling the call cancels the request.

    Raises:
        DeadlineExceeded: the deadline passed before the last token was scored.
        EngineFailed: the engine was closed, or the model computed no finite log-probability for a token.
        WorkerError: the error that the stream ended with.
    """
    logprobs: list[Logprob] = []
    finish: Finish | None = None
    try:
        async for event in stream:
            if isinstance(event, Delta):
                logprobs.extend(event.logprobs)
            else:
                finish = event
    finally:
        stream.cancel()
    if finish is None or finish.reason == "cancelled":
        raise EngineFailed("the engine was closed before the text was scored; send the request again")
    if finish.reason == "deadline":
        raise DeadlineExceeded("the deadline passed before the text was scored")
    if not all(math.isfinite(token.logprob) for token in logprobs):
        raise EngineFailed("the model computed no finite log-probability for a token of the text; send it again")
    return Scored(tuple(logprobs), finish.usage, finish.timing)
