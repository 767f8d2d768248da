"""Syntax that parts texts keeps its place: BREAK, sections, time marks, one prompt a line."""

import pytest

from handler.enhancement.clean import clean
from handler.enhancement.repair import repaired
from tests.support.enhancing import a_brief


def mended(prompt: str, answer: str, language: str = "same") -> str:
    brief = a_brief(prompt, language=language)
    return repaired(brief, clean(answer, prompt, brief.words))[0]


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        (
            "a girl in a red dress BREAK a boy in a blue shirt",
            "a girl in a red dress and a boy in a blue shirt, soft light",
            "a girl in a red dress BREAK a boy in a blue shirt, soft light",
        ),
        (
            "a girl BREAK a boy BREAK a dog",
            "a girl in silk, a boy in wool, a dog asleep",
            "a girl in silk BREAK a boy in wool BREAK a dog asleep",
        ),
        ("a girl BREAK a boy BREAK a dog", "a girl BREAK a boy and a dog", "a girl BREAK a boy BREAK a dog"),
        ("a girl BREAK a girl", "a girl in silk", "a girl in silk BREAK a girl"),
        ("a cat BREAK a wolf", "a cat on a mat", "a cat on a mat BREAK a wolf"),
        ("a fox [5s] a wolf", "a fox runs, a wolf sleeps", "a fox runs [5s] a wolf sleeps"),
        (
            "[1s: a fox runs] [3s-5s: a wolf sleeps]",
            "a fox runs in snow, a wolf sleeps in a den",
            "[1s: a fox runs] [3s-5s: a wolf sleeps]",
        ),
        (
            "a woman in a park <segment:face> green eyes",
            "a woman in a park at dawn, bright green eyes",
            "a woman in a park at dawn <segment:face> bright green eyes",
        ),
        ("a fox\na wolf", "a fox in snow\n\na wolf in a den", "a fox in snow\na wolf in a den"),
        ("a fox\na wolf", "a fox in snow, a wolf in a den", "a fox in snow\na wolf in a den"),
        ("a fox", "a fox in snow\na wolf in a den", "a fox in snow, a wolf in a den"),
    ],
)
def test_marks_and_lines_stand_where_the_user_put_them(prompt: str, answer: str, expected: str) -> None:
    assert mended(prompt, answer) == expected


def test_a_translation_has_the_marks_between_its_clauses() -> None:
    assert mended("ein Hund BREAK eine Katze", "a dog runs, a cat sleeps", "en") == "a dog runs BREAK a cat sleeps"
