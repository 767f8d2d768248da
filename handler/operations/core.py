"""The steps that operations share: prompts, sampling, one completion, and the facts at the end of a reply.

Knows no job and no SDK.
"""

import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from random import SystemRandom
from secrets import token_bytes
from uuid import uuid4

from pydantic import JsonValue

from handler.api.reply import Reply
from handler.api.text import (
    DrawnLogprob,
    DryRunReply,
    DryRunUsage,
    Message,
    ModelFacts,
    Run,
    TextReply,
    TextRequest,
    Timing,
    TokenLogprob,
    Usage,
)
from handler.engine import stream as engine_stream
from handler.engine.fold import Completion, Piece, fold
from handler.engine.protocol import Engine, ModelInfo
from handler.engine.sampling import Distribution, Sampling
from handler.engine.spent import Spent
from handler.engine.stream import Logprob
from handler.enhancement.enhancer import Enhancer
from handler.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from handler.model.template import Ending, Rendered, Template, Turn
from handler.operations.truncation import Kept, truncate
from handler.pool import Pool
from handler.report import Report
from handler.settings import PrefixSharing

#: renders and encodes one prompt, whose tokens must not exceed the number given
Encode = Callable[[int], Rendered]

#: no two of so many bytes are equal by chance, and no salt of a caller's can be made to meet another's
SALT_BYTES = 32


def draw_seed() -> int:
    """A seed for a request that brought none; below 2**53, so that JavaScript reads it without loss."""
    return SystemRandom().randrange(2**53)


def utc_now() -> str:
    """The time of a new turn, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt that is ready to run."""

    #: none for a raw prompt
    messages: tuple[Message, ...]
    rendered: Rendered
    sampling: Sampling
    #: turns that were dropped from the conversation; None where none may be
    truncated_turns: int | None = None

    @property
    def system(self) -> str | None:
        """The system turn that the model reads."""
        return system_of(self.messages)


@dataclass(frozen=True, slots=True)
class WorkerConstants:
    """Facts about this worker that do not change while it runs."""

    version: str
    #: the size of the engine, as it was planned
    engine: dict[str, JsonValue]
    python: str
    #: versions by name
    libraries: dict[str, str]


@dataclass(frozen=True, slots=True)
class Core:
    """One engine with its model, and the sources of time and chance."""

    engine: Engine
    template: Template
    model: ModelInfo
    report: Report
    worker: WorkerConstants
    enhancer: Enhancer
    #: the system turn of conversations without one, where the operator wants the model's own; None adds nothing
    default_system: str | None = None
    prefix_sharing: PrefixSharing = "all"
    clock: Callable[[], float] = time.monotonic
    draw_seed: Callable[[], int] = draw_seed
    now: Callable[[], str] = utc_now
    new_id: Callable[[], str] = field(default=lambda: str(uuid4()))
    #: renders and encodes prompts, with the threads that asyncio's own pool would have
    encoding: Pool = field(default_factory=lambda: Pool("encoding", min(32, (os.cpu_count() or 1) + 4)))

    # -- the prompt --------------------------------------------------------------------------------------------------

    @property
    def adds_nothing(self) -> bool:
        """Whether the model reads the caller's messages and nothing else, for every request."""
        return self.default_system is None

    def check(self, request: TextRequest) -> None:
        """Refuse what this model cannot do for any prompt.

        Raises:
            ContextLengthExceeded: `max_tokens` leaves no room for a prompt.
            InvalidRequest: a stop token is outside the vocabulary.
            Unsupported: the model's template never thinks, or always does, and the request wants the other.
        """
        context, sent = self.engine.max_model_len, request.sent_max_tokens or 0
        if sent >= context:
            raise ContextLengthExceeded(
                f"max_tokens is {sent}, and prompt and answer share a context of {context} tokens", field="max_tokens"
            )
        for index, token_id in enumerate(request.stop_token_ids):
            if token_id >= self.model.vocab_size:
                field = f"stop_token_ids.{index}"
                raise InvalidRequest(f"{field}: {token_id} is outside [0, {self.model.vocab_size})", field=field)
        if request.enable_thinking is True and self.template.thinks == "never":
            raise Unsupported(
                "the model's template has no thinking; leave enable_thinking out, or send false",
                field="enable_thinking",
            )
        if request.enable_thinking is False and self.template.thinks == "always":
            raise Unsupported(
                "the model's template always thinks; leave enable_thinking out, or send true", field="enable_thinking"
            )

    def with_default_system(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The conversation as it is; only what the operator set may be added to it."""
        if self.default_system is not None and messages and messages[0].role != "system":
            return (Message(role="system", content=self.default_system), *messages)
        return messages

    def conversation(self, request: TextRequest, messages: Sequence[Message], begun: str = "") -> Encode:
        """Encodes messages through the model's template. `begun`: how the answer to them begins."""
        turns = [Turn(message.role, message.content) for message in messages]
        ending = Ending(continues=request.continue_final_message, thinks=bool(request.enable_thinking))
        return lambda room: self.template.chat(turns, room, ending, begun)

    def _truncated(self, request: TextRequest, messages: tuple[Message, ...], most: int, begun: str) -> Kept:
        """The conversation without the turns for which there is no room beside the answer."""
        context = self.engine.max_model_len
        # An answer of the default length may take half of a short context.
        answer = request.sent_max_tokens or min(request.max_tokens, context // 2)
        return truncate(
            messages,
            context - answer,
            most,
            lambda kept, room: self.conversation(request, kept, begun)(room),
            self.template.count,
        )

    async def prepare(
        self,
        request: TextRequest,
        messages: tuple[Message, ...],
        encode: Encode,
        *,
        field: str,
        until: float | None,
        sampling: Callable[[int], Sampling] | None = None,
        begun: str = "",
    ) -> Prepared:
        """Render, encode and fit to the context, in a thread: a long prompt takes a while, and other jobs go on.

        Args:
            field: the request's field that holds the prompt, for errors.
            until: the deadline, on the engine's clock.
            sampling: from the completion tokens that the context leaves; the request's own where None.
            begun: how the answer begins; `encode` has it too.

        Raises:
            ContextLengthExceeded: the prompt does not fit.
            DeadlineExceeded: it was not ready at the deadline. Encoding cannot be interrupted, and ends unread.
            Unsupported: it has messages, and the model has no chat template.
        """
        kept = await self.rendered(request, messages, encode, field=field, until=until, begun=begun)
        room = self.engine.max_model_len - len(kept.rendered.prompt.token_ids)
        applied = partial(self.sampling, request) if sampling is None else sampling
        return Prepared(kept.messages, kept.rendered, applied(room), kept.truncated_turns)

    async def rendered(
        self,
        request: TextRequest,
        messages: tuple[Message, ...],
        encode: Encode,
        *,
        field: str,
        until: float | None,
        begun: str = "",
    ) -> Kept:
        """The prompt, with its salt; arguments and errors are those of `prepare`."""
        context, sent = self.engine.max_model_len, request.sent_max_tokens
        most, truncated_turns = context - (sent or 1), None
        try:
            if request.truncate_history:
                kept = await self.encoding.run_until(until, self._truncated, request, messages, most, begun)
                truncated_turns = len(messages) - len(kept.messages)
                messages, rendered = kept.messages, kept.rendered
            else:
                rendered = await self.encoding.run_until(until, encode, most)
        except ContextLengthExceeded as error:
            taken = "" if sent is None else f": max_tokens takes {sent} of the context's {context}"
            raise ContextLengthExceeded(error.message + taken, field=field) from None
        except (InvalidRequest, Unsupported) as error:
            raise type(error)(error.message, field=field) from None
        if request.max_thinking_tokens is not None and rendered.prompt.thought is None:
            raise InvalidRequest(
                "max_thinking_tokens: the model is not asked to think before this answer; leave it out, or send "
                "enable_thinking: true",
                field="max_thinking_tokens",
            )
        rendered = replace(rendered, prompt=replace(rendered.prompt, salt=self._salt(request)))
        return Kept(messages, rendered, truncated_turns)

    def _salt(self, request: TextRequest) -> bytes:
        """The salt of the request's prompt: its caller's, none, or one that no other prompt has."""
        salt = request.cache_salt
        if self.prefix_sharing == "off" or (self.prefix_sharing == "salted" and salt is None):
            return token_bytes(SALT_BYTES)
        return b"" if salt is None else blake2b(salt.encode(), digest_size=SALT_BYTES).digest()

    # -- sampling ----------------------------------------------------------------------------------------------------

    def sampling(self, request: TextRequest, room: int) -> Sampling:
        """The values that the request sent, and the defaults that it chose for the others.

        `room`: the completion tokens that the context leaves.
        """
        base, max_tokens = Distribution.model_validate(_of(request)), request.max_tokens
        if request.sampling_defaults == "model":
            own = dict(self.model.sampling_defaults)
            max_tokens = int(own.pop("max_tokens", max_tokens))
            base = Distribution.model_validate(own)
        return self.sampled(request, base, max_tokens, room)

    def sampled(self, request: TextRequest, base: Distribution, max_tokens: int, room: int) -> Sampling:
        """The values that the request sent, over those of `base`.

        Raises:
            InvalidRequest: `max_thinking_tokens` leaves no room for an answer.
        """
        max_tokens = request.sent_max_tokens or min(max_tokens, room)
        most = max_tokens - len(self.template.closing) - 1
        if request.max_thinking_tokens is not None and request.max_thinking_tokens > most:
            raise InvalidRequest(
                f"max_thinking_tokens is {request.max_thinking_tokens}, and thought and answer share max_tokens, "
                f"{max_tokens}; send {f'{most} at most, or ' if most > 0 else ''}more max_tokens",
                field="max_thinking_tokens",
            )
        sent = {name: value for name, value in _of(request).items() if name in request.model_fields_set}
        return Sampling.model_validate(
            {
                **_of(base),
                **sent,
                "max_tokens": max_tokens,
                "seed": self.draw_seed() if request.seed is None else request.seed,
                "stop": request.stop,
                "stop_token_ids": request.stop_token_ids,
                "max_thinking_tokens": request.max_thinking_tokens,
            }
        )

    # -- the completion ----------------------------------------------------------------------------------------------

    async def answer(
        self,
        request: TextRequest,
        messages: tuple[Message, ...],
        encode: Encode,
        *,
        field: str,
        reply: Callable[[Prepared, str, Run], TextReply],
        dry_run: Callable[[Prepared], DryRunReply] | None = None,
    ) -> AsyncGenerator[Piece | Reply, None]:
        """Yield the text as it comes, then the reply. Closing the iterator cancels the request.

        Args:
            field: the request's field that holds the prompt, for errors.
            dry_run: makes the reply to a dry run; `Core.dry_run` where None.

        Raises:
            WorkerError: the failure that the caller reads in place of a reply.
        """
        began = self.clock()
        self.check(request)
        until = deadline(request, began)
        prepared = await self.prepare(request, messages, encode, field=field, until=until)
        if request.dry_run:
            yield (dry_run or self.dry_run)(prepared)
            return
        async with aclosing(self._completion(request, prepared, until)) as events:
            async for event in events:
                if isinstance(event, Piece):
                    yield event
                    continue
                spent = Spent(prepared.sampling).plus(event, prepared.rendered.sha256)
                # In a thread: thousands of tokens take a while, and other jobs go on.
                found = event.token_ids, event.logprobs
                logprobs = await self.encoding.run(self.logprobs, *found) if request.logprobs else None
                run = self.run(spent, self.clock() - began, logprobs, prepared.truncated_turns)
                yield reply(prepared, event.text, run)

    def _completion(
        self, request: TextRequest, prepared: Prepared, until: float | None
    ) -> AsyncGenerator[Piece | Completion, None]:
        stream = self.engine.stream(
            prepared.rendered.prompt,
            prepared.sampling,
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            deadline=until,
        )
        return fold(stream)

    # -- the reply's facts -------------------------------------------------------------------------------------------

    def run(
        self,
        spent: Spent,
        seconds: float,
        logprobs: tuple[DrawnLogprob, ...] | None = None,
        truncated_turns: int | None = None,
    ) -> Run:
        """The facts of one run. `seconds`: in the worker, from the job's start."""
        return Run(
            finish_reason=spent.finish_reason,
            reasoning=spent.reasoning,
            reasoning_cut=spent.reasoning_cut or None,
            usage=usage_of(spent.usage),
            sampling=spent.sampling,
            logprobs=logprobs,
            model_info=self.model_facts(),
            truncated_turns=truncated_turns,
            prompt_sha256=spent.prompt_sha256,
            timing=timing_of(spent.timing, spent.usage),
            generation_time=round(spent.timing.total_s, 4),
            processing_time=round(seconds, 4),
        )

    def model_facts(self) -> ModelFacts:
        """The model as a reply names it."""
        return ModelFacts(
            model_name=self.model.name,
            model_loaded=self.engine.status().alive,
            revision=self.model.revision,
            dtype=self.model.dtype,
            max_model_len=self.engine.max_model_len,
        )

    def dry_run(self, prepared: Prepared) -> DryRunReply:
        """The prompt that the model would read."""
        return self.without_run(prepared.sampling, prepared.messages, prepared.rendered, prepared.truncated_turns)

    def without_run(
        self,
        sampling: Sampling | None,
        messages: tuple[Message, ...] = (),
        rendered: Rendered | None = None,
        truncated_turns: int | None = None,
    ) -> DryRunReply:
        """`rendered` is None where the model would not be asked."""
        token_ids = () if rendered is None else rendered.prompt.token_ids
        return DryRunReply(
            messages=messages or None,
            rendered="" if rendered is None else rendered.text,
            token_ids=token_ids,
            truncated_turns=truncated_turns,
            prompt_sha256=None if rendered is None else rendered.sha256,
            usage=DryRunUsage(prompt_tokens=len(token_ids)),
            sampling=sampling,
            model_info=self.model_facts(),
            no_override_detected=self.adds_nothing,
            pure_inference_mode=self.adds_nothing,
        )

    def logprobs(self, token_ids: Sequence[int], logprobs: Sequence[Logprob]) -> tuple[DrawnLogprob, ...]:
        """The log-probabilities of tokens with their texts; takes a while where there are thousands."""
        return tuple(self._drawn(token_id, found) for token_id, found in zip(token_ids, logprobs, strict=False))

    def _drawn(self, token_id: int, found: Logprob) -> DrawnLogprob:
        drawn = self._likely(token_id, found.logprob)
        top = tuple(self._likely(*other) for other in found.top)
        return DrawnLogprob(**dict(drawn), top=top)

    def _likely(self, token_id: int, logprob: float) -> TokenLogprob:
        own = self.template.token_bytes(token_id)
        text = own.decode(errors="replace")
        # 32 bits hold no more digits.
        return TokenLogprob(token=text, bytes=tuple(own), token_id=token_id, logprob=round(logprob, 6))


def usage_of(usage: engine_stream.Usage) -> Usage:
    """Token counts as a reply has them."""
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )


def timing_of(timing: engine_stream.Timing, usage: engine_stream.Usage) -> Timing:
    """Times as a reply has them."""
    generating, completed = timing.total_s - timing.queue_s, usage.completion_tokens
    return Timing(
        queue_ms=round(timing.queue_s * 1000, 2),
        ttft_ms=None if timing.ttft_s is None else round(timing.ttft_s * 1000, 2),
        total_ms=round(timing.total_s * 1000, 2),
        tokens_per_second=round(completed / generating, 2) if completed and generating > 0 else None,
    )


def system_of(messages: Sequence[Message]) -> str | None:
    """The system turn that a conversation begins with."""
    return messages[0].content if messages and messages[0].role == "system" else None


def deadline(request: TextRequest, began: float) -> float | None:
    """The time at which the request ends, on the engine's clock."""
    return None if request.deadline_ms is None else began + request.deadline_ms / 1000


def _of(values: Distribution) -> dict[str, float]:
    return {name: getattr(values, name) for name in Distribution.model_fields}
