"""What the user negates stays out of the picture: through lists, in several languages, and idioms negate nothing."""

import pytest

from handler.enhancement.draft import Draft
from handler.enhancement.judge import judged
from handler.enhancement.negation import negated, without
from handler.enhancement.spans import reversed_in
from tests.support.enhancing import a_brief, packs

WORDS = packs().loaded[0].pack.words

#: prompt, answer, whether the answer keeps what the user negated
ANSWERS: list[tuple[str, str, bool]] = [
    ("a man without glasses, hat or beard", "a man with a hat and a beard", False),
    ("a man without glasses, hat or beard", "a man without glasses, hat or beard, soft light", True),
    ("a man without glasses, hat or beard", "a man with no glasses, no beard and no hat", True),
    ("no cats or dogs, a park", "a park with dogs", False),
    ("no cats or dogs, a park", "a park, free of cats and dogs", True),
    ("she doesn't smile", "she looks up, smiling softly", False),
    ("she doesn’t smile", "she does not smile, soft light", True),
    ("don't add people, a beach", "people walking along a beach", False),
    ("a cat not wearing a hat", "a cat with a hat", False),
    ("a cat not wearing a hat", "a cat without any hat", True),
    ("a street, no people, cars or text", "a street with no people, cars parked", False),
    ("a street, no people, cars or text", "a street, no people, some text on a wall, no cars", False),
    ("a street, no people, cars or text", "a street without people, cars or text", True),
    ("a street devoid of people and free of cars", "a street devoid of people and free of cars, dusk", True),
    ("no people, no cars, a street", "a street devoid of people and free of cars", True),
    ("nothing but sand", "sand to the horizon", True),
    ("no doubt a fine day, a meadow", "a fine day, a meadow", True),
    ("not only roses, lilies too", "roses and lilies", True),
    ("a house no longer white", "an old house, once white", True),
    ("a no-nonsense cop", "a stern cop, serious", True),
    # The number of the noun, and its phrase.
    ("a garden without cats", "a garden with a cat", False),
    ("a man without glasses", "a man with a glass in his hand", False),
    ("a city with no buses", "a bus on a city street", False),
    ("a lawn, no leaves", "a lawn with a single leaf", False),
    ("a room, no children", "a child in a room", False),
    ("a road, no red cars", "a road with blue cars, no red cars", True),
    ("a road, no red cars", "a road, red cars racing, no red cars near", False),
    ("a park, no cars", "a caring mother in a park, no cars", True),
    ("no visible people, a harbour", "a harbour with people", False),
    ("no other animals, a lion", "a lion among animals", False),
    ("a field, no sign of people", "a field, people at work", False),
    # Other words that negate.
    ("a plaza, avoid crowds", "a plaza with crowds", False),
    ("exclude text, a poster", "a poster with text", False),
    ("a portrait, excluding hands", "a portrait with hands folded", False),
    ("a room empty of furniture", "a room full of furniture", False),
    ("a sky lacking clouds", "a sky with clouds", False),
    ("neither dogs nor cats, a yard", "a yard with cats", False),
    ("a cat instead of a dog", "a cat and a dog", False),
    ("he isn't running", "he is running fast", False),
    ("they won't dance", "they dance in a hall", False),
    ("a crowd-free beach", "a beach with a crowd", False),
    ("a crowd-free beach", "a beach without a crowd", True),
    ("a park, people nowhere to be seen", "a park with people", False),
    ("a wall, do not show any windows or doors", "a wall with doors", False),
    ("a man with no hat, coat and scarf nearby", "a man with no hat, a coat nearby", True),
    ("nobody in the street", "people in the street", False),
    ("nobody in the street", "a street without people", True),
    ("no one around, a pier", "a pier with a person on it", False),
    ("it is not raining", "rain over a town", False),
    ("not a single cloud, a sky", "a sky with a cloud", False),
    ("without a hat, a scarf or gloves, a boy", "a boy with gloves", False),
    ("no trees, houses, or roads, a plain", "a plain with roads", False),
    ("a pizza minus the olives", "a pizza with olives", False),
    # What only looks negated.
    ("no people, a red car and a tree", "no people, a red car and a tree, dusk", True),
    ("a man without a hat and a dog", "a man without a hat and a dog, dusk", True),
    ("no people and soft light", "no people, soft light", True),
    ("without glasses, smiling or laughing", "without glasses, smiling, laughing", True),
    ("Chanel No 5 on a table", "Chanel No 5 on a marble table", True),
    ("zero gravity, an astronaut", "an astronaut floating", True),
    ("a dog that isn't just big, a hero", "a big dog, a hero", True),
    ("she jumps without hesitation", "she jumps", True),
    ("a never-ending road", "an endless road", True),
    ("people far off, no people near", "people far off, no people near, fog", True),
    ("she doesn't look at the camera", "she doesn't smile, does not look into the camera, looking away", True),
    ('a sign "No Dogs", a lawn', 'a lawn with dogs, a sign "No Dogs"', True),
    ("a park, no dogs", 'a park, no dogs, a sign "DOGS"', True),
    # German
    ("ein Mann ohne Brille, Hut oder Bart", "ein Mann mit Hut und Bart", False),
    ("ein Mann ohne Brille, Hut oder Bart", "ein Mann ohne Brille, ohne Hut und ohne Bart", True),
    ("ein Park, keine Hunde", "ein Park mit einem Hund", False),
    ("ein Park, keine Hunde", "ein Park, frei von Hunden", True),
    ("weder Hunde noch Katzen, ein Hof", "ein Hof mit Katzen", False),
    ("niemand am Strand", "Menschen am Strand", False),
    ("ohne Zweifel ein schöner Tag, eine Wiese", "ein schöner Tag auf einer Wiese", True),
    ("nicht nur Rosen, auch Lilien im Garten", "Rosen und Lilien im Garten", True),
    # French
    ("un homme sans lunettes, chapeau ni barbe", "un homme avec un chapeau", False),
    ("un homme sans lunettes, chapeau ni barbe", "un homme sans lunettes, sans chapeau, sans barbe", True),
    ("une rue, pas de voitures", "une rue avec une voiture", False),
    ("elle ne porte pas de chapeau", "elle porte un chapeau de paille", False),
    ("une rue, aucun chat", "une rue avec des chats", False),
    ("sans doute un beau jour, une plage", "un beau jour, une plage", True),
    # Spanish
    ("un hombre sin gafas, sombrero ni barba", "un hombre con barba", False),
    ("un hombre sin gafas, sombrero ni barba", "un hombre sin gafas, sin sombrero y sin barba", True),
    ("una calle, ningún coche", "una calle con coches", False),
    ("sin duda un gran día, una playa", "un gran día en la playa", True),
    ("la plaza, no hay gente", "la plaza llena de gente", False),
    ("nadie en la calle", "gente en la calle", False),
    # Italian, Portuguese, Dutch, Korean, Arabic
    ("un uomo senza cappello", "un uomo con un cappello", False),
    ("um homem sem chapéu", "um homem com chapéu", False),
    ("een man zonder hoed", "een man met een hoed", False),
    ("사람 없는 거리", "사람 많은 거리", False),
    ("شارع بدون سيارات", "شارع فيه سيارات", False),
    # Russian
    ("мужчина без очков", "мужчина без очков, мягкий свет", True),
    ("мужчина без очков", "мужчина, мягкий свет", False),
    # Chinese
    ("一个没有帽子和胡子的男人", "一个戴帽子的男人", False),
    ("一个没有帽子和胡子的男人", "一个没有帽子也没有胡子的男人，柔光", True),
    ("不戴眼镜的女人", "戴眼镜的女人", False),
    ("街道，没有汽车", "街道上停着汽车", False),
    ("无人机拍摄的城市", "航拍的城市", True),
    ("不仅有花，还有树", "花和树", True),
    # Japanese
    ("眼鏡をかけていない男性", "眼鏡をかけた男性", False),
    ("眼鏡をかけていない男性", "眼鏡をかけていない男性、柔らかい光", True),
    ("帽子なしの男", "帽子をかぶった男", False),
    ("猫も犬もいない公園", "公園で遊ぶ犬", False),
    ("間違いない名作の絵", "名作の絵", True),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "answer", "kept"), ANSWERS)
def test_what_the_user_negated_stays_negated_or_does_not(prompt: str, answer: str, kept: bool) -> None:
    enhanced = judged(a_brief(prompt, language="same"), Draft(answer))
    assert enhanced.enhancement is not None
    assert ("negation" not in enhanced.enhancement.failed_checks) is kept


#: prompt, answer, the words of the answer that are against the prompt
REVERSED: list[tuple[str, str, list[str]]] = [
    ("a man without glasses, hat or beard", "a man with a hat and a beard", ["hat", "beard"]),
    ("no cats or dogs, a park", "a park with a dog", ["dog"]),
    ("she doesn't smile", "smiling softly", ["smiling"]),
    ("a beach devoid of people", "a beach free of people and cars", []),
    ("a park, no cars", "a caring mother with scars", []),
    ("没有帽子", "红色的帽子", ["帽子"]),
    ("没有人的街道", "机器人的街道", []),
    ("she doesn't look at the camera", "looking away", []),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "answer", "expected"), REVERSED)
def test_only_what_is_against_the_prompt_is_found(prompt: str, answer: str, expected: list[str]) -> None:
    found = reversed_in(answer, a_brief(prompt, language="same").spans)
    assert [answer[start:end] for start, end in sorted(found)] == expected


#: text, the nouns that it negates, the text without its negations
NEGATED: list[tuple[str, list[str], str]] = [
    ("a street, no people", ["people"], "a street"),
    ("no people, a street", ["people"], "a street"),
    ("a man without glasses, hat or beard in a cafe", ["glasses", "hat", "beard"], "a man in a cafe"),
    ("a street. No cars or dogs. Dusk.", ["cars", "dogs"], "a street. Dusk."),
    ("a park free of cars and devoid of people", ["cars", "people"], "a park"),
    ("nothing but sand, no doubt", [], "nothing but sand, no doubt"),
    ("ein Platz ohne Autos oder Busse, Abend", ["Autos", "Busse"], "ein Platz, Abend"),
    ("一条没有人的街道", ["人"], "一条街道"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "nouns", "rest"), NEGATED)
def test_negated_nouns_are_named_and_can_be_taken_out(text: str, nouns: list[str], rest: str) -> None:
    found = negated(text, WORDS)
    assert [text[noun.start : noun.end] for one in found for noun in one.nouns] == nouns
    assert without(text, found, WORDS) == rest
