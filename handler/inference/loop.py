"""The engine thread: commands in, tokens out, errors kept to the request they belong to.

Knows requests, streams and time; what runs is the scheduler's choice, how it runs the runner's affair.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from types import MappingProxyType

import torch

from handler import log
from handler.engine.protocol import ModelInfo, Prompt, Status
from handler.engine.sampling import Sampling
from handler.engine.stream import Delta, Finish, FinishReason, Logprob, Stream
from handler.engine.text import TextStream
from handler.errors import EngineFailed, OutOfMemory, Overloaded, WorkerError
from handler.inference.draws import Draws
from handler.inference.faults import device_is_lost
from handler.inference.kv_cache import KVCache
from handler.inference.model import Model
from handler.inference.pace import Pace
from handler.inference.plan import EngineConfig
from handler.inference.request import Outbox, Request, check
from handler.inference.runner import Runner
from handler.inference.scheduler import Scheduler
from handler.inference.step import NO_ROW, Step

#: failed steps of no one request: the engine survives the first, with fresh state; this many, or a lost device, end it
FATAL_FAILURES = 2
#: an idle engine shows life this often, in seconds
IDLE_S = 1.0
#: decode graphs up to this many rows are captured before the first request, larger ones while idle
FIRST_GRAPHS = 8
#: good steps after running out of memory before steps may be large again
STEPS_TO_RELAX = 64


class BatchingEngine:
    """Runs many requests in one batch that changes from step to step; implements `Engine`.

    One thread owns the scheduler, the runner and all that a request becomes after `stream` returned. Callers reach it
    by commands alone, it reaches callers by one callback a step and event loop, and waits for nobody.
    """

    def __init__(
        self,
        model: Model,
        info: ModelInfo,
        token_bytes: Callable[[int], bytes],
        config: EngineConfig,
        *,
        tokens_in_vocab: int | None = None,
    ) -> None:
        """`token_bytes` is the tokenizer's; `tokens_in_vocab` how many ids it has, where the model has more rows."""
        self._info = info
        self._token_bytes = token_bytes
        self._config = config
        self._end_ids = frozenset(info.stop_token_ids)
        self._runner = Runner(model, info, config, tokens_in_vocab=tokens_in_vocab)
        self._scheduler: Scheduler[Request] = Scheduler(
            KVCache(config.pages, config.page_size), config.rows, config.prefill_chunk, config.prefill_alone
        )
        self._launched: deque[Draws[Request]] = deque()
        self._outbox = Outbox()
        self._pace = Pace(config.rows)
        self._steps = 0
        self._failures = 0
        self._memory_failures = 0
        self._good_steps = 0
        self._heartbeat = time.monotonic()
        # Shared with callers: who got in, what they want, and whether the door is open at all.
        self._door = threading.Lock()
        self._alive = True
        self._closing = False
        self._open: set[Request] = set()
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._warm = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # -- callers' side ---------------------------------------------------------------------------------------------

    @property
    def max_model_len(self) -> int:
        return self._config.max_model_len

    def stream(
        self, prompt: Prompt, sampling: Sampling, *, logprobs: int | None = None, deadline: float | None = None
    ) -> Stream:
        """See `Engine.stream`; on a running event loop."""
        token_ids = check(prompt, sampling, logprobs, self._info.vocab_size, self.max_model_len)
        stream = Stream(lambda: self._command(lambda: self._interrupt(request, "cancelled")))
        text = TextStream(self._token_bytes, sampling.stop)
        request = Request.of(token_ids, sampling, logprobs, deadline, stream, text, self._config.speculative_tokens)
        with self._door:
            if not self._alive:
                raise EngineFailed("the engine is closed" if self._closing else "the engine has failed")
            if len(self._open) >= self._config.rows + self._config.max_waiting:
                full = f"{self._config.rows} requests run and {self._config.max_waiting} wait already"
                raise Overloaded(full, retry_after_s=self._pace.clears_in_s(self.status()))
            self._open.add(request)
            self._command(lambda: self._scheduler.add(request))
        return stream

    def status(self) -> Status:
        details = {
            "steps": self._steps,
            **self._scheduler.counters(),
            "attention": self._runner.attention,
            "attention_reason": self._runner.attention_reason,
            "graphs": self._runner.captured,
            "step_failures": self._failures,
            "out_of_memory": self._memory_failures,
        }
        running = len(self._scheduler.running) if self._alive else 0
        waiting, age_s = max(0, len(self._open) - running), time.monotonic() - self._heartbeat
        return Status(self._alive, running, waiting, heartbeat_age_s=age_s, details=MappingProxyType(details))

    def warm_up(self, timeout_s: float) -> bool:
        """Wait until the first graphs are captured; False where that takes longer. Requests may come before."""
        return self._warm.wait(timeout_s)

    def close(self) -> None:
        with self._door:
            self._closing = True
        self._wake.set()
        self._thread.join()
        # After a fatal error the device answers nothing any more, not even this.
        if self._failures < FATAL_FAILURES:
            self._runner.close()

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._wake.set()

    # -- the engine thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._runner.capture_next(FIRST_GRAPHS):
                    self._heartbeat = time.monotonic()
                self._warm.set()
                while not self._closing and self._failures < FATAL_FAILURES:
                    self._guarded_turn()
        finally:
            self._warm.set()
            self._shut()

    def _guarded_turn(self) -> None:
        """One turn; whatever escapes it is no single request's fault, and all that run fail."""
        try:
            self._turn()
        except Exception as error:
            log.defect(error)
            self._failures += FATAL_FAILURES if device_is_lost(error) else 1
            if self._failures >= FATAL_FAILURES:
                return  # `_shut` answers everybody, and nothing is asked of the device any more
            self._launched.clear()
            for request in tuple(self._scheduler.running):
                self._end(request, EngineFailed("a step of the engine failed"))
            self._scheduler.restart()
        self._flush()

    def _turn(self) -> None:
        self._heartbeat = time.monotonic()
        while self._commands:
            self._commands.popleft()()
        if self._scheduler.idle and not self._launched:
            if not self._runner.capture_next(self._config.rows):
                self._wake.wait(IDLE_S)
                self._wake.clear()
            return
        self._expire()
        step = self._scheduler.schedule()
        if step and not self._launch(step):
            self._shrink(step)
        else:
            # A GPU is kept busy by reading a step's tokens only after the next one is launched.
            self._read(all_but=1 if step and self._config.overlap else 0)

    def _launch(self, step: Step[Request]) -> bool:
        """False where the device has too little memory for the step."""
        refused: list[Request] = []
        try:
            for request in step.admitted:
                request.started = request.started or self._heartbeat
                try:
                    self._runner.assign(request)
                except Exception as error:
                    if isinstance(error, torch.OutOfMemoryError) or device_is_lost(error):
                        raise
                    log.defect(error, request.job_id)
                    refused.append(request)
            self._launched.append(self._runner.launch(step))
        except torch.OutOfMemoryError:
            return False
        # A refused request was computed all the same: others may share its prefix. Its draw is nobody's.
        for request in refused:
            self._end(request, EngineFailed("the sampling of this request could not be set up"))
        self._steps += 1
        self._good_steps += 1
        if self._good_steps == STEPS_TO_RELAX:
            self._scheduler.relax()
        return True

    def _shrink(self, step: Step[Request]) -> None:
        """After running out of memory: try again with half the work; a second time in a row, without the largest."""
        again = self._good_steps == 0 and self._memory_failures > 0
        self._memory_failures += 1
        self._good_steps = 0
        self._read(all_but=0)
        if not again:
            self._scheduler.halve()
        elif alive := [request for request in step.sequences if not request.ended]:
            largest = max(alive, key=lambda request: request.length)
            self._end(largest, OutOfMemory("the device has too little memory for this request"))
        self._scheduler.restart()
        self._runner.free()

    def _read(self, all_but: int) -> None:
        """Wait for the tokens of launched steps, except the last `all_but` steps, and hand them out."""
        while len(self._launched) > all_but:
            drawn = self._launched.popleft().read()
            now = time.monotonic()
            for request, token, logprobs in drawn:
                # Dropped: what an ended request draws in a step that was launched before its end was seen, and what
                # was drawn after a wrong guess.
                if not request.ended and not (request.guesses and request.astray):
                    self._accept(request, token, logprobs, now)
            if settled := self._scheduler.settle():
                self._runner.correct(settled)

    def _accept(self, request: Request, token: int, logprobs: tuple[Logprob, ...], now: float) -> None:
        try:
            delta, reason = request.take(token, logprobs, self._end_ids, now)
        except Exception as error:
            log.defect(error, request.job_id)
            self._end(request, EngineFailed("the text of this request could not be decoded"))
            return
        self._outbox.put(request, delta)
        if reason is not None:
            self._end(request, request.finish(reason))

    # -- ends ------------------------------------------------------------------------------------------------------

    def _expire(self) -> None:
        for request in (*self._scheduler.running, *self._scheduler.waiting):
            if request.deadline <= self._heartbeat:
                self._interrupt(request, "deadline")

    def _interrupt(self, request: Request, reason: FinishReason) -> None:
        """End a request between two tokens, unless it ended by itself; the text it still holds back goes out first."""
        if request.ended:
            return
        if held := request.text.flush():
            self._outbox.put(request, Delta(held, ()))
        self._end(request, request.finish(reason))

    def _end(self, request: Request, event: Finish | WorkerError) -> None:
        if request.started is not None:
            self._pace.ended(time.monotonic() - request.started)
        self._outbox.put(request, event)
        self._drop(request)

    def _drop(self, request: Request) -> None:
        """Free all that a request holds, at once."""
        request.ended = True
        self._open.discard(request)
        if request.row != NO_ROW:
            self._runner.release(request.row)
        self._scheduler.remove(request)

    def _flush(self) -> None:
        """Send the events of this turn."""
        for loop in self._outbox.send():
            for request in (*self._scheduler.running, *self._scheduler.waiting):
                if request.loop is loop:
                    self._drop(request)

    def _shut(self) -> None:
        """Answer whoever is still there; nobody gets in any more."""
        with self._door:
            self._alive = False
        for request in self._open:
            request.ended = True
            failed = EngineFailed("the engine has failed")
            self._outbox.put(request, request.finish("cancelled") if self._closing else failed)
        self._open.clear()
        self._outbox.send()
