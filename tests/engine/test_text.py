"""Text as it grows: no character is split, and stop strings are found wherever tokens end."""

from hypothesis import given
from hypothesis import strategies as st

from handler.engine.text import Detokenizer, TextStream


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
    assert [stream.push(0), stream.push(1), stream.flush()] == ["one ", "", ""]
    assert stream.stopped


def test_half_a_character_waits_for_its_other_half_and_is_not_lost_at_the_end() -> None:
    snowman = "☃".encode()
    stream = TextStream([snowman[:1], snowman[1:], snowman[:2]].__getitem__, ())
    assert [stream.push(0), stream.push(1), stream.push(2), stream.flush()] == ["", "☃", "", "\ufffd"]
