"""Answers in the language asked for pass and others do not, in prompts of many languages."""

import pytest

from handler.api.enhance import Language
from handler.enhancement.draft import Draft, composed
from handler.enhancement.judge import judged
from handler.enhancement.scripts import speaks
from tests.support.enhancing import a_brief, packs

WORDS = packs().loaded[0].pack.words

LONG = (
    "an old phone booth on a sidewalk under tall trees, its red paint faded and peeling, the glass dusty, ivy on the "
    "roof, people passing by in coats, a dog at the kerb, the street wet and quiet in the morning, soft light"
)
#: prompt, answer, language asked for, whether the answer is in it
ANSWERS: list[tuple[str, str, Language, bool]] = [
    # Abbreviations, sizes, units and brand names in Latin letters are in no language.
    ("一只猫在窗台上", "一只猫在窗台上，柔和的光线，4K，HDR", "same", True),
    ("雪山上的老鹰", "雪山上的老鹰，广角镜头，24 mm，f/1.8，ISO 100，Canon EOS R5", "same", True),
    ("赛博朋克城市", "赛博朋克城市，霓虹灯，8K UHD，Unreal Engine 5", "same", True),
    ("一杯咖啡", "一杯咖啡，浅景深，bokeh效果，木桌上的晨光，细腻的蒸汽", "same", True),
    ("рыжая лиса", "рыжая лиса в снегу, мягкий свет, 4K, HDR, снято на Sony A7", "same", True),
    ("여우 한 마리", "눈 속의 여우 한 마리, 부드러운 빛, 85mm, 4K", "same", True),
    ("ثعلب أحمر", "ثعلب أحمر في الثلج، إضاءة ناعمة، 4K", "same", True),
    ("μια αλεπού", "μια αλεπού στο χιόνι, απαλό φως, HDR", "same", True),
    # Kanji, hiragana and katakana are one writing.
    ("東京の夜景", "東京の夜景、ネオンの光、雨に濡れた道", "same", True),
    ("富士山", "富士山の頂上、夕焼けの空、静かな湖", "same", True),
    ("ラーメン", "湯気の立つラーメン、木の机、暖かい照明", "same", True),
    ("桜", "満開の桜、ピンクの花びら、春の光", "ja", True),
    ("a phone booth", f"{LONG}, 烟囱", "same", True),
    ("Van Gogh's selfie in Van Gogh style", LONG, "same", True),
    # Another writing is another language.
    ("a red fox in the snow", "好的，以下是优化后的提示词：一只红狐在雪地里", "same", False),
    ("a red fox", "красная лиса в снегу", "same", False),
    ("a cup of tea", "a cup of tea, steam rising, 温暖的光线，木质桌面", "same", False),
    ("一只猫", "a cat on a windowsill, soft light", "same", False),
    ("一只猫", "一只猫, soft morning light, shallow depth of field, warm colors", "same", False),
    ("a phone booth", f"{LONG}, 背景从一片漆黑逐渐变为明亮", "same", False),
    ("кошка", "a cat on a windowsill", "same", False),
    ("고양이", "一只猫在窗台上，柔和的光线", "same", False),
    ("東京の夜景", "night view of Tokyo, neon lights", "same", False),
    # Quoted text, and what the prompt has, too, are the user's.
    ("a shop sign", "a shop sign with the words “東京”, soft light, wet street", "same", True),
    ("a teahouse named 茶", "a teahouse named 茶 by a quiet river, lanterns", "same", True),
    ("a fox", "un renard", "same", True),
    ("a fox", "un renard à l'été", "same", False),
    ("a naïve café", "a naïve café on a small street, señor at the door, soft light", "same", True),
    # SDXL answers are English where nothing else is asked for.
    ("一只猫在窗台上", "a cat on a windowsill, soft light, 4K", "en", True),
    ("一只猫在窗台上", "一只猫在窗台上，柔和的光线", "en", False),
    ("ein roter Fuchs im Schnee", "a red fox in the snow, soft light on its fur", "en", True),
    ("ein roter Fuchs im Schnee", "ein roter Fuchs im Schnee, weiches Licht auf dem Fell und der Nase", "en", False),
    ("un renard dans la neige", "un renard roux dans la neige, lumière douce sur les arbres et le lac", "en", False),
    ("un zorro en la nieve", "un zorro rojo en la nieve con luz suave sobre los árboles y el lago", "en", False),
    # Languages in Latin letters are told apart by their function words.
    ("ein Hund auf der Wiese", "a dog on the meadow, with soft light from the left and a house", "same", False),
    ("a dog on the meadow", "ein Hund auf der Wiese mit weichem Licht und einem Haus", "same", False),
    ("un chat sur le toit", "un chat noir sur le toit, avec une lumière douce et des nuages", "same", True),
    ("una casa sobre la colina", "una casa blanca sobre la colina, con luz de la tarde y nubes", "same", True),
    ("a fox", "ein Fuchs im Schnee mit weichem Licht auf dem Fell", "de", True),
    ("a fox", "a fox in the snow with soft light on the fur", "de", False),
    ("a fox", "une renarde dans la neige avec une lumière douce", "fr", True),
    ("a fox", "лиса в снегу, мягкий свет", "ru", True),
    ("a fox", "一只狐狸在雪中", "zh", True),
    ("a fox", "a fox in the snow", "zh", False),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "answer", "language", "passes"), ANSWERS)
def test_an_answer_is_in_the_language_asked_for_or_is_not(
    prompt: str, answer: str, language: Language, passes: bool
) -> None:
    enhanced = judged(a_brief(prompt, language=language), Draft(answer))
    assert enhanced.enhancement is not None
    assert ("language" not in enhanced.enhancement.failed_checks) is passes


#: prompt, language, whether the prompt is in it
SPOKEN: list[tuple[str, Language, bool]] = [
    ("a fox in the snow", "en", True),
    ("fox", "en", True),
    ("masterpiece, best quality, 1girl, blue hair", "en", True),
    ("Café de Flore at night", "en", True),
    ("Rio de Janeiro from above", "en", True),
    ("die hard poster", "en", True),
    ("ein Fuchs im Schnee", "en", False),
    ("ein Fuchs im Schnee", "de", True),
    ("Porträt einer Frau mit Hut", "de", True),
    ("Katze auf dem Tisch", "fr", False),
    ("une femme dans un jardin", "fr", True),
    ("une femme dans un jardin", "es", False),
    ("un perro en la playa con una pelota", "es", True),
    ("un cane nella neve con gli amici", "it", True),
    ("um gato em uma casa com flores", "pt", True),
    ("een kat op het dak van een huis", "nl", True),
    ("一只狐狸", "en", False),
    ("一只狐狸", "zh", True),
    ("雪の中の狐", "zh", False),
    ("雪の中の狐", "ja", True),
    ("東京", "ja", True),
    ("лиса в снегу", "ru", True),
    ("лиса в снегу", "en", False),
    ("여우", "ko", True),
    ("🦊 123", "en", True),
    ("ein Fuchs", "same", True),
    ('a neon sign "ohne dich und mit der Stadt"', "en", True),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "language", "spoken"), SPOKEN)
def test_a_prompt_is_in_a_language_or_is_not(prompt: str, language: Language, spoken: bool) -> None:
    assert speaks(prompt, language, WORDS) is spoken


@pytest.mark.parametrize(
    "prompt", ["一只猫在窗台上", "ein roter Fuchs im Schnee", "雪の中の狐", "лиса", "un chat sur le toit"]
)
def test_no_english_clause_stands_behind_a_prompt_in_another_language(prompt: str) -> None:
    assert composed(a_brief(prompt)) is None
    assert composed(a_brief("a cat on a windowsill")) is not None


def test_sdxl_entries_answer_in_english_and_others_in_the_language_of_the_prompt() -> None:
    languages = [
        a_brief("一只猫", job_type=job_type, language=None).language
        for job_type in ("sdxl_image_fast", "sdxl_image_high", "wan_video_fast")
    ]
    assert languages == ["en", "en", "same"]
