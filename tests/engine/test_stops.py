"""Stop strings: which one cuts a growing text, how much is held back, and what that costs."""

import time

from hypothesis import given
from hypothesis import strategies as st

from handler.engine.stops import StopStrings

STOPS = st.lists(st.text("ab<é", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple)


def cut(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The rule in its plainest form: grow the text by characters, cut where the first stop string completes."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


@given(st.lists(st.text("ab<é", max_size=6)), STOPS)
def test_text_is_cut_before_the_stop_string_that_completes_first_under_any_chunking(
    chunks: list[str], stops: tuple[str, ...]
) -> None:
    cutter = StopStrings(stops)
    pieces = [cutter.push(chunk) for chunk in chunks]
    assert ("".join(pieces) + cutter.flush(), cutter.found) == cut("".join(chunks), stops)


@given(st.lists(st.text("ab<é", max_size=6)), STOPS)
def test_nothing_is_sent_that_a_stop_string_may_yet_take_back(chunks: list[str], stops: tuple[str, ...]) -> None:
    cutter = StopStrings(stops)
    sent = ""
    for chunk in chunks:
        sent += cutter.push(chunk)
        assert cut("".join(chunks), stops)[0].startswith(sent)


@given(st.text(), STOPS)
def test_text_without_stop_strings_is_never_held_back(text: str, stops: tuple[str, ...]) -> None:
    assert StopStrings(()).push(text) == text


def test_no_more_is_held_back_than_may_begin_a_stop_string() -> None:
    cutter = StopStrings(("STOP",))
    assert [cutter.push(text) for text in ("Say ", "S", "TO", "RY", "S.")] == ["Say ", "", "", "STORY", "S."]


def test_the_first_to_complete_wins_over_the_first_to_start() -> None:
    cutter = StopStrings(("<b<", "b"))
    assert (cutter.push("<"), cutter.push("b<"), cutter.found) == ("", "<", True)


@given(st.lists(st.text("ab", max_size=9)), st.lists(st.text("ab", min_size=1, max_size=9), max_size=16).map(tuple))
def test_what_is_held_back_is_the_longest_end_of_the_text_that_begins_a_stop_string(
    chunks: list[str], stops: tuple[str, ...]
) -> None:
    cutter, text, sent = StopStrings(stops), "", ""
    for chunk in chunks:
        text, sent = text + chunk, sent + cutter.push(chunk)
        kept, found = cut(text, stops)
        begins = [end for end in range(len(text) + 1) if any(stop.startswith(text[end:]) for stop in stops)]
        assert sent == (kept if found else text[: min(begins, default=len(text))])


def seconds_for(stops: tuple[str, ...], tokens: int) -> float:
    """Processor time of a text of one letter, token by token."""
    cutter, began = StopStrings(stops), time.process_time()
    for _ in range(tokens):
        cutter.push("a")
    return time.process_time() - began


def test_long_stop_strings_that_repeat_themselves_cost_a_token_no_more_than_short_ones() -> None:
    short = seconds_for(("ab", "ac"), 20_000)
    long = seconds_for(("a" * 199 + "b", *("a" * count + "b" * (192 - count) for count in range(1, 16))), 20_000)
    assert long < 10 * short
