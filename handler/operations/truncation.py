"""Drops the oldest turns of a conversation that is too long for the context. Knows no engine and no request.

Each text is encoded three times at most, whatever the number of turns: to count its tokens, from the last turn back
until the context is full, and as part of the prompt. Where a template counts otherwise and the prompt is still too
long, it is tried again with twice as many exchanges dropped each time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from handler.api.text import Message
from handler.errors import ContextLengthExceeded
from handler.model.template import MAX_CHARACTERS, Rendered
from handler.pool import check_stop

#: tokens of a ChatML turn beside its role, its text and the line break between them: the two control tokens, and the
#: line break after the turn
FRAME = 3


@dataclass(frozen=True, slots=True)
class Kept:
    """The turns that the model reads, and their prompt."""

    messages: tuple[Message, ...]
    rendered: Rendered
    #: turns that were dropped; None where none may be
    truncated_turns: int | None = None


def truncate(
    messages: Sequence[Message],
    room: int,
    most: int,
    encode: Callable[[Sequence[Message], int], Rendered],
    count: Callable[[str], int],
) -> Kept:
    """Drop as few exchanges from the front as bring the prompt to `room` tokens.

    An exchange is a turn of the user with the assistant's turns after it. System turns and the last exchange stay; the
    prompt of these alone may have `most` tokens.

    Args:
        encode: renders and encodes messages, whose tokens must not exceed the number given.
        count: the tokens of a text.

    Raises:
        ContextLengthExceeded: the system turns and the last exchange have more than `most` tokens.
        InvalidRequest, Unsupported: see `Template.chat`.
    """
    starts = _exchanges(messages)
    last = len(starts) - 1
    shortest = _without(messages, starts, last)
    rendered = encode(shortest, most)
    dropped = _likely_dropped(messages, starts, room - len(rendered.prompt.token_ids), count)
    step = 1
    while dropped < last:
        kept = _without(messages, starts, dropped)
        try:
            return Kept(kept, encode(kept, room))
        except ContextLengthExceeded:
            dropped, step = dropped + step, 2 * step
    return Kept(shortest, rendered)


def _exchanges(messages: Sequence[Message]) -> list[int]:
    """Where each exchange begins."""
    spoken = [index for index, message in enumerate(messages) if message.role != "system"]
    # Turns of the assistant before the first of the user are an exchange of their own.
    return sorted({*spoken[:1], *(index for index in spoken if messages[index].role == "user")}) or [0]


def _likely_dropped(messages: Sequence[Message], starts: list[int], room: int, count: Callable[[str], int]) -> int:
    """How many exchanges are too many, by the tokens of their turns; `room` is what the last one leaves."""
    for exchange in reversed(range(len(starts) - 1)):
        for message in messages[starts[exchange] : starts[exchange + 1]]:
            check_stop()
            if message.role == "system":
                continue
            # A text beyond what is encoded at all has more tokens than any context.
            long = len(message.content) > MAX_CHARACTERS
            room -= room + 1 if long else FRAME + count(f"{message.role}\n{message.content}")
            if room < 0:
                return exchange + 1
    return 0


def _without(messages: Sequence[Message], starts: list[int], dropped: int) -> tuple[Message, ...]:
    """The system turns, and the others without the first `dropped` exchanges."""
    first = starts[dropped]
    return tuple(message for index, message in enumerate(messages) if index >= first or message.role == "system")
