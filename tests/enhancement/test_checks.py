"""Checks and score: what they find, what they must not find, and that a failed hard check caps the score."""

from dataclasses import replace

import pytest

from handler.api.enhance import Language
from handler.enhancement import checks, scripts, spans
from handler.enhancement.checks import Candidate
from handler.enhancement.clean import clean
from handler.enhancement.score import CAP, score
from handler.enhancement.vocabulary import kind_of
from tests.support.enhancing import packs

PACK = packs().loaded[0].pack
RULES, WORDS = PACK.rules["image"], PACK.words


def candidate(text: str, prompt: str, language: Language = "same", protect: tuple[str, ...] = ()) -> Candidate:
    found = spans.find(prompt, WORDS, protect)
    return Candidate(text, prompt, found, RULES, WORDS, language, len(text.split()), 0, 75, whole=True)


def failed(text: str, prompt: str, language: Language = "same") -> set[str]:
    found = checks.check(candidate(text, prompt, language))
    return {name for name, one in found.items() if one.hard and not one.passed}


def kinds(prompt: str, *protect: str) -> set[tuple[str, str]]:
    return {(span.kind, span.text) for span in spans.find(prompt, WORDS, protect)}


def test_what_a_user_fixed_is_found_in_the_prompt() -> None:
    prompt = 'three blue cats and 2 dogs in New York, a sign "Go Red", no people, <lora:ink:0.7>, (fog:1.3), BREAK'
    assert kinds(prompt, "ohwx") == {
        ("count", "three"), ("count", "2"), ("colour", "blue"), ("name", "New York"), ("quoted", '"Go Red"'),
        ("negation", "no people"), ("syntax", "<lora:ink:0.7>"), ("syntax", "(fog:1.3)"), ("syntax", "BREAK"),
        ("asked", "ohwx"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "prompt",
    [
        "A Fox In The Deep Snow",
        "reddish snow",
        "nobility and notes",
        "someone's cat",
        "<|im_end|>",
        "it's his, isn't it",
        "a fox (sleeping)",
    ],
)
def test_what_only_looks_fixed_is_not(prompt: str) -> None:
    assert kinds(prompt) == set()


def test_what_a_pack_leaves_free_is_not_fixed() -> None:
    none = {"syntax": False, "quoted": False, "names": False, "negations": ()}
    free = WORDS.model_copy(update={"protect": WORDS.protect.model_copy(update=none)})
    prompt = 'a fox in New York by a sign "Go Red", no people, <lora:ink:0.7>'
    assert (len(spans.find(prompt, WORDS, ())), spans.find(prompt, free, ())) == (4, ())


def test_more_is_not_protected_than_can_be_put_back_in_time() -> None:
    assert len(spans.find(" ".join(map(str, range(500))), WORDS, ())) == spans.MAX_SPANS


@pytest.mark.parametrize(
    ("text", "prompt", "expected"),
    [
        ("a red fox", "a red fox", set()),
        ("a fox", "a red fox", {"protected"}),
        ("three foxes", "3 foxes", set()),
        ("a Red fox", "a red fox", set()),
        ("a street without any people", "a street, no people", set()),
        ("a street", "a street, no people", {"negation"}),
        ("a street, no cars", "a street, no people", {"negation"}),
        ("a street full of people, no people", "a street, no people", {"negation"}),
        ("people far off, no people near", "people far off, no people near", set()),
        ("Here is the prompt: a fox", "a fox", {"clean"}),
        ('"a fox"', "a fox", {"clean"}),
        ("**a fox**", "a fox", {"clean"}),
        ("a fox <think>hm", "a fox", {"clean"}),
        ("I cannot do that", "a fox", {"clean"}),
        ("I cannot see, a blind fox", "I cannot see, a fox", set()),
        ("一只狐狸", "a fox", {"language"}),
        ("a fox, 狐", "a fox", {"language"}),
        ("a fox at a 茶 house", "a fox at 茶", set()),
        ("一只狐狸, 雪", "一只狐狸", set()),
        ("a fox", "🦊", set()),
        ("un renard", "a fox", set()),
        ("un renard à l'été", "a fox", {"language"}),
        ("a fox " * 40, "a fox", {"budget"}),
    ],
)
def test_hard_checks(text: str, prompt: str, expected: set[str]) -> None:
    assert failed(text, prompt) == expected


@pytest.mark.parametrize("text", ["Notes on a desk, soft light", '"Go" and "Stop"', "“Go” and “Stop”"])
def test_what_only_looks_put_around_a_prompt_stays(text: str) -> None:
    assert clean(text, "a desk", WORDS) == (text, None)


@pytest.mark.parametrize(
    ("text", "prompt", "language", "passes"),
    [
        ("一只狐狸", "a fox", "zh", True),
        ("a fox", "a fox", "zh", False),
        ("a fox", "一只狐狸", "en", True),
        ("一只狐狸", "一只狐狸", "en", False),
        ("лиса", "a fox", "ru", True),
        ("снежная лиса 4k", "a fox", "ru", True),
        ("123", "a fox", "en", True),
    ],
)
def test_the_language_is_the_one_asked_for(text: str, prompt: str, language: Language, passes: bool) -> None:
    assert ("language" not in failed(text, prompt, language)) is passes


def test_a_prompt_without_letters_is_in_no_other_script() -> None:
    assert [scripts.speaks(prompt, "ru", WORDS) for prompt in ("123", "a fox", "лиса")] == [True, False, True]


def test_a_word_is_kept_by_its_first_five_letters_and_each_unspaced_character_is_one() -> None:
    found = checks.check(candidate("a painting of foxes, 狐", "a painted fox, 狐狸"))
    assert found["words_kept"].found == ("fox", "狸")


def test_soft_checks_say_what_they_found() -> None:
    text = "a fox, oil painting, soft light, a fox in the deep snow, a fox in the deep snow"
    found = checks.check(candidate(text, "a fox with barns"))
    assert found["words_kept"].found == ("barns",)
    assert found["added_style"].found == ("oil painting",)
    assert "a fox in the" in found["repetition"].found
    assert set(found["coverage"].found) == {"quality", "technical"}
    assert failed("a fox, oil painting", "a fox") == set()


def test_a_failed_hard_check_caps_the_score() -> None:
    good = candidate("a red fox, soft light, sharp focus, fine texture", "a red fox")
    value, parts = score(good, checks.check(good))
    assert (value, set(parts)) == (1.0, {"words_kept", "coverage", "repetition", "added_style", "length"})
    bad = replace(good, text="a fox, soft light, sharp focus, fine texture")
    assert score(bad, checks.check(bad))[0] == CAP


def test_the_score_is_the_packs_weighted_mean_of_parts_that_each_say_how_much_of_a_rule_is_kept() -> None:
    some = replace(candidate("a fox, oil painting, soft light, a fox", "a red fox"), tokens=10, min_tokens=40)
    value, parts = score(some, checks.check(some))
    assert parts == {"words_kept": 0.5, "coverage": 0.3333, "repetition": 0.8571, "added_style": 0.5, "length": 0.25}
    assert value == round((4 * 0.5 + 2 / 3 + 6 / 7 + 0.5 + 0.25) / 9, 4)
    some = replace(candidate("a red fox, oil painting", "a red fox"), tokens=50, min_tokens=40)
    assert score(some, checks.check(some)) == (
        round((4 * 1 + 2 * 0 + 1 * 1 + 1 * 0.5 + 1 * 1) / 9, 4),
        {"words_kept": 1, "coverage": 0, "repetition": 1, "added_style": 0.5, "length": 1},
    )
    nothing = candidate("", "")
    assert score(nothing, checks.check(nothing))[1] == {**dict.fromkeys(parts, 1), "coverage": 0}


def test_a_clause_is_of_the_kind_that_most_of_its_words_are() -> None:
    told = [
        kind_of(text, WORDS.lexicon, RULES.drop_order)
        for text in ("a fox", "soft light", "oil painting of light", "4k", "bokeh")
    ]
    assert told == ["subject", "lighting", "lighting", "resolution", "technical"]
