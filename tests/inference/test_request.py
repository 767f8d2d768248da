"""A request on the engine thread: the events that its tokens become, and how it ends."""

import asyncio
from typing import Any

import pytest

from handler.engine.stream import Delta, Stream, Usage
from handler.engine.text import TextStream
from handler.inference.request import Request
from tests.support.models import sampling

END = 9


def request(*tokens: bytes, max_tokens: int = 5, guesses: int = 0, **options: Any) -> Request:
    """A request whose tokens 0, 1, 2 … will be these."""

    async def arrive() -> Request:
        chosen = sampling(max_tokens, **options)
        text = TextStream(tokens.__getitem__, chosen.stop)
        return Request.of([5, 6, 7], chosen, None, None, Stream(lambda: None), text, guesses, end_ids=frozenset({END}))

    return asyncio.run(arrive())


def take_all(one: Request, *tokens: int) -> tuple[str, str | None]:
    """The text that came of these tokens, and the reason of the last."""
    text, reason = "", None
    for token in tokens:
        delta, reason = one.take(token, (), now=0)
        assert delta == Delta(delta.text, (token,), ())
        text += delta.text
    return text, reason


def test_text_that_is_held_back_leaves_with_the_last_token_whatever_ends_the_answer() -> None:
    half = (b"A", b"B", "☃".encode()[:2])
    assert take_all(request(*half, stop=("BC",)), 0, 1) == ("A", None)
    assert take_all(request(*half, stop=("BC",), max_tokens=2), 0, 1) == ("AB", "length")
    assert take_all(request(*half, stop=("BC",)), 0, 1, END) == ("AB", "stop")
    assert take_all(request(*half), 0, 2, END) == ("A\ufffd", "stop")
    assert take_all(request(*half, stop=("B",)), 0, 1) == ("A", "stop")


def test_a_cut_by_max_tokens_drops_half_a_character() -> None:
    assert take_all(request(b"A", "☃".encode()[:2], max_tokens=2), 0, 1) == ("A", "length")
    assert take_all(request(b"A", "☃".encode(), max_tokens=2), 0, 1) == ("A☃", "length")


def test_an_end_from_outside_sends_what_is_held_back_but_no_half_character() -> None:
    one = request(b"A", b"B", "☃".encode()[:2], stop=("BC",))
    assert take_all(one, 0, 1, 2) == ("A", None)
    assert one.rest() == Delta("B", ())


def test_times_count_from_the_arrival_and_the_first_token_is_the_first() -> None:
    one = request(b"a", b"b")
    one.arrived, one.started = 10.0, 10.5
    for token, now in ((0, 11.0), (1, 12.0)):
        one.take(token, (), now)
    finish = one.finish("cancelled")
    assert (finish.timing.queue_s, finish.timing.ttft_s) == (0.5, 1.0)
    assert finish.usage == Usage(prompt_tokens=3, cached_tokens=0, completion_tokens=2)


@pytest.mark.parametrize(
    ("guesses", "options", "looks"),
    [(4, {}, True), (0, {}, False), (4, {"presence_penalty": 0.5}, False), (4, {"repetition_penalty": 1.1}, False)],
)
def test_nothing_is_guessed_of_an_answer_whose_draws_depend_on_all_before(
    guesses: int, options: dict[str, Any], looks: bool
) -> None:
    assert (request(guesses=guesses, **options).lookup is not None) == looks
