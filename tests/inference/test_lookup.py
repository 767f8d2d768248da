"""Prompt lookup guesses the tokens that followed the same three before; how many depends on its success."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.inference.lookup import CONTEXT, Lookup


@pytest.mark.parametrize(
    ("tokens", "guess"),
    [
        ([1, 2, 3, 4, 5, 6, 1, 2, 3], [4, 5, 6, 1]),
        ([1, 2, 3, 8, 1, 2, 3, 9, 7, 1, 2, 3], [9, 7, 1, 2]),  # the last time counts
        ([1, 2, 3, 1, 2, 3], [1, 2, 3]),
        ([5, 5, 5, 5], [5]),
        ([1, 2, 3, 4, 2, 3], []),
        ([1, 2, 3], []),
        ([1], []),
    ],
)
def test_what_followed_the_same_three_tokens_follows_again(tokens: list[int], guess: list[int]) -> None:
    assert [*Lookup(4).guess(tokens, 9)] == guess


def test_no_more_is_guessed_than_there_is_room_for() -> None:
    assert [*Lookup(4).guess([1, 2, 3, 4, 5, 6, 1, 2, 3], 2)] == [4, 5]


def test_wrong_guesses_make_it_shy_and_right_ones_bold_again() -> None:
    lookup, tokens = Lookup(4), [1, 2, 3, 4, 5, 6, 1, 2, 3]
    sizes = []
    for right in (0, 1, 2, 3, 4, 2, 2, 4):
        guess = lookup.guess(tokens, 9)
        sizes.append(len(guess))
        lookup.learn(len(guess), min(right, len(guess)))
    assert sizes == [4, 1, 2, 4, 3, 4, 2, 4]


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 40), max_size=8))
def test_in_steps_of_any_size_the_guess_is_that_of_a_plain_search(tokens: list[int], stops: list[int]) -> None:
    lookup = Lookup(5)
    for stop in sorted(stops):
        lookup.guess(tokens[:stop], 5)
    end = tokens[-CONTEXT:]
    starts = [at for at in range(CONTEXT, len(tokens)) if tokens[at - CONTEXT : at] == end]
    assert [*lookup.guess(tokens, 5)] == (tokens[starts[-1] :][:5] if starts else [])
