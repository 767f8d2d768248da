"""Where an entry moves negations, the negative prompt names what the user negates, and the prompt does not."""

from typing import Any

import pytest

from handler.api.enhance import EnhanceReply
from handler.enhancement.packs import Loaded
from handler.errors import EngineFailed, InvalidRequest
from tests.support.enhancing import a_brief, pack_json
from tests.support.rewriting import Line, Model, by_pack, code_of, failed, judged, wide


def moving(**fields: Any) -> dict[str, Any]:
    value = pack_json()
    value["entries"]["sdxl_image_fast"] |= {"negations": "move", **fields}
    return value


def moved(line: Line, model: Model, prompt: str, **fields: Any) -> EnhanceReply:
    return by_pack(line(model), prompt=prompt, pack=fields.pop("pack", moving()), **fields)


@pytest.mark.parametrize(
    ("prompt", "answer", "expected", "negative"),
    [
        ("a street, no people", "a street, soft light", "a street, soft light", "people"),
        ("a street, no people", "a street with no people, soft light", "a street, soft light", "people"),
        ("a street, no people", "a street, people walking, soft light", "a street, soft light", "people"),
        (
            "a man without glasses, hat or beard in a cafe",
            "a man in a cafe, a hat on his head, soft light",
            "a man in a cafe, soft light",
            "glasses, hat, beard",
        ),
        ("a park, nothing but grass", "a park, grass, dusk", "a park, nothing but grass, dusk", None),
        ("she doesn't look at the camera", "she doesn't look at the camera, dusk", None, None),
    ],
)
def test_negated_nouns_leave_the_prompt_for_the_negative_one(
    line: Line, prompt: str, answer: str, expected: str | None, negative: str | None
) -> None:
    reply = moved(line, wide(answer), prompt)
    if negative is not None:
        assert reply.enhanced.enhanced_prompt == expected
        assert failed(reply) == []
    assert (reply.negative_prompt, reply.original_prompt) == (negative, prompt)


def test_the_callers_negative_prompt_or_the_entrys_comes_first(line: Line) -> None:
    assert moved(line, wide(), "a street, no people", negative_prompt="blurry").negative_prompt == "blurry, people"
    pack = moving(negative_prompt="text")
    assert moved(line, wide(), "a street, no people", pack=pack).negative_prompt == "text, people"


def test_the_model_reads_a_prompt_without_them(line: Line) -> None:
    assert a_brief("a street, no people", pack=moving()).prompt == "a street"
    assert a_brief("a street, no people").prompt == "a street, no people"


def test_a_composition_and_the_emergency_answer_keep_to_it(line: Line) -> None:
    composed = moved(line, wide(EngineFailed("broken")), "a street, no people")
    assert composed.enhanced.enhanced_prompt.startswith("a street, best quality")
    pack = moving(compose=[])
    given = moved(line, wide(EngineFailed("broken")), "a street, no people", pack=pack)
    assert (given.enhanced.enhanced_prompt, given.enhanced.enhancement_source, code_of(given)) == (
        "a street, no people",
        "emergency_fallback",
        "engine_failed",
    )


def test_a_prompt_of_negations_alone_and_one_in_another_language_keep_them(line: Line) -> None:
    for prompt in ("no people", "ein Platz ohne Autos und mit einem Baum"):
        brief = a_brief(prompt, pack=moving(), language="en")
        assert (brief.prompt, brief.moved) == (prompt, ())


def test_prompts_that_differ_in_what_they_negate_share_no_answer() -> None:
    first, second = (a_brief(f"a street, no {noun}", pack=moving()).identity for noun in ("people", "cars"))
    assert first != second


def test_the_callers_own_messages_keep_their_negations(line: Line) -> None:
    reply = by_pack(
        line(wide("a street, no people")), prompt="a street, no people", system_prompt="Rewrite.", pack=moving()
    )
    assert (reply.enhanced.enhanced_prompt, reply.negative_prompt) == ("a street, no people", None)
    assert judged(reply).failed_checks.keys().isdisjoint({"negation"})


def test_another_wish_than_keep_or_move_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Loaded.of(moving(negations="drop"))
    assert caught.value.field == "pack.entries.sdxl_image_fast.negations"
