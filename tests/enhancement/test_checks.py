"""Checks and score: what they find, what they must not find, and that a failed hard check caps the score."""

from dataclasses import replace

import pytest

from handler.api.enhance import Check, Language
from handler.enhancement import checks, scripts, spans
from handler.enhancement.checks import Candidate
from handler.enhancement.clean import clean
from handler.enhancement.content import content
from handler.enhancement.pack import Fault
from handler.enhancement.score import CAP, score
from handler.enhancement.verdict import verdict
from handler.enhancement.vocabulary import kind_of
from tests.support.enhancing import a_brief, packs

PACK = packs().loaded[0].pack
RULES, WORDS = PACK.rules["image"], PACK.words


def candidate(text: str, prompt: str, language: Language = "same", protect: tuple[str, ...] = ()) -> Candidate:
    found = spans.find(prompt, WORDS, protect)
    fault = verdict(a_brief(prompt, language=language), text) if prompt and prompt != text else None
    return Candidate(text, prompt, found, RULES, WORDS, language, len(text.split()), 0, 75, whole=True, fault=fault)


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
        ("un renard à l'été", "a fox", {"language"}),
        (", ".join(f"fox {place}" for place in range(40)), "a fox", {"budget"}),
        ("a fox, a deep place, a deep place, a deep place, a deep place", "a fox", {"clean"}),
        ("Copy quoted text, tags in angle brackets and weights in parentheses exactly", "a fox", {"clean"}),
        ("What kind of fox would you like?", "a fox", {"clean"}),
        ("a whale in deep water", "a fox", {"subject"}),
        ("a fox", "a fox", set()),
    ],
)
def test_hard_checks(text: str, prompt: str, expected: set[str]) -> None:
    assert failed(text, prompt) == expected


@pytest.mark.parametrize("text", ["Notes on a desk, soft light", '"Go" and "Stop"', "“Go” and “Stop”"])
def test_what_only_looks_put_around_a_prompt_stays(text: str) -> None:
    assert clean(text, "a desk", WORDS) == text
    assert "clean" not in failed(text, "a desk")


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


#: adds more than eight words of content in clauses that describe, and a word of each list
DESCRIBED = "a red fox, thick winter fur, breath over frozen reeds, low soft light on a mossy stone wall, sharp focus"
PARTS = {"words_kept", "bindings", "described", "coverage", "repetition", "added_style", "length"}


def test_a_failed_hard_check_caps_the_score() -> None:
    good = candidate(DESCRIBED, "a red fox")
    value, parts = score(good, checks.check(good))
    assert (value, set(parts)) == (1.0, PARTS)
    bad = replace(good, text=DESCRIBED.replace("red ", ""), prompt="a red fox")
    assert score(bad, checks.check(bad))[0] <= CAP


def test_a_fault_has_a_score_of_its_own_below_that_of_every_prompt() -> None:
    good = candidate(DESCRIBED, "a red fox")
    order: list[Fault] = ["echo", "question", "refusal", "off_subject", "empty"]
    scored = [score(replace(good, fault=fault), checks.check(good))[0] for fault in order]
    assert scored == sorted(scored, reverse=True)
    assert len(set(scored)) == len(scored)
    original = candidate("a red fox", "a red fox")
    assert scored[0] < score(original, checks.check(original))[0]


def test_the_score_is_how_much_is_kept_times_how_well_is_added() -> None:
    some = replace(candidate("a fox, oil painting, soft light, a fox", "a red fox"), tokens=10, min_tokens=40)
    value, parts = score(some, checks.check(some))
    assert parts == {
        "words_kept": 0.5, "bindings": 0, "described": 0, "coverage": 0.3333, "repetition": 0.8571, "added_style": 0.5,
        "length": 0.25,
    }  # fmt: skip
    assert value == round((0.5 + 0) / 2 * (4 * 0 + 2 / 3 + 6 / 7 + 0.5 + 0.25) / 9, 4)
    some = replace(candidate("a red fox, oil painting", "a red fox"), tokens=50, min_tokens=40)
    assert score(some, checks.check(some))[0] == round((2 * 0 + 4 * 0 + 1 * 1 + 1 * 0.5 + 1 * 1) / 9, 4)
    nothing = candidate("", "")
    assert score(nothing, checks.check(nothing))[1] == {**dict.fromkeys(PARTS, 1), "described": 0, "coverage": 0}


def test_weights_that_are_all_zero_leave_their_group_out() -> None:
    weights = RULES.score.model_copy(update={"words_kept": 0, "bindings": 0})
    lost = replace(candidate("a grey wolf", "a red fox"), rules=RULES.model_copy(update={"score": weights}), fault=None)
    assert score(lost, {name: replace_hard(one) for name, one in checks.check(lost).items()})[0] > 0


def replace_hard(check: Check) -> Check:
    """The check as one that caps nothing."""
    return check.model_copy(update={"hard": False})


def test_of_a_text_in_another_language_nothing_is_said_about_the_words_it_keeps() -> None:
    other = replace(candidate("雪の中の狐", "a fox"), translated=True, fault=None)
    assert score(other, checks.check(other))[1].keys() == PARTS - {"words_kept", "bindings"}


@pytest.mark.parametrize(
    ("prompt", "kept", "turned"),
    [
        ("a blue cube on a red sphere", "a glossy blue cube on a dull red sphere", "a red cube on a blue sphere"),
        ("two cats and three dogs", "two grey cats and three wet dogs", "three cats and two dogs"),
        ("a cat on a dog", "a cat asleep on a large dog", "a dog asleep on a large cat"),
        ("ein Kind trägt einen Hund", "ein müdes Kind trägt einen nassen Hund", "ein Hund trägt ein Kind"),
        ("une robe verte et un sac noir", "une robe verte et un grand sac noir", "une robe noire et un sac vert"),
        ("un perro alto y un gato flaco", "un perro muy alto y un gato flaco", "un perro flaco y un gato alto"),
        ("红色的车和蓝色的船", "红色的车停在岸边，蓝色的船漂在湖上", "蓝色的车和红色的船"),
    ],
)
def test_words_that_change_places_are_bound_less(prompt: str, kept: str, turned: str) -> None:
    asked, good, bad = (content(text, WORDS.small) for text in (prompt, kept, turned))
    assert asked.bound_in(good) >= 0.75
    assert asked.bound_in(bad) < asked.bound_in(good)
    assert asked.kept_by(good) == 1


def test_a_clause_is_of_the_kind_that_most_of_its_words_are() -> None:
    told = [
        kind_of(text, WORDS.lexicon, RULES.drop_order)
        for text in ("a fox", "soft light", "oil painting of light", "4k", "bokeh")
    ]
    assert told == ["subject", "lighting", "lighting", "resolution", "technical"]
