"""An engine that says what it is told to: the real protocol, no model."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from handler.engine.protocol import Prompt, Status
from handler.engine.sampling import Sampling
from handler.engine.scoring import Scored
from handler.engine.stream import Delta, Finish, FinishReason, Logprob, Stream, Timing, Usage
from handler.engine.text import TextStream
from handler.engine.thinking import Thinking
from handler.errors import DeadlineExceeded, EngineFailed, WorkerError
from handler.inference.request import check, check_score


@dataclass
class ScriptedEngine:
    """Answers every request with `script`, a piece a token, `step_s` apart. Remembers what it was asked.

    Scores token i of a text by `scores`, from prompt, text and i.
    """

    script: Sequence[str | WorkerError] = ("Hello", ", ", "world", "!")
    step_s: float = 0.0
    max_model_len: int = 1000
    seen: list[tuple[Prompt, Sampling, float | None]] = field(default_factory=list)
    scores: Callable[[tuple[int, ...], tuple[int, ...], int], float] = lambda prompt, text, at: -math.log(2)
    #: prompt and text of each
    seen_scores: list[tuple[Prompt, tuple[int, ...]]] = field(default_factory=list)
    #: requests that were cancelled before their script ended
    cancelled: int = 0
    running: int = 0
    closed: bool = False
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    def stream(
        self, prompt: Prompt, sampling: Sampling, *, logprobs: int | None = None, deadline: float | None = None
    ) -> Stream:
        if self.closed:
            raise EngineFailed("the engine is closed")
        check(prompt, sampling, logprobs, vocab_size=1 << 20, max_model_len=self.max_model_len)
        self.seen.append((prompt, sampling, deadline))
        stop = asyncio.Event()
        stream = Stream(stop.set)
        task = asyncio.get_running_loop().create_task(self._play(stream, stop, prompt, sampling, logprobs, deadline))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return stream

    async def score(
        self, prompt: Prompt, text: tuple[int, ...], *, top: int = 0, deadline: float | None = None
    ) -> Scored:
        if self.closed:
            raise EngineFailed("the engine is closed")
        ids = check_score(prompt, text, top, vocab_size=1 << 20, max_model_len=self.max_model_len)
        self.seen_scores.append((prompt, text))
        await asyncio.sleep(self.step_s)
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineExceeded("the deadline passed")
        logprobs = tuple(
            Logprob(self.scores(prompt.token_ids, text, at), likely(token, top).top) for at, token in enumerate(text)
        )
        return Scored(logprobs, Usage(len(ids), 0, 0), Timing(0.0, None, self.step_s))

    async def _play(
        self,
        stream: Stream,
        cancel: asyncio.Event,
        prompt: Prompt,
        sampling: Sampling,
        logprobs: int | None,
        deadline: float | None,
    ) -> None:
        self.running += 1
        began = time.monotonic()
        thinking = Thinking(prompt.thought.opened) if prompt.thought else None
        text = TextStream(lambda index: str(self.script[index]).encode(), sampling.stop, thinking)
        reason: FinishReason | None = None
        done = 0
        while reason is None:
            await asyncio.sleep(self.step_s)
            if cancel.is_set():
                reason, self.cancelled = "cancelled", self.cancelled + 1
            elif deadline is not None and time.monotonic() >= deadline:
                reason = "deadline"
            elif done == len(self.script) or text.stopped:
                reason = "stop"
            elif done == sampling.max_tokens:
                reason = "length"
            elif isinstance(piece := self.script[done], WorkerError):
                stream.put(piece)
                break
            else:
                reasoning, answer = text.push(done)
                entries = () if logprobs is None else (likely(done, logprobs),)
                stream.put(Delta(answer, (done,), entries, reasoning))
                done += 1
        self.running -= 1
        reasoning, answer = text.flush(cut=reason != "stop")
        stream.put(Delta(answer, (), (), reasoning))
        seconds = time.monotonic() - began
        usage = Usage(len(prompt.token_ids), 0, done)
        timing = Timing(0.0, seconds if done else None, seconds)
        stream.put(Finish(reason or "stop", usage, timing, False if thinking else None))

    def status(self) -> Status:
        return Status(not self.closed, self.running, 0, 0.0)

    def close(self) -> None:
        self.closed = True


def likely(token: int, alternatives: int) -> Logprob:
    """A half for the token itself, a quarter for the next, and so on."""
    return Logprob(-math.log(2), tuple((token + rank, -math.log(2) * (rank + 1)) for rank in range(alternatives)))
