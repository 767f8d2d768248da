"""The prompt of a request: checked, rendered, encoded and fitted to the context."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from secrets import token_bytes

from handler.api.text import Message, TextRequest
from handler.engine.sampling import Sampling
from handler.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from handler.model.template import Ending, Rendered, Turn
from handler.operations.core import Core
from handler.operations.sampling import sampling_of
from handler.operations.truncation import Kept, truncate

#: renders and encodes one prompt, whose tokens must not exceed the number given
Encode = Callable[[int], Rendered]

#: no two of so many bytes are equal by chance, and no salt of a caller's can be made to meet another's
SALT_BYTES = 32


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


def check(core: Core, request: TextRequest) -> None:
    """Refuse what this model cannot do for any prompt.

    Raises:
        ContextLengthExceeded: `max_tokens` leaves no room for a prompt.
        InvalidRequest: a stop token or one with a bias is outside the vocabulary.
        Unsupported: the model's template never thinks, or always does, and the request wants the other.
    """
    context, sent = core.engine.max_model_len, request.sent_max_tokens or 0
    if sent >= context:
        raise ContextLengthExceeded(
            f"max_tokens is {sent}, and prompt and answer share a context of {context} tokens", field="max_tokens"
        )
    for index, token_id in enumerate(request.stop_token_ids):
        if token_id >= core.model.vocab_size:
            field = f"stop_token_ids.{index}"
            raise InvalidRequest(f"{field}: {token_id} is outside [0, {core.model.vocab_size})", field=field)
    for token in request.logit_bias:
        if int(token) >= core.model.vocab_size:
            field = f"logit_bias.{token}"
            raise InvalidRequest(f"{field}: {token} is outside [0, {core.model.vocab_size})", field=field)
    if request.enable_thinking is True and core.template.thinks == "never":
        raise Unsupported(
            "the model's template has no thinking; leave enable_thinking out, or send false",
            field="enable_thinking",
        )
    if request.enable_thinking is False and core.template.thinks == "always":
        raise Unsupported(
            "the model's template always thinks; leave enable_thinking out, or send true", field="enable_thinking"
        )


def with_default_system(core: Core, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation as it is; only what the operator set may be added to it."""
    if core.default_system is not None and messages and messages[0].role != "system":
        return (Message(role="system", content=core.default_system), *messages)
    return messages


def conversation(core: Core, request: TextRequest, messages: Sequence[Message], begun: str = "") -> Encode:
    """Encodes messages through the model's template. `begun`: how the answer to them begins."""
    turns = [Turn(message.role, message.content) for message in messages]
    ending = Ending(continues=request.continue_final_message, thinks=bool(request.enable_thinking))
    return lambda room: core.template.chat(turns, room, ending, begun)


def _truncated(core: Core, request: TextRequest, messages: tuple[Message, ...], most: int, begun: str) -> Kept:
    """The conversation without the turns for which there is no room beside the answer."""
    context = core.engine.max_model_len
    # An answer of the default length may take half of a short context.
    answer = request.sent_max_tokens or min(request.max_tokens, context // 2)
    return truncate(
        messages,
        context - answer,
        most,
        lambda kept, room: conversation(core, request, kept, begun)(room),
        core.template.count,
    )


async def prepare(
    core: Core,
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
    kept = await rendered(core, request, messages, encode, field=field, until=until, begun=begun)
    room = core.engine.max_model_len - len(kept.rendered.prompt.token_ids)
    applied = partial(sampling_of, core, request) if sampling is None else sampling
    return Prepared(kept.messages, kept.rendered, applied(room), kept.truncated_turns)


async def rendered(
    core: Core,
    request: TextRequest,
    messages: tuple[Message, ...],
    encode: Encode,
    *,
    field: str,
    until: float | None,
    begun: str = "",
) -> Kept:
    """The prompt, with its salt; arguments and errors are those of `prepare`."""
    context, sent = core.engine.max_model_len, request.sent_max_tokens
    most, truncated_turns = context - (sent or 1), None
    try:
        if request.truncate_history:
            kept = await core.encoding.run_until(until, _truncated, core, request, messages, most, begun)
            truncated_turns = len(messages) - len(kept.messages)
            messages, rendered = kept.messages, kept.rendered
        else:
            rendered = await core.encoding.run_until(until, encode, most)
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
    rendered = replace(rendered, prompt=replace(rendered.prompt, salt=_salt(core, request)))
    return Kept(messages, rendered, truncated_turns)


def _salt(core: Core, request: TextRequest) -> bytes:
    """The salt of the request's prompt: its caller's, none, or one that no other prompt has."""
    salt = request.cache_salt
    if core.prefix_sharing == "off" or (core.prefix_sharing == "salted" and salt is None):
        return token_bytes(SALT_BYTES)
    return b"" if salt is None else blake2b(salt.encode(), digest_size=SALT_BYTES).digest()


def system_of(messages: Sequence[Message]) -> str | None:
    """The system turn that a conversation begins with."""
    return messages[0].content if messages and messages[0].role == "system" else None
