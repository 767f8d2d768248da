"""Names, numbers and quoted text of the user's are kept, and are recognised where they are written in another way."""

import pytest

from handler.enhancement import spans
from handler.enhancement.draft import Draft
from handler.enhancement.judge import judged
from handler.enhancement.quotes import quotes
from handler.enhancement.repair import repaired
from tests.support.enhancing import a_brief, packs

WORDS = packs().loaded[0].pack.words

#: prompt, answer, whether the answer keeps what the user fixed
ANSWERS: list[tuple[str, str, bool]] = [
    # Names begin with any capital of any script; words in capitals are names.
    ("AMGERY, monkey guard furious", "a furious monkey guard", False),
    ("AMGERY, monkey guard furious", "AMGERY, a furious monkey guard", True),
    ("a BMW at the lake", "a car at the lake", False),
    ("astronaut with a NASA patch", "an astronaut with a patch", False),
    ("portrait of Élodie Dupont in Łódź", "portrait of a woman in a city", False),
    ("portrait of Élodie Dupont in Łódź", "portrait of Élodie Dupont in Łódź, soft light", True),
    ("portrait of Élodie Dupont in Łódź", "portrait of Elodie Dupont in Lodz", True),
    ("a boat near Ærø at dusk", "a boat near an island at dusk", False),
    ("фото девушки по имени Жанна", "фото девушки на улице", False),
    ("фото девушки по имени Жанна", "фото девушки по имени Жанна, мягкий свет", True),
    ("φωτογραφία από την Αθήνα το βράδυ", "φωτογραφία το βράδυ", False),
    ("a bridge near İzmir in fog", "a bridge in fog", False),
    ("a poster for the McLaren team", "a poster for a racing team", False),
    ("a girl holding an iPhone", "a girl holding a phone", False),
    ("the harbour of St. Petersburg in winter", "a harbour in winter", False),
    ("a café in Paris", "a Parisian café", True),
    ("a Parisian café at noon", "a café in Paris at noon", True),
    ("Ann's cat by the fire with Ann", "the cat of Ann by the fire", True),
    ("a KTM bike", "a Ktm bike", True),
    ("a bear in NYC Times Square", "a bear in NYC's Times Square", True),
    ("AMGERY, 愤怒的猴子", "愤怒的猴子，柔光", False),
    ("Henry VIII at a table", "a king at a table", False),
    ("Vincent van Gogh painting outdoors", "Gogh painting outdoors", True),
    ("Route 66 in Arizona", "Route 66 in a desert", False),
    # What only looks like a name is none.
    ("A FURIOUS MONKEY GUARD", "an angry ape", True),
    ("A Fox In The Deep Snow", "foxes in deep snow", True),
    ("Beautiful girl, Long hair, Blue eyes, Smiling face", "a girl with blue eyes", True),
    ("Old man sleeping. Dogs around him.", "an aged man asleep, hounds around him", True),
    ("ein Hund mit einem Ball auf der Wiese, ein Kind", "ein Welpe mit einem Ball auf einer Wiese, ein Kind", True),
    # Numbers, also glued to words.
    ("3 cats on a sofa", "Three cats on a sofa", True),
    ("three cats on a sofa", "3 cats on a sofa", True),
    ("3 cats on a sofa", "cats on a sofa", False),
    ("3 dogs", "a 3D render of dogs", False),
    ("80 candles", "candles in a mid-80s kitchen", False),
    ("a 4x4 in the mud", "a car in the mud", False),
    ("a 4x4 in the mud", "a rugged 4x4 in deep mud", True),
    ("an F-150 on a farm", "a truck on a farm", False),
    ("an F-150 on a farm", "an F150 on a farm at dusk", True),
    ("3cats playing", "three cats playing", True),
    ("3cats playing", "cats playing", False),
    ("1girl, garden", "a girl in a garden", True),
    ("2girls, garden", "a girl in a garden", False),
    ("80s neon city", "neon city", False),
    ("80s neon city", "a neon city of the 1980s", True),
    ("35mm film photo", "a photo on 35 mm film", True),
    ("5,000 lanterns", "5000 lanterns", True),
    ("5000 lanterns", "5,000 lanterns", True),
    ("a 5'10\" man", "a tall man", False),
    ("a 5'10\" man", "a 5’10” man in a suit", True),
    ("a 3-year-old boy", "a three-year-old boy", True),
    ("R2-D2 in a desert", "a robot in a desert", False),
    ("a Boeing 747 at dawn", "a Boeing at dawn", False),
    ("twenty-one candles", "21 candles", True),
    ("two hundred lanterns", "200 lanterns", True),
    ("a dozen roses", "twelve roses", True),
    ("a couple of swans", "two swans", True),
    ("drei Katzen auf einem Sofa", "3 Katzen auf einem Sofa", True),
    ("drei Katzen auf einem Sofa", "Katzen auf einem Sofa", False),
    ("trois chats sur un toit", "3 chats sur un toit", True),
    ("cinco perros en la playa", "perros en la playa", False),
    ("两只狐狸", "2只狐狸在雪地里", True),
    ("两只狐狸", "狐狸在雪地里", False),
    ("二匹の猫", "2匹の猫、柔らかい光", True),
    ("a 2,5 m wall", "a 2.5 m wall", True),
    ("a three-legged dog", "a 3-legged dog", True),
    ("the 1st prize", "the first prize", True),
    # Other spellings are equal.
    ("a gray sky", "a grey sky", True),
    ("a grey wolf", "a gray wolf", True),
    ("a gray sky", "a sky", False),
    ("a golden ring", "a ring of gold", True),
    ("a silver moon", "a silvery moon", True),
    # Quoted text, in all kinds of marks.
    ('a sign "Open late"', "a sign “Open late” above a door", True),
    ('a sign "Open late"', "a sign 'Open late' above a door", True),
    ('a sign "Open late"', "a sign “Open late,” lit by neon", True),
    ('a sign "Open late"', "a sign above a door", False),
    ("a sign 'Don’t stop'", 'a sign "Don\'t stop"', True),
    ("ein Schild „Zu verkaufen“", "ein Schild »Zu verkaufen« vor einem Haus", True),
    ("ein Schild „Zu verkaufen“", "ein Schild vor einem Haus", False),
    ("une enseigne « Chez Lulu »", 'une enseigne "Chez Lulu" dans la nuit', True),
    ("一块写着「营业中」的牌子", "一块写着“营业中”的牌子，霓虹灯", True),
    ("一块写着「营业中」的牌子", "一块牌子，霓虹灯", False),
    ("看板に『ラーメン』", "看板に「ラーメン」、夜の街", True),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "answer", "kept"), ANSWERS)
def test_what_the_user_fixed_is_kept_or_is_missing(prompt: str, answer: str, kept: bool) -> None:
    enhanced = judged(a_brief(prompt, language="same"), Draft(answer))
    assert enhanced.enhancement is not None
    assert ("protected" not in enhanced.enhancement.failed_checks) is kept


#: text, the quoted parts of it
QUOTED: list[tuple[str, list[str]]] = [
    ('a 10" pizza and a 12" pizza', []),
    ("a 6' wall, a 9' wall", []),
    ("it's his dogs' bowl, isn't it", []),
    ("rock 'n' roll in the '60s and '70s", []),
    ("l'été d'un garçon, l'hiver", []),
    ("10” by 12” prints", []),
    ('a 5\'10" man by a sign "Exit"', ['"Exit"']),
    ("the word 'don't stop' on a wall", ["'don't stop'"]),
    ("‘rock’ ‚jazz‘ ‹soul›", ["‘rock’", "‚jazz‘", "‹soul›"]),
    ("《红楼梦》与『源氏』", ["《红楼梦》", "『源氏』"]),
    ("skylten ”Till salu” i snön", ["”Till salu”"]),
    ('写着"你好"的牌子', ['"你好"']),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), QUOTED)
def test_quotation_marks_quote_and_inches_feet_and_apostrophes_do_not(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in quotes(text)] == expected


#: prompt, answer, the answer with its repairs
REPAIRED: list[tuple[str, str, str]] = [
    ("3 cats on a sofa", "Three cats on a sofa, soft light", "Three cats on a sofa, soft light"),
    ("three cats on a sofa", "cats on a sofa, soft light", "three cats on a sofa, soft light"),
    (
        "a woman in a red dress walking a dog",
        "A woman in a dress walks her dog along the shore. Soft light falls.",
        "A woman in a red dress walks her dog along the shore. Soft light falls.",
    ),
    ("three dogs and two cats", "five dogs and two cats playing", "three dogs and two cats playing"),
    ("a white owl at night", "an owl at night, moonlight", "a white owl at night, moonlight"),
    ("an orange cat", "a cat on a wall, dusk", "an orange cat on a wall, dusk"),
    (
        "a fox, on a hill, no people",
        "A fox rests on a grassy hill. The sun is low.",
        "A fox rests on a grassy hill, no people. The sun is low.",
    ),
    (
        "portrait of Élodie Dupont in Łódź",
        "portrait of a woman in a city, soft light",
        "portrait of Élodie Dupont in Łódź, soft light",
    ),
    (
        'a shop with a sign "Open late", rain',
        "a shop in the rain with a neon sign, reflections",
        'a shop with a sign "Open late", rain, reflections',
    ),
    (
        "AMGERY, monkey guard furious",
        "a furious monkey guard, soft light",
        "AMGERY, a furious monkey guard, soft light",
    ),
    (
        "a man without glasses, hat or beard",
        "a man with a hat and a beard, cafe light",
        "a man without glasses, hat or beard, cafe light",
    ),
    ("a sailor, near Ærø", "a sailor on deck, waves, clouds", "a sailor on deck, near Ærø, waves, clouds"),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "answer", "expected"), REPAIRED)
def test_a_repair_goes_where_it_reads_well_and_nothing_is_doubled(prompt: str, answer: str, expected: str) -> None:
    brief = a_brief(prompt, language="same")
    text, _ = repaired(brief, answer)
    assert text == expected
    assert repaired(brief, text) == (text, ())


def test_marks_of_inches_belong_to_a_number_and_words_glued_to_it_do_not() -> None:
    prompt = "a 5'10\" man, a 12\" disc, 3cats, a 4x4, 24-70mm, mid-80s, 1990's, 50%"
    found = [span.text for span in spans.find(prompt, WORDS, ()) if span.kind == "count"]
    assert found == ["5'10\"", '12"', "3", "4x4", "24-70mm", "mid-80s", "1990", "50"]


def test_a_translation_keeps_words_in_capitals_numbers_and_quoted_text() -> None:
    prompt = "AMGERY, ein Affe mit drei Bananen, ein Schild „Zoo“ und ein iPhone, Anna Schmidt, ohne Hut"
    brief = a_brief(prompt, language="en")
    assert {(span.kind, span.text) for span in brief.spans} == {
        ("name", "AMGERY"), ("count", "drei"), ("quoted", "„Zoo“"), ("name", "iPhone"),
    }  # fmt: skip
    assert spans.missing("AMGERY, an ape with 3 bananas, a sign “Zoo”, an iPhone", brief.spans) == ()
