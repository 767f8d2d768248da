"""Text as it grows: no character is split, and stop strings are found wherever tokens end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.engine.text import Detokenizer, TextStream
from handler.engine.thinking import Thinking


@given(st.lists(st.binary(max_size=5)))
def test_detokenised_pieces_join_to_what_decoding_all_at_once_gives(tokens: list[bytes]) -> None:
    detokenizer = Detokenizer(tokens.__getitem__)
    pieces = [detokenizer.push(index) for index in range(len(tokens))]
    assert "".join(pieces) + detokenizer.flush() == b"".join(tokens).decode("utf-8", errors="replace")


@given(st.text())
def test_no_piece_of_valid_text_holds_a_replacement_character(text: str) -> None:
    encoded = text.replace("\ufffd", "").encode()
    detokenizer = Detokenizer(lambda index: encoded[index : index + 1])
    assert "\ufffd" not in "".join(detokenizer.push(index) for index in range(len(encoded))) + detokenizer.flush()


def test_a_stop_string_may_end_inside_a_token() -> None:
    tokens = [b"one ST", b"OP two"]
    stream = TextStream(tokens.__getitem__, ("STOP",))
    assert [stream.push(0), stream.push(1), stream.flush()] == [("", "one "), ("", ""), ("", "")]
    assert stream.stopped


@pytest.mark.parametrize(("cut", "rest"), [(False, "\ufffd"), (True, "")])
def test_half_a_character_waits_for_its_other_half_which_a_cut_takes_away(cut: bool, rest: str) -> None:
    snowman = "☃".encode()
    stream = TextStream([snowman[:1], snowman[1:], snowman[:2]].__getitem__, ())
    assert [stream.push(index) for index in range(3)] == [("", ""), ("", "☃"), ("", "")]
    assert stream.flush(cut=cut) == ("", rest)


def test_a_stop_string_sleeps_until_the_thought_has_ended() -> None:
    said = [b"<think>Question:", b" hm Quest", b"ion: two</th", b"ink>\n\nThe answer is 4. Qu", b"estion: 5", b"?"]
    stream = TextStream(said.__getitem__, ("Question:",), Thinking(opened=False))
    parts = [stream.push(index) for index in range(5)]
    assert "".join(thought for thought, _ in parts) == "Question: hm Question: two"
    assert "".join(answer for _, answer in parts) == "The answer is 4. "
    assert stream.stopped


def test_a_stop_string_that_begins_in_the_thought_ends_nothing() -> None:
    stream = TextStream([b"a STO</think>P b"].__getitem__, ("STOP",), Thinking(opened=True))
    assert (stream.push(0), stream.stopped) == (("a STO", "P b"), False)


def test_without_a_think_block_to_look_for_its_tags_are_text() -> None:
    stream = TextStream([b"<think>a</think>b"].__getitem__, ("a",))
    assert (stream.push(0), stream.stopped, stream.splits) == (("", "<think>"), True, False)


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "think>", "S", "TOP", "STOP", "\n", "é"])),
    st.booleans(),
    st.integers(1, 4),
)
def test_thought_and_answer_are_the_same_however_the_bytes_are_cut(texts: list[str], opened: bool, size: int) -> None:
    whole = "".join(texts).encode()

    def read(pieces: list[bytes]) -> tuple[str, str]:
        stream = TextStream(pieces.__getitem__, ("STOP",), Thinking(opened))
        parts = [stream.push(index) for index in range(len(pieces))] + [stream.flush()]
        return "".join(thought for thought, _ in parts), "".join(answer for _, answer in parts)

    assert read([whole[at : at + size] for at in range(0, len(whole), size)]) == read([whole])
