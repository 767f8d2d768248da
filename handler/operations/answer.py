"""An answer of the model to a request's prompt: pieces as they come, then the reply."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from handler.api.reply import Reply
from handler.api.text import DryRunReply, Message, Run, TextReply, TextRequest
from handler.engine.fold import Completion, Piece, fold
from handler.engine.spent import Spent
from handler.operations import facts
from handler.operations.core import Core
from handler.operations.prompt import Encode, Prepared, check, prepare


async def answer(
    core: Core,
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
    async with aclosing(_completion(core, request, prepared, until)) as events:
        async for event in events:
            if isinstance(event, Piece):
                yield event
                continue
            spent = Spent(prepared.sampling).plus(event, prepared.rendered.sha256)
            # In a thread: thousands of tokens take a while, and other jobs go on.
            found = event.token_ids, event.logprobs
            logprobs = await core.encoding.run(facts.drawn_logprobs, core, *found) if request.logprobs else None
            run = facts.run_facts(core, spent, core.clock() - began, logprobs, prepared.truncated_turns)
            yield reply(prepared, event.text, run)


def _completion(
    core: Core, request: TextRequest, prepared: Prepared, until: float | None
) -> AsyncGenerator[Piece | Completion, None]:
    stream = core.engine.stream(
        prepared.rendered.prompt,
        prepared.sampling,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        deadline=until,
    )
    return fold(stream)


def deadline(request: TextRequest, began: float) -> float | None:
    """The time at which the request ends, on the engine's clock."""
    return None if request.deadline_ms is None else began + request.deadline_ms / 1000
