"""generate with `score_text`: the log-probability of a given text after messages or a raw prompt."""

from collections.abc import AsyncGenerator

from handler.api.generate import GenerateRequest, ScoreReply, TextScore
from handler.api.reply import Reply
from handler.api.text import MAX_LOGPROBS, Message
from handler.engine.fold import Piece
from handler.errors import ContextLengthExceeded, InvalidRequest
from handler.model.template import Rendered, joined
from handler.operations.answer import deadline
from handler.operations.core import Core
from handler.operations.facts import drawn_logprobs, model_facts, timing_of, usage_of, without_run
from handler.operations.prompt import Encode, check, rendered


async def score(
    core: Core, request: GenerateRequest, text: str, messages: tuple[Message, ...], encode: Encode, *, field: str
) -> AsyncGenerator[Piece | Reply, None]:
    """Yield the reply. Closing the iterator cancels the request.

    Prompt and text are encoded apart: no token crosses from one to the other, as none does where a model generates.

    Args:
        encode: encodes the prompt, which comes from the request's `field`.

    Raises:
        WorkerError: the failure that the caller reads in place of a reply.
    """
    began = core.clock()
    check(core, request)
    until = deadline(request, began)
    prompt = (await rendered(core, request, messages, encode, field=field, until=until)).rendered
    given = await _encoded(core, request, text, len(prompt.prompt.token_ids), until)
    whole = joined(prompt, given)
    if request.dry_run:
        yield without_run(core, None, messages, whole).model_copy(update={"scored_tokens": len(given.prompt.token_ids)})
        return
    token_ids = given.prompt.token_ids
    scored = await core.engine.score(prompt.prompt, token_ids, top=request.top_logprobs or 0, deadline=until)
    # In a thread: thousands of tokens take a while, and other jobs go on.
    logprobs = await core.encoding.run(drawn_logprobs, core, token_ids, scored.logprobs) if request.logprobs else None
    yield ScoreReply(
        score=TextScore(mean=round(scored.mean, 6), sum=round(scored.sum, 6), tokens=len(token_ids)),
        usage=usage_of(scored.usage),
        logprobs=logprobs,
        model_info=model_facts(core),
        prompt_sha256=whole.sha256,
        timing=timing_of(scored.timing, scored.usage),
        generation_time=round(scored.timing.total_s, 4),
        processing_time=round(core.clock() - began, 4),
    )


async def _encoded(core: Core, request: GenerateRequest, text: str, prompt: int, until: float | None) -> Rendered:
    """The text's own tokens, where they fit beside the `prompt` tokens and, with `logprobs`, into a reply."""
    context = core.engine.max_model_len
    room = context - prompt
    try:
        given = await core.encoding.run_until(until, core.template.raw, text, room)
    except ContextLengthExceeded:
        raise ContextLengthExceeded(
            f"score_text has too many tokens: prompt and text share a context of {context} tokens, of which the prompt "
            f"takes {prompt}; shorten one of them",
            field="score_text",
        ) from None
    except InvalidRequest:
        raise InvalidRequest(
            f"score_text of {len(text)} characters is too long to encode; shorten it", field="score_text"
        ) from None
    size = len(given.prompt.token_ids)
    if request.logprobs and size * (1 + (request.top_logprobs or 0)) > MAX_LOGPROBS:
        raise InvalidRequest(
            f"logprobs: score_text has {size} tokens, and tokens * (1 + top_logprobs) is at most {MAX_LOGPROBS}: "
            "RunPod carries no larger reply",
            field="logprobs",
        )
    return given
