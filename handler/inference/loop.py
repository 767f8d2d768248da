"""The engine thread: takes commands, sends tokens, and fails only the request that an error belongs to.

Knows requests, streams and time. The scheduler decides what a step computes, the runner computes it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from types import MappingProxyType

import torch
from pydantic import JsonValue

from handler import log
from handler.engine.histogram import Latency
from handler.engine.protocol import ModelInfo, Prompt, Status
from handler.engine.sampling import Sampling
from handler.engine.scoring import Scored, scored
from handler.engine.stream import Delta, Finish, FinishReason, Logprob, Stream
from handler.engine.text import TextStream
from handler.engine.thinking import Thinking
from handler.errors import EngineFailed, OutOfMemory, Overloaded, StartError, WorkerError
from handler.inference.config import EngineConfig
from handler.inference.draws import Draws
from handler.inference.faults import device_is_lost, out_of_memory
from handler.inference.graphs import FIRST_GRAPHS
from handler.inference.kv_cache import KVCache
from handler.inference.model import Model
from handler.inference.pace import Pace
from handler.inference.request import Outbox, Request, check, check_score, salt_of
from handler.inference.runner import Runner
from handler.inference.scheduler import Scheduler
from handler.inference.step import NO_ROW, Step
from handler.ops.parts import Parts

#: failed steps, caused by no single request, that end the engine. After fewer it goes on with fresh state. A lost
#: device ends it at once.
FATAL_FAILURES = 2
#: seconds between two heartbeats of an idle engine
IDLE_S = 1.0
#: steps between two captures while requests run; an idle engine captures one graph after the other
STEPS_TO_CAPTURE = 8
#: successful steps after running out of memory before steps may be large again
STEPS_TO_RELAX = 64

# Messages to callers.
CLOSED = "the engine is closed; send the request again"
FAILED = "the engine has failed; send the request again"
STEP_FAILED = "a step of the engine failed; send the request again"
TOO_LARGE = "the device has too little memory for this request; try again, shorten the prompt or lower max_tokens"
UNASSIGNED = "the sampling of this request could not be set up; check its sampling options"
UNDECODED = "the text of this request could not be decoded; send it again"


class BatchingEngine:
    """Runs many requests in one batch that changes from step to step; implements `Engine`.

    One thread owns the scheduler, the runner and each request after `stream` has returned. Callers send it commands; it
    sends callers one callback for each step and event loop, and never waits for them.
    """

    def __init__(
        self,
        model: Model,
        info: ModelInfo,
        token_bytes: Callable[[int], bytes],
        config: EngineConfig,
        *,
        tokens_in_vocab: int | None = None,
        check: Callable[[Parts], Parts] | None = None,
    ) -> None:
        """Start the engine thread.

        `token_bytes` gives the bytes that a token id adds to the text. `tokens_in_vocab` is how many ids have a token;
        None means every row of the model's vocabulary. `check` gets the implementation of each part of a step and
        returns the one that runs; it is called once on the engine thread, in inference mode, before the first capture,
        and an error that it raises ends the start.
        """
        self._info = info
        self._shared_prompt = model.shape.shared_prompt
        self._token_bytes = token_bytes
        self._config = config
        self._end_ids = frozenset(info.stop_token_ids)
        self._runner = Runner(model, info, config, tokens_in_vocab=tokens_in_vocab)
        self._scheduler: Scheduler[Request] = Scheduler(
            KVCache(config.pages, config.page_size),
            config.rows,
            config.prefill_chunk,
            config.prefill_alone,
            config.prefill_contexts,
        )
        self._launched: deque[Draws[Request]] = deque()
        self._outbox = Outbox()
        self._pace = Pace(config.rows)
        self._latency = Latency()
        self._steps = 0
        self._captured_at = 0
        self._failures = 0
        self._memory_failures = 0
        self._good_steps = 0
        self._heartbeat = time.monotonic()
        # Shared with callers: the requests that were admitted, the commands, and whether requests are admitted.
        self._admission = threading.Lock()
        self._alive = True
        self._closing = False
        self._open: set[Request] = set()
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._check = check
        self._warm = threading.Event()
        self._settled = threading.Event()
        self._broken: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # -- called by callers ------------------------------------------------------------------------------------------

    @property
    def max_model_len(self) -> int:
        return self._config.max_model_len

    def stream(
        self, prompt: Prompt, sampling: Sampling, *, logprobs: int | None = None, deadline: float | None = None
    ) -> Stream:
        """See `Engine.stream`; must be called on a running event loop."""
        token_ids = check(prompt, sampling, logprobs, self._info.vocab_size, self.max_model_len)
        stream = Stream(lambda: self._command(lambda: self._interrupt(request, "cancelled")))
        thought = prompt.thought
        text = TextStream(self._token_bytes, sampling.stop, Thinking(thought.opened) if thought else None)
        guesses = self._config.speculative_tokens
        request = Request.of(
            token_ids, sampling, logprobs, deadline, stream, text, guesses, salt_of(prompt, self._shared_prompt),
            end_ids=self._end_ids.union(prompt.end_ids, sampling.stop_token_ids),
            closing=thought.closing if thought else (),
        )  # fmt: skip
        self._enqueue(request)
        return stream

    async def score(
        self, prompt: Prompt, text: tuple[int, ...], *, top: int = 0, deadline: float | None = None
    ) -> Scored:
        """See `Engine.score`."""
        token_ids = check_score(prompt, text, top, self._info.vocab_size, self.max_model_len)
        stream = Stream(lambda: self._command(lambda: self._interrupt(request, "cancelled")))
        no_text = TextStream(self._token_bytes, ())
        salt = salt_of(prompt, self._shared_prompt)
        request = Request.to_score(token_ids, len(prompt.token_ids), top, deadline, stream, no_text, salt)
        self._enqueue(request)
        return await scored(stream)

    def _enqueue(self, request: Request) -> None:
        """Hand a request to the engine thread; raises `Overloaded` or `EngineFailed` where it takes none."""
        with self._admission:
            if not self._alive:
                raise EngineFailed(CLOSED if self._closing else FAILED)
            if len(self._open) >= self._config.rows + self._config.max_waiting:
                full = f"the queue is full ({self._config.rows} requests run, {self._config.max_waiting} wait)"
                raise Overloaded(f"{full}; try again later", retry_after_s=self._pace.retry_after_s(self.status()))
            self._open.add(request)
            self._command(lambda: self._scheduler.add(request))

    def status(self) -> Status:
        parts = self._runner.parts
        details: dict[str, JsonValue] = {
            "steps": self._steps,
            **self._scheduler.counters(),
            "attention": "paged_kernel" if parts.decode else "paged_reference",
            "attention_reason": parts.reasons["decode"],
            "parts": parts.describe(),
            "graphs": list(self._runner.captured),
            "graphs_reason": self._runner.graphs_reason,
            "step_failures": self._failures,
            "out_of_memory": self._memory_failures,
        }
        running = len(self._scheduler.running) if self._alive else 0
        waiting, age_s = max(0, len(self._open) - running), time.monotonic() - self._heartbeat
        return Status(self._alive, running, waiting, age_s, MappingProxyType(details), self._latency)

    def warm_up(self, timeout_s: float) -> bool:
        """Wait until the first graphs are captured; False after `timeout_s` seconds. Requests may arrive before.

        Raises:
            StartError: the engine failed before that; its cause is the error.
        """
        warm = self._warm.wait(timeout_s)
        match self._broken:
            case None:
                return warm
            case StartError():
                raise self._broken
            case error:
                first, *_ = str(error).splitlines() or [""]  # quotes no caller: no request has run
                raise StartError(
                    f"the engine failed in its warm-up ({type(error).__name__}: {first}): start another worker; if all "
                    "fail, set ATTENTION=reference"
                ) from error

    def settled(self, timeout_s: float) -> bool:
        """Wait until no graph is left to capture, or the engine has ended; False after `timeout_s` seconds.

        No other thread may synchronise the device before that: CUDA forbids it while a graph is captured.
        """
        return self._settled.wait(timeout_s)

    def close(self) -> None:
        with self._admission:
            self._closing = True
        self._wake.set()
        self._thread.join()
        # After a fatal error every call to the device may hang, this one too.
        if self._failures < FATAL_FAILURES:
            self._runner.close()

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._wake.set()

    # -- the engine thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                self._warm_up()
                self._warm.set()
                while not self._closing and self._failures < FATAL_FAILURES:
                    self._guarded_turn()
        finally:
            self._warm.set()
            self._shut()
            self._settled.set()

    def _warm_up(self) -> None:
        """Check the parts and capture the first graphs; an error ends the engine, for no step would do better."""
        try:
            if self._check is not None:
                self._runner.use(self._check(self._runner.parts))
            while not self._closing and self._runner.capture_next(FIRST_GRAPHS):
                self._heartbeat = time.monotonic()
        except Exception as error:
            if not isinstance(error, StartError):
                log.defect(error)
            self._broken = error
            self._failures = FATAL_FAILURES

    def _guarded_turn(self) -> None:
        """One turn. An error that it raises belongs to no single request: all running requests fail."""
        try:
            self._turn()
        except Exception as error:
            log.defect(error)
            self._failures += FATAL_FAILURES if device_is_lost(error) else 1
            if self._failures >= FATAL_FAILURES:
                return  # `_shut` ends all requests, and the device is not used any more
            self._launched.clear()
            for request in tuple(self._scheduler.running):
                self._end(request, EngineFailed(STEP_FAILED))
            self._scheduler.restart()
        self._flush()

    def _turn(self) -> None:
        self._heartbeat = time.monotonic()
        while self._commands:
            self._commands.popleft()()
        if self._scheduler.idle and not self._launched:
            if not self._capture():
                self._wake.wait(IDLE_S)
                self._wake.clear()
            return
        # Under steady load the engine is never idle. A capture takes about as long as a few steps.
        if self._steps - self._captured_at >= STEPS_TO_CAPTURE:
            self._capture()
        self._expire()
        step = self._scheduler.schedule()
        if step and not self._launch(step):
            self._shrink(step)
        else:
            # A GPU is kept busy by reading a step's tokens only after the next one is launched.
            self._read(all_but=1 if step and self._config.overlap else 0)

    def _capture(self) -> bool:
        """Capture the next graph; False where none is left."""
        self._captured_at = self._steps
        left = self._runner.capture_next(self._config.rows)
        if not left:
            self._settled.set()
        return left

    def _launch(self, step: Step[Request]) -> bool:
        """False where the device has too little memory for the step."""
        refused: list[Request] = []
        try:
            for request in step.admitted:
                request.started = request.started or self._heartbeat
                try:
                    self._runner.assign(request)
                except Exception as error:
                    if out_of_memory(error) or device_is_lost(error):
                        raise
                    log.defect(error, request.job_id)
                    refused.append(request)
            self._launched.append(self._runner.launch(step))
        except Exception as error:
            if not out_of_memory(error):
                raise
            return False
        # The step has computed a refused request too, and others may share its prefix. Its draw is dropped.
        for request in refused:
            self._end(request, EngineFailed(UNASSIGNED))
        self._steps += 1
        self._good_steps += 1
        if self._good_steps == STEPS_TO_RELAX:
            self._scheduler.relax()
        return True

    def _shrink(self, step: Step[Request]) -> None:
        """After running out of memory: try again with half the work, and the next time without the largest request."""
        again = self._good_steps == 0 and self._memory_failures > 0
        self._memory_failures += 1
        self._good_steps = 0
        self._scheduler.withdraw(step)
        self._read(all_but=0)  # the steps before are done from here on, and their pages right
        if not again:
            self._scheduler.halve()
        elif alive := [request for request in step.sequences if not request.ended]:
            largest = max(alive, key=lambda request: max(request.length, len(request.tokens)))
            self._end(largest, OutOfMemory(TOO_LARGE))
        self._scheduler.restart(forget=False)
        self._runner.free()

    def _read(self, all_but: int) -> None:
        """Wait for the tokens of the launched steps except the last `all_but`, and send them to their requests."""
        while len(self._launched) > all_but:
            launched = self._launched.popleft()
            drawn = launched.read()
            now = time.monotonic()
            for request, scores in launched.read_scores():
                if not request.ended:
                    self._send(request, *request.score(scores))
            for request, token, logprobs in drawn:
                # Three kinds of draws are dropped: those of a request that ended after the step was launched, those in
                # whose place tokens were put in, and those after a wrong guess.
                if request.dropped:
                    request.dropped -= 1
                elif not request.ended and not (request.guesses and request.mispredicted):
                    self._accept(request, token, logprobs, now)
            if settled := self._scheduler.settle():
                self._runner.correct(settled)

    def _accept(self, request: Request, token: int, logprobs: tuple[Logprob, ...], now: float) -> None:
        self._latency.token(now, arrived=request.arrived, last=request.last_token)
        try:
            delta, reason = request.take(token, logprobs, now)
            closing = request.close_thought() if reason is None and request.thought_is_full else None
        except Exception as error:
            log.defect(error, request.job_id)
            self._end(request, EngineFailed(UNDECODED))
            return
        self._send(request, delta, reason)
        if closing is not None:
            self._outbox.put(request, closing)
            self._scheduler.put_in(request, closing.token_ids)

    def _send(self, request: Request, delta: Delta, reason: FinishReason | None) -> None:
        self._outbox.put(request, delta)
        if reason is not None:
            self._end(request, request.finish(reason))

    # -- ends ------------------------------------------------------------------------------------------------------

    def _expire(self) -> None:
        for request in (*self._scheduler.running, *self._scheduler.waiting):
            if request.deadline <= self._heartbeat:
                self._interrupt(request, "deadline")

    def _interrupt(self, request: Request, reason: FinishReason) -> None:
        """End a request between two tokens unless it has ended; the text that it holds back is sent first."""
        if request.ended:
            return
        if (rest := request.rest()) != Delta("", ()):
            self._outbox.put(request, rest)
        self._end(request, request.finish(reason))

    def _end(self, request: Request, event: Finish | WorkerError) -> None:
        if request.started is not None:
            self._pace.ended(time.monotonic() - request.started)
        self._outbox.put(request, event)
        self._drop(request)

    def _drop(self, request: Request) -> None:
        """Free the row and the pages of a request at once."""
        request.ended = True
        self._open.discard(request)
        if request.row != NO_ROW:
            self._runner.release(request.row)
        self._scheduler.remove(request)

    def _flush(self) -> None:
        """Send the events of this turn; requests of a closed event loop are dropped."""
        for loop in self._outbox.send():
            for request in (*self._scheduler.running, *self._scheduler.waiting):
                if request.loop is loop:
                    self._drop(request)

    def _shut(self) -> None:
        """Refuse new requests, and end all that are left."""
        with self._admission:
            self._alive = False
        for request in self._open:
            request.ended = True
            self._outbox.put(request, request.finish("cancelled") if self._closing else EngineFailed(FAILED))
        self._open.clear()
        self._outbox.send()
