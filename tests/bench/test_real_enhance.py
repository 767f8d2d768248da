"""The hand-made rules that judge enhancements in the bench find what they are for, and let good prompts pass."""

import pytest

from bench.enhance_real_prompts import HELD_ASIDE, WISHES, Wish, faults, kept

FOX = Wish("a red fox in the snow", ("red", "fox", "snow"))
LIGHT = ", low winter sun, long blue shadows, frost on the fur, shallow depth of field"


@pytest.mark.parametrize("wish", WISHES + HELD_ASIDE, ids=lambda wish: wish.text)
def test_a_prompt_with_light_added_in_its_language_has_no_fault_and_keeps_all(wish: Wish) -> None:
    added = {
        "en": LIGHT,
        "de": ", weiches Licht, lange Schatten",
        "fr": ", lumière douce, longues ombres",
        "es": ", luz suave, sombras largas",
        "ru": ", мягкий свет, длинные тени",
        "ja": "、柔らかい光、長い影",
    }
    answer = wish.text + added[wish.language]
    assert faults(wish, answer) == []
    assert all(kept(wish, answer))


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("", "empty"),
        ("a fox", "too short"),
        ("Sure! a red fox in the snow, soft light", "talk"),
        ("a red fox in the snow. This prompt has more detail", "talk"),
        ("a red fox in the snow, and I am the one who sees it", "person"),
        ("a red fox in the snow, what is behind the tree?", "person"),
        ("1. a red fox in the snow\n2. soft light", "markup"),
        ("a red fox in the snow, " + "a beacon of hope, " * 4, "repeats"),
        ("1.1. 2. 1.1. 1.2. 2.2. 3.3. 4.1. 5.1.", "no words"),
    ],
)
def test_each_fault_is_found(answer: str, fault: str) -> None:
    assert fault in faults(FOX, answer)


def test_an_answer_in_another_language_is_found() -> None:
    assert "other language" in faults(Wish("un chat noir", ("chat",), "fr"), "the chat noir is on the roof of a house")
    assert "other language" in faults(Wish("старый мост", ("мост",), "ru"), "an old bridge, soft light, sharp focus")


def test_parts_count_as_kept_only_as_whole_words() -> None:
    assert kept(FOX, "A Red FOX, snowfall") == [True, True, False]
    assert kept(Wish("(red fox:1.3)", ("(red fox:1.3)",)), "(red fox:1.3), frost") == [True]
