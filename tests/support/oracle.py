"""`model.generate` behind the Engine protocol, one request at a time: the simplest true engine, slow and hard to doubt.

Tests hold the batching engine against it.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from handler.engine.protocol import ModelInfo, Prompt, Status
from handler.engine.sampling import Sampling
from handler.engine.scoring import Scored
from handler.engine.stream import Delta, Finish, FinishReason, Logprob, Stream, Timing, Usage
from handler.engine.text import TextStream
from handler.errors import ContextLengthExceeded, DeadlineExceeded, EngineFailed, InvalidRequest, WorkerError
from handler.inference.request import check_score


class SerialEngine:
    """One thread, one `model.generate` at a time."""

    def __init__(self, model: PreTrainedModel, info: ModelInfo, token_bytes: Callable[[int], bytes]) -> None:
        self._model = model
        self._info = info
        self._token_bytes = token_bytes
        self._thread = ThreadPoolExecutor(1, "serial-engine")
        self._waiting = 0
        self._running = 0
        self._closed = threading.Event()
        self._heartbeat = time.monotonic()

    @property
    def max_model_len(self) -> int:
        return self._info.context_length

    def stream(
        self, prompt: Prompt, sampling: Sampling, *, logprobs: int | None = None, deadline: float | None = None
    ) -> Stream:
        if self._closed.is_set():
            raise EngineFailed("the engine is closed")
        if not prompt.token_ids or not all(0 <= id_ < self._info.vocab_size for id_ in prompt.token_ids):
            raise InvalidRequest("a prompt has at least one token, all in the vocabulary", field="prompt")
        if len(prompt.token_ids) + sampling.max_tokens > self.max_model_len:
            raise ContextLengthExceeded("prompt and answer do not fit")
        cancelled = threading.Event()
        stream = Stream(cancelled.set)
        loop = asyncio.get_running_loop()

        def put(event: Delta | Finish | WorkerError) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(stream.put, event)

        self._waiting += 1
        self._thread.submit(self._answer, _Run(self, prompt, sampling, logprobs, deadline, cancelled, put))
        return stream

    async def score(
        self, prompt: Prompt, text: tuple[int, ...], *, top: int = 0, deadline: float | None = None
    ) -> Scored:
        """By one plain forward over the whole sequence, and log_softmax."""
        if self._closed.is_set():
            raise EngineFailed("the engine is closed")
        ids = check_score(prompt, text, top, self._info.vocab_size, self.max_model_len)
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        logprobs = await loop.run_in_executor(self._thread, log_probabilities, self._model, ids, len(text), top)
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineExceeded("the deadline passed")
        return Scored(logprobs, Usage(len(ids), 0, 0), Timing(0.0, None, time.monotonic() - began))

    def status(self) -> Status:
        return Status(not self._closed.is_set(), self._running, self._waiting, time.monotonic() - self._heartbeat)

    def close(self) -> None:
        self._closed.set()
        self._thread.shutdown()

    def _answer(self, run: "_Run") -> None:
        self._waiting -= 1
        self._running += 1
        try:
            run.put(run.generate())
        except Exception as error:
            run.put(EngineFailed(f"generate raised {type(error).__name__}"))
        finally:
            self._running -= 1


class _Run(StoppingCriteria):
    """One request, from its turn to its end. Called by `generate` after each token."""

    def __init__(
        self,
        engine: SerialEngine,
        prompt: Prompt,
        sampling: Sampling,
        logprobs: int | None,
        deadline: float | None,
        cancelled: threading.Event,
        put: Callable[[Delta | Finish | WorkerError], None],
    ) -> None:
        self._engine = engine
        self._prompt = prompt
        self._sampling = sampling
        self._logprobs = logprobs
        self._deadline = deadline
        self._cancelled = cancelled
        self.put = put
        self._text = TextStream(engine._token_bytes, sampling.stop)
        self._submitted = time.monotonic()
        self._tokens = 0
        self._ttft: float | None = None
        self._reason: FinishReason | None = None

    def generate(self) -> Finish:
        queue = time.monotonic() - self._submitted
        if self._interrupted() is None:
            ids = torch.tensor([self._prompt.token_ids], device=self._engine._model.device)
            torch.manual_seed(self._sampling.seed)
            with torch.inference_mode():
                cast(Any, self._engine._model).generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=generation_config(self._sampling, self._engine._info.stop_token_ids),
                    logits_processor=LogitsProcessorList([Occurrences(len(self._prompt.token_ids), self._sampling)]),
                    stopping_criteria=StoppingCriteriaList([self]),
                )
        reason = self._reason or self._interrupted() or "length"
        _, tail = self._text.flush(cut=reason != "stop")
        if tail:
            self.put(Delta(tail, ()))
        usage = Usage(len(self._prompt.token_ids), 0, self._tokens)
        return Finish(reason, usage, Timing(queue, self._ttft, time.monotonic() - self._submitted))

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        self._engine._heartbeat = time.monotonic()
        self._tokens += 1
        if self._ttft is None:
            self._ttft = time.monotonic() - self._submitted
        token = int(input_ids[0, -1])
        if token in self._engine._info.stop_token_ids:
            self._reason = "stop"
        _, text = self._text.push(token) if self._reason is None else ("", "")
        if self._text.stopped:
            self._reason = "stop"
        self.put(Delta(text, (token,), self._measured(input_ids)))
        self._reason = self._reason or self._interrupted()
        return torch.tensor([self._reason is not None], device=input_ids.device)

    def _measured(self, input_ids: torch.Tensor) -> tuple[Logprob, ...]:
        """Of the last token: by a plain forward over all before it."""
        if self._logprobs is None:
            return ()
        *before, token = input_ids[0].tolist()
        logits = cast(Any, self._engine._model)(torch.tensor([before])).logits[0, -1]
        logprobs = logits.float().log_softmax(-1)
        best = logprobs.topk(self._logprobs)
        return (Logprob(float(logprobs[token]), tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))),)

    def _interrupted(self) -> FinishReason | None:
        if self._cancelled.is_set() or self._engine._closed.is_set():
            return "cancelled"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "deadline"
        return None


class Occurrences(LogitsProcessor):
    """Presence and frequency penalties over the completion, which `generate` has no processor for."""

    def __init__(self, prompt_length: int, sampling: Sampling) -> None:
        self._prompt_length = prompt_length
        self._sampling = sampling

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        completion = input_ids[:, self._prompt_length :]
        counts = torch.zeros_like(scores).scatter_add_(1, completion, torch.ones_like(completion, dtype=scores.dtype))
        sampling = self._sampling
        return scores - counts * sampling.frequency_penalty - (counts > 0) * sampling.presence_penalty


def generation_config(sampling: Sampling, stop_token_ids: tuple[int, ...]) -> GenerationConfig:
    """Every field said: `generate` fills what is left open from the checkpoint's own file."""
    return GenerationConfig(
        max_new_tokens=sampling.max_tokens,
        do_sample=sampling.temperature > 0,
        temperature=sampling.temperature or 1.0,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p or None,
        repetition_penalty=sampling.repetition_penalty,
        eos_token_id=list(stop_token_ids),
        pad_token_id=0,
        use_cache=True,
    )


def log_probabilities(model: PreTrainedModel, ids: Sequence[int], last: int, top: int = 0) -> tuple[Logprob, ...]:
    """Those of the `last` ids, each after all ids before it."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*ids]])).logits[0, -last - 1 : -1]
    found = logits.float().log_softmax(1)
    best = found.topk(top)
    own = found.gather(1, torch.tensor(ids[-last:])[:, None])[:, 0].tolist()
    return tuple(
        Logprob(one, tuple(zip(tokens, values, strict=True)))
        for one, tokens, values in zip(own, best.indices.tolist(), best.values.tolist(), strict=True)
    )
