"""chat, generate, enhance and info: a request in, its text and then the reply out. Knows no job and no SDK."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import starmap
from random import SystemRandom
from typing import Any, assert_never
from uuid import uuid4

from handler.api import contracts, defaults, replies
from handler.api.contracts import (
    ChatRequest,
    EnhanceRequest,
    GenerateRequest,
    Generation,
    InfoRequest,
    Message,
    Request,
)
from handler.api.replies import Reply, TextReply
from handler.engine.fold import Answer, Piece, read
from handler.engine.protocol import Engine, ModelInfo
from handler.engine.sampling import Sampling
from handler.engine.stream import Logprob
from handler.engine.thinking import Thinking
from handler.enhancement import brief as briefs
from handler.enhancement import enhancer as enhancing
from handler.enhancement.brief import Brief
from handler.enhancement.enhancer import Enhancer
from handler.enhancement.rewrite import Answer as Answered
from handler.enhancement.rewrite import Spent
from handler.errors import ContextLengthExceeded, EngineFailed, InvalidRequest, Unsupported
from handler.model.template import Ending, Rendered, Template, Turn
from handler.operations import conversation
from handler.operations.info import Info


def draw_seed() -> int:
    """A seed for a request that brought none; below 2**53, so that it comes back whole through JavaScript."""
    return SystemRandom().randrange(2**53)


def utc_now() -> str:
    """The time of a new turn, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Operations:
    """The four operations over one engine."""

    engine: Engine
    template: Template
    model: ModelInfo
    info: Info
    enhancer: Enhancer
    #: the system turn of conversations without one, where the operator wants the model's own; None adds nothing
    default_system: str | None = None
    clock: Callable[[], float] = time.monotonic
    draw_seed: Callable[[], int] = draw_seed
    now: Callable[[], str] = utc_now
    new_id: Callable[[], str] = field(default=lambda: str(uuid4()))

    async def run(self, request: Request) -> AsyncGenerator[Piece | Reply, None]:
        """Yield the text as it comes, then the whole reply. Closing the iterator cancels the request.

        Raises:
            WorkerError: whatever the caller should read instead of a reply.
        """
        started = self.clock()
        if isinstance(request, InfoRequest):
            yield self.info.reply(request)
            return
        self._refuse(request)
        if isinstance(request, EnhanceRequest) and not briefs.is_plain(request):
            yield await self._enhance(request, started)
            return
        messages = self._with_default_system(conversation.messages(request))
        rendered, sampling = await self._prepare(request, messages)
        if request.dry_run:
            yield self._dry_run(messages, rendered, sampling)
            return
        deadline = _deadline(request, started)
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        stream = self.engine.stream(rendered.prompt, sampling, logprobs=logprobs, deadline=deadline)
        thinking = Thinking(rendered.text.rstrip().endswith(Thinking.OPEN)) if request.enable_thinking else None
        answer = None
        async with aclosing(read(stream, thinking)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    answer = event
                else:
                    yield event
        if answer is None:
            raise EngineFailed("the stream ended without a finish")
        finish = answer.finish
        spent = Spent(
            sampling,
            finish.reason,
            finish.usage,
            finish.timing,
            answer.reasoning,
            prompt_sha256=rendered.sha256,
        )
        # In a thread: of thousands of tokens this takes a while, and other jobs go on.
        drawn = await asyncio.to_thread(self._told, answer.drawn) if request.logprobs else None
        yield self._reply(request, messages, answer.text, self._tail(spent, self.clock() - started, drawn))

    async def _enhance(self, request: EnhanceRequest, started: float) -> Reply:
        """An enhancement that is fitted or judged: nothing of it can be told before all of it is known."""
        if request.logprobs:
            raise Unsupported("logprobs are of the model's own words, not of a fitted or judged text", field="logprobs")
        task = await asyncio.to_thread(self.enhancer.brief, request, conversation.original_prompt(request))
        values: defaults.Values | None = None
        messages = conversation.messages(request)
        if task.found is not None:
            messages, values = briefs.messages(task), briefs.sampling(task)
        sampling = self._sampling(request, self.engine.max_model_len, values)
        answers = await asyncio.to_thread(self.enhancer.without_asking, task, sampling)
        if request.dry_run and answers:
            return self._dry_run((), None, sampling)
        if not answers:
            messages = self._with_default_system(messages)
            rendered, sampling = await self._prepare(request, messages, values)
            if request.dry_run:
                return self._dry_run(messages, rendered, sampling)
            answers = await self.enhancer.answers(request, task, rendered, sampling, _deadline(request, started))
        return self._enhance_reply(request, task, answers, self.clock() - started)

    def _refuse(self, request: Generation) -> None:
        """What this model can do for nobody, whatever the prompt."""
        context = self.engine.max_model_len
        if (request.max_tokens or 0) >= context:
            raise ContextLengthExceeded(
                f"max_tokens is {request.max_tokens}, and prompt and answer share a context of {context} tokens",
                field="max_tokens",
            )
        if request.enable_thinking and not self.template.thinks:
            raise Unsupported("the model's template knows no thinking", field="enable_thinking")

    def _with_default_system(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """A conversation as it is; only what the operator set may be added to it."""
        if self.default_system is not None and messages and messages[0].role != "system":
            return (Message(role="system", content=self.default_system), *messages)
        return messages

    async def _prepare(
        self,
        request: Generation,
        messages: tuple[Message, ...],
        values: defaults.Values | None = None,
    ) -> tuple[Rendered, Sampling]:
        """Render, encode and fit to the context, in a thread: a long prompt takes a while, other jobs go on."""
        context = self.engine.max_model_len
        room = context - (request.max_tokens or 1)
        encode: Callable[[], Rendered]
        match request:
            case GenerateRequest(prompt=str() as raw, special_tokens=special_tokens):
                encode = partial(self.template.raw, raw, room, special_tokens=special_tokens)
            case _:
                turns = [Turn(message.role, message.content) for message in messages]
                ending = Ending(continues=request.continue_final_message, thinks=request.enable_thinking)
                encode = partial(self.template.chat, turns, room, ending)
        try:
            rendered = await asyncio.to_thread(encode)
        except ContextLengthExceeded as error:
            told = error.message
            if request.max_tokens is not None:
                told += f": max_tokens takes {request.max_tokens} of the context's {context}"
            raise ContextLengthExceeded(told, field=conversation.field(request)) from None
        except InvalidRequest as error:
            raise InvalidRequest(error.message, field=conversation.field(request)) from None
        return rendered, self._sampling(request, context - len(rendered.prompt.token_ids), values)

    def _sampling(self, request: Generation, room: int, entry: defaults.Values | None = None) -> Sampling:
        """`entry`: the values of the pack's entry, where the caller chose one."""
        own = self.model.sampling_defaults if request.sampling_defaults == "model" else defaults.WORKER
        return defaults.sampling(request, own if entry is None else entry, room=room, seed=self.draw_seed())

    def _reply(self, request: Generation, messages: tuple[Message, ...], text: str, tail: dict[str, Any]) -> TextReply:
        match request:
            case ChatRequest():
                return self._chat_reply(request, messages, text, tail)
            case GenerateRequest():
                return replies.GenerateReply(text=text, **tail)
            case EnhanceRequest():
                return replies.EnhanceReply(
                    original_prompt=conversation.original_prompt(request),
                    enhanced_prompt=text,
                    enhancement_source="edge_function",
                    negative_prompt=request.negative_prompt,
                    context=request.context,
                    enhancement_type=request.enhancement_type,
                    generation_time=round(tail["timing"].total_ms / 1000, 4),
                    **tail,
                )
            case _:
                assert_never(request)

    def _chat_reply(
        self, request: ChatRequest, messages: tuple[Message, ...], text: str, tail: dict[str, Any]
    ) -> replies.ChatReply:
        history = None
        if request.message is not None:
            asked = contracts.Turn(sender="user", content=request.message, created_at=self.now())
            answered = contracts.Turn(sender="assistant", content=text, created_at=self.now())
            history = (*(request.conversation_history or ()), asked, answered)
        return replies.ChatReply(
            response=text,
            system_prompt_used=messages[0].content if messages[0].role == "system" else None,
            conversation_history=history,
            conversation_id=request.conversation_id,
            context_type=request.context_type,
            project_id=request.project_id,
            message_id=self.new_id(),
            **tail,
        )

    def _enhance_reply(
        self, request: EnhanceRequest, task: Brief, answers: tuple[Answered, ...], seconds: float
    ) -> replies.EnhanceReply:
        first = enhancing.best(answers)
        timing = enhancing.timed(answers)
        spent = replace(first.spent, usage=enhancing.used(answers), timing=timing)
        return replies.EnhanceReply(
            **enhancing.told(request, task, answers),
            original_prompt=task.prompt,
            context=request.context,
            enhancement_type=request.enhancement_type,
            generation_time=round(timing.total_s, 4),
            **self._tail(spent, seconds),
        )

    def _tail(
        self, spent: Spent, seconds: float, drawn: tuple[replies.DrawnLogprob, ...] | None = None
    ) -> dict[str, Any]:
        """What every reply that ran the model ends with."""
        usage, timing = spent.usage, spent.timing
        generating = timing.total_s - timing.queue_s
        return {
            "reasoning": spent.reasoning,
            "finish_reason": spent.finish_reason,
            "prompt_sha256": spent.prompt_sha256,
            "usage": replies.Usage(**asdict(usage), total_tokens=usage.prompt_tokens + usage.completion_tokens),
            "sampling": replies.Sampling(**asdict(spent.sampling)),
            "logprobs": drawn,
            "model_info": self._model_facts(),
            "timing": replies.Timing(
                queue_ms=round(timing.queue_s * 1000, 2),
                ttft_ms=None if timing.ttft_s is None else round(timing.ttft_s * 1000, 2),
                total_ms=round(timing.total_s * 1000, 2),
                tokens_per_second=round(usage.completion_tokens / generating, 2) if generating > 0 else None,
            ),
            "processing_time": round(seconds, 4),
        }

    def _told(self, drawn: list[tuple[int, Logprob]]) -> tuple[replies.DrawnLogprob, ...]:
        return tuple(starmap(self._drawn, drawn))

    def _drawn(self, token_id: int, told: Logprob) -> replies.DrawnLogprob:
        top = tuple(replies.Logprob(**self._likely(*other)) for other in told.top)
        return replies.DrawnLogprob(**self._likely(token_id, told.logprob), top=top)

    def _likely(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self.template.token_bytes(token_id).decode(errors="replace")
        return {"token": text, "token_id": token_id, "logprob": round(logprob, 6)}  # 32 bits hold no more

    def _model_facts(self) -> replies.ModelFacts:
        model = self.model
        return replies.ModelFacts(
            name=model.name, revision=model.revision, dtype=model.dtype, max_model_len=self.engine.max_model_len
        )

    def _dry_run(
        self, messages: tuple[Message, ...], rendered: Rendered | None, sampling: Sampling
    ) -> replies.DryRunReply:
        """`rendered` is None where the model would not be asked."""
        token_ids = () if rendered is None else rendered.prompt.token_ids
        return replies.DryRunReply(
            messages=messages or None,
            rendered="" if rendered is None else rendered.text,
            token_ids=token_ids,
            prompt_sha256=None if rendered is None else rendered.sha256,
            usage=replies.DryRunUsage(prompt_tokens=len(token_ids)),
            sampling=replies.Sampling(**asdict(sampling)),
            model_info=self._model_facts(),
        )


def _deadline(request: Generation, started: float) -> float | None:
    """On the clock that the engine goes by."""
    return None if request.deadline_ms is None else started + request.deadline_ms / 1000
