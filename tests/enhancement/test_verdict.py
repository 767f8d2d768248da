"""Answers that are no prompt are told from those that are, whatever the user's own words look like."""

import json
from pathlib import Path
from typing import Any

import pytest

from handler.enhancement.clauses import one_line
from handler.enhancement.clean import clean
from handler.enhancement.verdict import verdict
from tests.support.enhancing import a_brief

DATA = Path(__file__).parent / "data"
Case = dict[str, Any]
#: kana count as another language than kanji so far, and German as English
LATER = pytest.mark.xfail(reason="languages are told apart by their scripts alone", strict=False)


def cases(name: str) -> list[Any]:
    """The cases of a file: a prompt, an answer, and what is right: a fault, or a text, or the answer as it came."""
    read: list[Case] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return [
        pytest.param(case, id=f"{case['prompt']} -> {case['answer']}"[:90], marks=LATER if "needs" in case else ())
        for case in read
    ]


def judge(case: Case) -> tuple[str | None, str]:
    """The fault of an answer, and its text without what is around it."""
    brief = a_brief(case["prompt"], **{name: case[name] for name in ("job_type", "language") if name in case})
    text = clean(case["answer"], case["prompt"], brief.words)
    return verdict(brief, text, begun=case.get("begun", False)), text


@pytest.mark.parametrize("case", cases("field"))
def test_what_models_answered_in_the_field_is_judged_rightly(case: Case) -> None:
    fault, text = judge(case)
    assert fault == case.get("fault")
    if "clean" in case:
        assert text == case["clean"]


@pytest.mark.parametrize("case", cases("bad_answers"))
def test_an_answer_that_is_no_prompt_has_its_fault(case: Case) -> None:
    assert judge(case)[0] == case["fault"]


@pytest.mark.parametrize("case", cases("good_answers"))
def test_a_prompt_that_looks_like_talk_is_none_and_is_not_cut(case: Case) -> None:
    fault, text = judge(case)
    assert (fault, one_line(text)) == (None, one_line(case["answer"]))


@pytest.mark.parametrize("case", cases("wrapped"))
def test_the_one_text_is_taken_out_of_what_is_around_it(case: Case) -> None:
    assert judge(case) == (None, case["clean"])


def test_a_prompt_that_has_the_tokens_of_a_result_may_be_put_in_another_order() -> None:
    prompt = ", ".join(f"{word} stones in a row" for word in ("grey", "wet", "flat", "round", "mossy", "old", "dry"))
    other = ", ".join(reversed(prompt.split(", ")))
    assert verdict(a_brief(prompt), other) is None
    assert verdict(a_brief(prompt), prompt.upper()) == "unchanged"
    assert verdict(a_brief(prompt, job_type="video_high"), other) == "unchanged"


def test_the_callers_own_messages_have_no_echo_of_the_packs() -> None:
    said = "a wolf on a hill, copy quoted text, tags in angle brackets and weights in parentheses exactly"
    assert verdict(a_brief("a wolf on a hill"), said) == "echo"
    assert verdict(a_brief("a wolf on a hill", system_prompt="Rewrite."), said) is None


def test_the_packs_messages_are_no_echo_where_the_user_wrote_the_same() -> None:
    prompt = "a poster: Copy quoted text, tags in angle brackets and weights in parentheses exactly"
    assert verdict(a_brief(prompt), f"{prompt}, torn edges, rain on a brick wall, yellow street lamps") is None


def test_of_an_answer_that_was_begun_with_the_prompt_only_the_rest_is_judged() -> None:
    prompt = "I'm sorry, can you help me? no no no no no no no,"
    brief = a_brief(prompt)
    assert verdict(brief, "I'm sorry, can you help me? no no no no no no no, a card on wet asphalt", begun=True) is None
    assert verdict(brief, prompt, begun=True) == "unchanged"
    assert verdict(brief, f"{prompt} this enhanced prompt adds depth", begun=True) == "question"


def test_a_prompt_that_is_long_enough_makes_no_addition_of_an_empty_continuation() -> None:
    prompt = ", ".join(f"{word} pebbles by the sea" for word in ("grey", "wet", "flat", "round", "mossy", "old", "dry"))
    again = f"{prompt}, wet and mossy"
    assert verdict(a_brief(prompt), again, begun=True) == "unchanged"
    assert verdict(a_brief(prompt), f"{prompt} -", begun=True) == "unchanged"
    assert verdict(a_brief(prompt), again) is None
