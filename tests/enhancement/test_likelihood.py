"""The model as judge: the two figures, by an engine whose likelihoods are written down."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from handler.enhancement.contexts import Judge, filled
from handler.enhancement.likelihood import Likelihood
from handler.enhancement.pack import Pack
from handler.errors import EngineFailed
from handler.model.template import Template, Turn
from handler.pool import Pool
from tests.support.fakes import ScriptedEngine

PACK = Path(__file__).parents[2] / "packs" / "default.json"
JUDGE = Judge(
    kept="Seen: {{answer}}\nIn short:", nothing="a thing", described="A picture of {{prompt}},", said="{{prompt}}!",
    least_kept=1.2, least_described=0.0,
)  # fmt: skip
FOX = "a red fox"


@pytest.fixture
def likelihood(template: Template) -> Callable[..., Likelihood]:
    def build(scores: Callable[[str, str, int], float], **fields: Any) -> Likelihood:
        """`scores` gets prompt and text in words."""

        def said(ids: tuple[int, ...]) -> str:
            words = {id_: text for text, id_ in template._control_ids.items()}
            return "".join(words.get(id_) or template.token_bytes(id_).decode() for id_ in ids)

        engine = ScriptedEngine(scores=lambda prompt, text, at: scores(said(prompt), said(text), at))
        return Likelihood(
            **{"engine": engine, "template": template, "encoding": Pool("test", 1), "judge": JUDGE, **fields}
        )

    return build


def test_meaning_is_what_the_prompt_gains_by_the_answer_over_an_answer_that_says_nothing(
    likelihood: Callable[..., Likelihood],
) -> None:
    seen = list[tuple[str, str]]()

    def scores(prompt: str, text: str, at: int) -> float:
        if not at:
            seen.append((prompt, text))
        return -1.0 if "vulpine" in prompt else -3.5

    judge = likelihood(scores, salt=b"s")
    figure = asyncio.run(judge.kept(FOX, "a vulpine, {{prompt}} red"))
    assert figure.value == pytest.approx(2.5)
    assert seen == [("Seen: a vulpine, {{prompt}} red\nIn short:", " " + FOX), ("Seen: a thing\nIn short:", " " + FOX)]
    asked = judge.engine.seen_scores  # type: ignore[attr-defined]
    assert {prompt.salt for prompt, _ in asked} == {b"s"}
    assert figure.usage.prompt_tokens == sum(len(prompt.token_ids) + len(text) for prompt, text in asked)
    assert figure.usage.completion_tokens == 0


def test_what_an_answer_adds_is_weighed_by_length_and_its_first_clause_is_left_out(
    likelihood: Callable[..., Likelihood], template: Template
) -> None:
    gain = {"in deep snow": 1.0, "let me know if you want changes": -2.0}
    seen = set[tuple[str, str]]()

    def scores(prompt: str, text: str, at: int) -> float:
        seen.add((prompt, text))
        assert FOX not in text
        return -4.0 + (gain[text.strip()] if prompt.startswith("A picture of") else 0.0)

    figure = asyncio.run(likelihood(scores).described(FOX, f"{FOX}, in deep snow. let me know if you want changes!"))
    assert figure is not None
    sizes = {text: len(template.raw(" " + text, 100).prompt.token_ids) for text in gain}
    assert figure.value == pytest.approx(sum(gain[text] * sizes[text] for text in gain) / sum(sizes.values()))
    talk = template.chat([Turn("user", f"{FOX}!")], 100).text
    assert seen == {(f"A picture of {FOX},", f" {text}") for text in gain} | {(talk, text) for text in gain}


@pytest.mark.parametrize("answer", ["", FOX, f"{FOX},", f"{FOX}, ."])
def test_an_answer_of_one_clause_adds_nothing_to_judge(likelihood: Callable[..., Likelihood], answer: str) -> None:
    judge = likelihood(lambda prompt, text, at: -1.0)
    assert asyncio.run(judge.described(FOX, answer)) is None
    assert judge.engine.seen_scores == []  # type: ignore[attr-defined]


def test_where_one_score_fails_the_others_are_cancelled(likelihood: Callable[..., Likelihood]) -> None:
    cancelled = list[str]()

    class Failing(ScriptedEngine):
        async def score(self, *_: Any, **__: Any) -> Any:
            if not self.seen:
                self.seen.append(())  # type: ignore[arg-type]
                raise EngineFailed("no")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append("one")
                raise

    async def main() -> None:
        with pytest.raises(EngineFailed):
            await likelihood(lambda *_: -1.0, engine=Failing()).kept(FOX, "a fox")
        await asyncio.sleep(0)
        assert cancelled == ["one"]  # here: the end of the loop would cancel it in any case

    asyncio.run(main())


def test_the_default_pack_brings_contexts_and_thresholds_and_a_pack_may_have_none() -> None:
    given = json.loads(PACK.read_text(encoding="utf-8"))
    pack = Pack.model_validate_json(json.dumps(given))
    assert pack.judge is not None
    assert filled(pack.judge.kept, "x").startswith("Image description: x\n")
    del given["judge"]
    assert Pack.model_validate_json(json.dumps(given)).judge is None


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("kept", "no mark"),
        ("kept", "{{prompt}}"),
        ("described", "{{answer}}"),
        ("said", "{{prompt}} {{words}}"),
        ("nothing", ""),
    ],
)
def test_a_context_without_its_mark_or_with_another_is_refused(field: str, text: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Judge.model_validate({**JUDGE.model_dump(), field: text})
