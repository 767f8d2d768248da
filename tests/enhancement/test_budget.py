"""Fitting: never over budget, nothing cut inside a word, the user's own constraints last of all; on real tokenizers."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from handler.enhancement import budget, choice, clauses
from handler.enhancement.brief import Brief
from handler.enhancement.draft import Draft, composed, draft, over_budget, ranking
from handler.enhancement.judge import judged
from handler.enhancement.regions import Regions
from handler.enhancement.spans import missing, regions, unbroken
from tests.support.enhancing import PROMPTS, TEXTS, a_brief, genuine_encoders, needs_data, pack_json

#: in a script without spaces every character may end a word
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def fitted(prompt: str, answer: str, **fields: Any) -> str:
    made = draft(a_brief(prompt, **fields), answer, "stop")
    assert isinstance(made, Draft)
    return made.text


def words(count: int) -> dict[str, Any]:
    return {"target": {"encoder": "qwen", "max_tokens": count}}


@given(TEXTS)
def test_clauses_joined_again_are_the_text(text: str) -> None:
    assert "".join(clause.text for clause in clauses.split(text)) == text


def test_quoted_text_and_syntax_are_no_place_for_a_clause_to_end() -> None:
    brief = a_brief('a sign "Open, late", (fog, rain:1.2), dusk, "Open, late"')
    bodies = [clause.body for clause in clauses.split(brief.prompt, unbroken(brief.prompt, brief.spans))]
    assert bodies == ['a sign "Open, late"', "(fog, rain:1.2)", "dusk", '"Open, late"']


def test_no_clause_ends_within_what_was_asked_for() -> None:
    brief = a_brief("a fox", protect=["red, dusk"])
    assert [one.body for one in clauses.split("a fox, red, dusk", unbroken("a fox, red, dusk", brief.spans))] == [
        "a fox",
        "red, dusk",
    ]


def test_the_subject_stays_then_one_clause_of_each_wanted_kind_and_then_whatever_fits() -> None:
    answer = "a fox by a stream, oil painting, deep focus lens, soft light, a stone wall, highly detailed, best quality"
    assert fitted("a fox", answer, **words(14)) == (
        "a fox by a stream, deep focus lens, soft light, highly detailed, best quality"
    )
    assert fitted("a fox", answer, **words(12)) == "a fox by a stream, deep focus lens, soft light, highly detailed"
    assert fitted("a fox", answer, **words(11)) == "a fox by a stream, soft light, highly detailed, best quality"
    assert fitted("a fox", answer, **words(7)) == "a fox by a stream, highly detailed"


def test_a_wanted_kind_that_is_there_already_takes_no_room_of_another() -> None:
    answer = "a fox in soft light, backlight, highly detailed, sharp focus, f/1.8"
    assert fitted("a fox", answer, **words(10)) == "a fox in soft light, highly detailed, sharp focus, f/1.8"


def test_no_clause_that_fits_is_left_out_for_one_that_does_not() -> None:
    answer = "a fox, rim light from a low sun behind the hills far away, backlight, a mossy old wall, ferns"
    assert fitted("a fox", answer, **words(4)) == "a fox, backlight, ferns"


def test_the_subject_of_a_prompt_that_is_too_long_outlives_its_names_and_numbers() -> None:
    prompt = (
        "masterpiece, an old fisherman mending a torn net on a wooden pier at low tide, shot by Anders in Bergen, "
        "Fujifilm, 16:9, 35mm, 1/200, soft light, gulls"
    )
    assert over(prompt, 20) == (
        "an old fisherman mending a torn net on a wooden pier at low tide, Anders Bergen, Fujifilm, 16:9, 35mm, 1/200"
    )
    assert over(prompt, 14) == "an old fisherman mending a torn net on, Anders Bergen, Fujifilm, 16:9, 35mm, 1/200"
    assert over(prompt, 6) == "an old, Anders Bergen, Fujifilm, 16:9"
    assert over(prompt, 3) == "an, Anders Bergen"


def test_tags_cost_nothing_so_that_a_prompt_with_five_of_them_is_no_longer_than_its_words() -> None:
    prompt = " ".join(f"word{index}" for index in range(16)) + " <lora:some_long_name:0.8>" * 5
    brief = a_brief(prompt, **words(16))
    assert brief.budget is not None
    assert (brief.budget.count(prompt), brief.limit.fits(prompt)) == (16, True)
    assert over(prompt, 2) == "word0 word1" + " <lora:some_long_name:0.8>" * 5


def over(prompt: str, tokens: int) -> str:
    return over_budget(a_brief(prompt, **words(tokens))).text


def test_what_went_is_told_with_its_class() -> None:
    made = draft(a_brief("a fox", **words(4)), "a fox, oil painting, soft light", "stop")
    assert isinstance(made, Draft)
    assert [(one.kind, one.text) for one in made.trimmed] == [("style", "oil painting")]


def test_where_what_is_fixed_just_fits_nothing_of_it_is_trimmed() -> None:
    made = draft(a_brief("a red fox", **words(3)), "a red fox, oil painting", "stop")
    assert isinstance(made, Draft)
    assert (made.text, [one.text for one in made.trimmed]) == ("a red fox", ["oil painting"])


def test_what_was_asked_for_outlives_the_users_own_words_and_those_come_once() -> None:
    assert fitted("a fox, an oak", "a fox, an oak, ohwx style", protect=["ohwx"], **words(4)) == "a fox, ohwx style"
    assert fitted("a fox", "a fox, a fox, highly detailed", **words(4)) == "a fox, highly detailed"


def test_a_clause_that_brings_the_users_words_outlives_quality_tags() -> None:
    assert fitted("a fox under an old oak", "highly detailed, a fox, an old oak", **words(5)) == "a fox, an old oak"


def test_a_clause_too_long_for_the_budget_loses_words_and_keeps_what_is_protected() -> None:
    prompt = "a very long clause about many small things with three blue boats and no people at all"
    assert over_budget(a_brief(prompt, **words(6))).text == "a very three blue no people"


def test_an_extension_leads_with_the_users_letters_and_does_not_say_them_again() -> None:
    assert fitted("a  Fox \n", "a fox, deep snow, soft light", mode="extend") == "a  Fox, deep snow, soft light"
    assert fitted("A fox.", "deep snow", mode="extend") == "A fox, deep snow"
    assert fitted("a fox", "a fox, mist", mode="extend", **words(2)) == "a fox"


def test_a_clause_that_brings_what_is_fixed_is_no_repetition() -> None:
    assert fitted("without a hat, 0, ", "0, snow") == "without a hat, 0, snow"
    assert fitted("a red fox", "a fox, 🦊, deep snow") == "a red fox, 🦊, deep snow"


def test_composition_takes_the_packs_clauses_that_fit_one_of_each_kind_first() -> None:
    made = composed(a_brief("a fox", **words(6)))
    assert made is not None
    assert made.text == "a fox, best quality, balanced composition"


@given(st.integers(0, 60), st.sets(st.integers(1, 60)))
def test_the_longest_prefix_fits_even_where_counts_do_not_grow_with_the_text(length: int, bad: set[int]) -> None:
    found = choice._longest(range(length), lambda indexes: len(indexes) not in bad)
    assert len(found) not in bad


@given(st.integers(0, 60), st.integers(0, 70))
def test_it_is_the_longest_where_they_do(length: int, room: int) -> None:
    assert len(choice._longest(range(length), lambda indexes: len(indexes) <= room)) == min(length, room)


def holds(brief: Brief, made: Draft, *sources: str) -> None:
    """What every fitted text keeps to."""
    assert brief.limit.fits(made.text)
    assert budget.fit(made.text, brief.limit, ranking(brief)).text == made.text
    known = {word for source in sources for word in WORD.findall(source)}
    assert set(WORD.findall(made.text)) <= known
    assert brief.budget is not None
    prompt = brief.prompt
    units = [
        prompt[start:end]
        for start, end in clauses.words(prompt, regions(prompt, brief.spans))
        if Regions(regions(prompt, brief.spans)).overlap((start, end))
    ]
    # Where the clause that names the subject does not fit beside them, neither pushes the other out.
    subject = max((clause.text for clause in clauses.split(prompt)), key=len, default="")
    if brief.limit.fits(" ".join([*units, subject])):
        assert missing(made.text, brief.spans) == ()


WITHOUT_ANATOMY = pack_json()
del WITHOUT_ANATOMY["words"]["lexicon"]["anatomy"]
ENTRIES = st.sampled_from(["sdxl_image_fast", "sdxl_image_high", "wan_video_fast"])
BUDGETS = st.none() | st.sampled_from([1, 5, 20, 75])


@needs_data
@settings(deadline=None)
@given(PROMPTS, TEXTS, ENTRIES, BUDGETS)
def test_a_rewritten_prompt_keeps_to_its_budget_and_to_the_users_constraints(
    prompt: str, answer: str, entry: str, max_tokens: int | None
) -> None:
    target = {} if max_tokens is None else {"target": {"encoder": "clip", "max_tokens": max_tokens}}
    brief = a_brief(prompt, genuine_encoders(), job_type=entry, **target)
    made = over_budget(brief) if not brief.limit.fits(prompt) else draft(brief, answer, "stop")
    assume(isinstance(made, Draft))
    assert isinstance(made, Draft)
    holds(brief, made, prompt, answer, *(span.text for span in brief.spans))


ANATOMY = st.sampled_from(["a relaxed pose", "hands", "a smiling face, hands raised", "gesture", "body, eyes, gaze"])


@given(PROMPTS, st.lists(TEXTS | ANATOMY, max_size=6).map(", ".join), ENTRIES)
def test_a_list_that_no_rule_names_changes_nothing_in_a_draft_and_its_score(
    prompt: str, answer: str, entry: str
) -> None:
    brief, other = (a_brief(prompt, job_type=entry, pack=pack, **words(12)) for pack in (pack_json(), WITHOUT_ANATOMY))
    made = draft(brief, answer, "stop")
    assert draft(other, answer, "stop") == made
    if isinstance(made, Draft):
        one, two = judged(brief, made), judged(other, made)
        assert one.quality_score == two.quality_score
        assert one.enhancement is not None
        assert two.enhancement is not None
        assert one.enhancement.failed_checks == two.enhancement.failed_checks


@needs_data
@settings(deadline=None)
@given(PROMPTS, TEXTS, ENTRIES)
def test_an_extended_prompt_leads_with_the_users_whole_text_wherever_that_fits(
    prompt: str, answer: str, entry: str
) -> None:
    brief = a_brief(prompt, genuine_encoders(), job_type=entry, mode="extend")
    made = draft(brief, answer, "stop")
    assume(isinstance(made, Draft))
    assert isinstance(made, Draft)
    over = not brief.limit.fits(prompt)
    enhancement = judged(brief, made).enhancement
    assert enhancement is not None
    assert enhancement.budget is not None
    assert enhancement.budget.input_over_budget is over
    assert over or made.text.startswith(prompt.rstrip().rstrip(".,;:。，；：、").rstrip())
    holds(brief, made, prompt, answer)


@pytest.mark.parametrize("noise", ["!", "(", " ", "1,", "'", "\n", "<think>", "A", "no ", "<|", "[a:", "“"])
def test_no_text_takes_long(noise: str, seconds: Callable[[], float]) -> None:
    noise = noise * (19_999 // len(noise)) + "x"
    brief = a_brief(noise)
    over_budget(brief)
    draft(brief, noise, "stop")
    assert seconds() < 5
