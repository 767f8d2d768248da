"""The model's answer to a request's prompt: pieces as they come, then the reply."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from handler.api.reply import Reply
from handler.api.text import DrawnLogprob, DryRunReply, Message, Run, TextReply, TextRequest
from handler.api.variants import AnswerFacts
from handler.engine.fold import Completion, Piece
from handler.operations import facts
from handler.operations.core import Core
from handler.operations.prompt import Encode, Prepared, check, prepare
from handler.operations.variants import completions, spent_on


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reply says of a run of the model."""

    prepared: Prepared
    text: str
    run: Run
    #: with `n` above 1 the text of each answer and its facts, the first one's too
    variants: tuple[tuple[str, AnswerFacts], ...] | None = None


async def answer(
    core: Core,
    request: TextRequest,
    messages: tuple[Message, ...],
    encode: Encode,
    *,
    field: str,
    reply: Callable[[Answer], TextReply],
    dry_run: Callable[[Prepared], DryRunReply] | None = None,
) -> AsyncGenerator[Piece | Reply, None]:
    """Yield the text as it comes, then the reply. Closing the iterator cancels the request.

    Args:
        field: the request's field that holds the prompt, for errors.
        dry_run: makes the reply to a dry run; `facts.dry_run` where None.

    Raises:
        WorkerError: the failure that the caller reads in place of a reply.
    """
    began = core.clock()
    check(core, request)
    until = deadline(request, began)
    prepared = await prepare(core, request, messages, encode, field=field, until=until)
    if request.dry_run:
        yield facts.dry_run(core, prepared) if dry_run is None else dry_run(prepared)
        return
    async with aclosing(completions(core, request, prepared, until)) as events:
        async for event in events:
            if isinstance(event, Piece):
                yield event
                continue
            logprobs: list[tuple[DrawnLogprob, ...] | None] = [None] * len(event)
            if request.logprobs:
                # In a thread: thousands of tokens take a while, and other jobs go on.
                logprobs = [
                    await core.encoding.run(facts.drawn_logprobs, core, one.token_ids, one.logprobs) for one in event
                ]
            spent = spent_on(prepared, event)
            run = facts.run_facts(core, spent, core.clock() - began, logprobs[0], prepared.truncated_turns)
            variants = None if request.n == 1 else _variants(request.n, prepared, event, logprobs)
            yield reply(Answer(prepared, event[0].text, run, variants))


def _variants(
    count: int,
    prepared: Prepared,
    answers: tuple[Completion, ...],
    logprobs: list[tuple[DrawnLogprob, ...] | None],
) -> tuple[tuple[str, AnswerFacts], ...]:
    """All `count` answers; those that were not run, as their draws cannot differ, are the first one again."""
    sampling = prepared.sampling
    ran = [
        AnswerFacts(
            seed=sampling.with_seed(sampling.seed + place).seed,
            finish_reason=one.finish.reason,
            completion_tokens=one.finish.usage.completion_tokens,
            reasoning=one.reasoning,
            reasoning_cut=one.finish.reasoning_cut or None,
            logprobs=logprobs[place],
        )
        for place, one in enumerate(answers)
    ]
    again = [
        ran[0].model_copy(
            update={"seed": sampling.with_seed(sampling.seed + place).seed, "same_as": 0, "completion_tokens": 0}
        )
        for place in range(len(ran), count)
    ]
    texts = [one.text for one in answers] + [answers[0].text] * len(again)
    return tuple(zip(texts, ran + again, strict=True))


def deadline(request: TextRequest, began: float) -> float | None:
    """The time at which the request ends, on the engine's clock."""
    return None if request.deadline_ms is None else began + request.deadline_ms / 1000
