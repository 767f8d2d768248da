"""Text as it grows: no character is split, and stop strings are found wherever tokens end."""

from hypothesis import given
from hypothesis import strategies as st

from handler.engine.text import Detokenizer, StopStrings, TextStream

STOPS = st.lists(st.text("ab<é", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple)


def cut(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The rule in its plainest form: grow the text by characters, cut where the first stop string completes."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


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


def test_a_stop_string_may_end_inside_a_token() -> None:
    tokens = [b"one ST", b"OP two"]
    stream = TextStream(tokens.__getitem__, ("STOP",))
    assert [stream.push(0), stream.push(1), stream.flush()] == ["one ", "", ""]
    assert stream.stopped


def test_half_a_character_waits_for_its_other_half_and_is_not_lost_at_the_end() -> None:
    snowman = "☃".encode()
    stream = TextStream([snowman[:1], snowman[1:], snowman[:2]].__getitem__, ())
    assert [stream.push(0), stream.push(1), stream.push(2), stream.flush()] == ["", "☃", "", "\ufffd"]
