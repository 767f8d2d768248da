"""An engine that says what it is told to: the real protocol, no model."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from handler.errors import WorkerError
from handler.inference.engine import (
    Delta,
    Finish,
    FinishReason,
    Prompt,
    Sampling,
    Status,
    Stream,
    Timing,
    Usage,
)


@dataclass
class ScriptedEngine:
    """Answers every request with `script`, a piece a step; `step_s` apart. Remembers what it was asked."""

    script: Sequence[str | WorkerError] = ("Hello", ", ", "world", "!")
    step_s: float = 0.0
    max_model_len: int = 1000
    seen: list[tuple[Prompt, Sampling, float | None]] = field(default_factory=list)
    #: requests that were cancelled before their script ended
    cancelled: int = 0
    running: int = 0
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    def stream(self, prompt: Prompt, sampling: Sampling, *, deadline: float | None = None) -> Stream:
        self.seen.append((prompt, sampling, deadline))
        stop = asyncio.Event()
        stream = Stream(stop.set)
        task = asyncio.get_running_loop().create_task(self._play(stream, stop, prompt, sampling, deadline))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return stream

    async def _play(
        self, stream: Stream, stop: asyncio.Event, prompt: Prompt, sampling: Sampling, deadline: float | None
    ) -> None:
        self.running += 1
        began = time.monotonic()
        reason: FinishReason = "stop"
        done = 0
        for piece in self.script:
            await asyncio.sleep(self.step_s)
            if isinstance(piece, WorkerError):
                stream.put(piece)
            if stop.is_set():
                reason, self.cancelled = "cancelled", self.cancelled + 1
            elif deadline is not None and time.monotonic() >= deadline:
                reason = "deadline"
            elif done == sampling.max_tokens:
                reason = "length"
            if reason != "stop" or isinstance(piece, WorkerError):
                break
            stream.put(Delta(piece, (done,)))
            done += 1
        self.running -= 1
        seconds = time.monotonic() - began
        stream.put(
            Finish(reason, Usage(len(prompt.token_ids), 0, done), Timing(0.0, seconds if done else None, seconds))
        )

    def status(self) -> Status:
        return Status(True, self.running, 0, 0.0)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
