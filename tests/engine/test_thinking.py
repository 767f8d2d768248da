"""Reasoning and answer are told apart while they grow, and nothing of either is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.engine.thinking import Thinking


def split(chunks: list[str], opened: bool = False) -> tuple[str, str]:
    thinking = Thinking(opened)
    parts = [*(thinking.push(chunk) for chunk in chunks), thinking.flush()]
    return "".join(reasoning for reasoning, _ in parts), "".join(answer for _, answer in parts)


@pytest.mark.parametrize(
    ("text", "opened", "parts"),
    [
        ("plain", False, ("", "plain")),
        ("\n\nplain", False, ("", "\n\nplain")),
        ("<think>\nhm\n</think>\n\nyes", False, ("hm\n", "yes")),
        ("\n<think></think>yes", False, ("", "yes")),
        ("hm</think>yes </think>", True, ("hm", "yes </think>")),
        ("\nhm</think>yes", True, ("hm", "yes")),
        ("<think>", False, ("", "")),
        ("<think>never closed", False, ("never closed", "")),
        ("<think>half</thi", False, ("half</thi", "")),
        ("<thin", False, ("", "<thin")),
        ("no <think>block</think>", False, ("", "no <think>block</think>")),
    ],
)
def test_a_think_block_is_told_apart_from_the_answer(text: str, opened: bool, parts: tuple[str, str]) -> None:
    assert split([text], opened) == parts
    assert split(list(text), opened) == parts


def test_what_can_begin_no_tag_waits_for_nothing() -> None:
    assert [Thinking(opened).push("Hi <") for opened in (False, True)] == [("", "Hi <"), ("Hi ", "")]


@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "think>", "/", "\n", "a", " "])), st.booleans())
def test_a_think_block_is_told_apart_the_same_under_any_chunking(chunks: list[str], opened: bool) -> None:
    assert split(chunks, opened) == split(["".join(chunks)], opened)
