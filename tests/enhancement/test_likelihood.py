"""The model as judge: the two figures, by an engine whose likelihoods are written down."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from handler.enhancement.contexts import Judge, filled
from handler.enhancement.likelihood import AT_ONCE, Likelihood
from handler.enhancement.pack import Pack
from handler.errors import EngineFailed
from handler.model.template import Template, Turn
from handler.pool import Pool
from tests.support.fakes import ScriptedEngine

PACK = Path(__file__).parents[2] / "packs" / "default.json"
JUDGE = Judge(
    kept="Seen: {{answer}}\nIn short:", nothing="a thing", described="A picture of {{prompt}},", said="{{prompt}}!",
    begun="Sure, {{prompt}}.", least_kept=0.4, least_described=0.0,
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


def test_meaning_is_the_prompts_gain_by_the_answer_as_a_share_of_its_gain_by_itself(
    likelihood: Callable[..., Likelihood],
) -> None:
    seen = list[tuple[str, str]]()

    def scores(prompt: str, text: str, at: int) -> float:
        if not at:
            seen.append((prompt, text))
        return -1.0 if prompt.startswith(f"Seen: {FOX}\n") else -2.0 if "vulpine" in prompt else -3.5

    judge = likelihood(scores, salt=b"s")
    figure = asyncio.run(judge.kept(FOX, "a vulpine, {{prompt}} red"))
    assert figure.value == pytest.approx((3.5 - 2.0) / (3.5 - 1.0))
    after = [f"Seen: {one}\nIn short:" for one in ("a vulpine, {{prompt}} red", "a thing", FOX)]
    assert seen == [(context, " " + FOX) for context in after]
    asked = judge.engine.seen_scores  # type: ignore[attr-defined]
    assert {prompt.salt for prompt, _ in asked} == {b"s"}
    assert figure.usage.prompt_tokens == sum(len(prompt.token_ids) + len(text) for prompt, text in asked)
    assert figure.usage.completion_tokens == 0


def test_a_prompt_that_gains_nothing_by_itself_has_no_share(likelihood: Callable[..., Likelihood]) -> None:
    assert asyncio.run(likelihood(lambda *_: -1.0).kept(FOX, "a vulpine")).value is None


@pytest.mark.parametrize(
    ("answer", "added"),
    [
        (f"{FOX}, in deep snow. Let me know!", " in deep snow. Let me know!"),
        (f"{FOX.capitalize()}. In deep snow", " In deep snow"),
        ("in deep snow, a fox", " in deep snow, a fox"),
        (f"{FOX}es in deep snow", f" {FOX}es in deep snow"),
    ],
)
def test_what_an_answer_adds_is_weighed_as_a_description_and_as_an_assistants_words(
    likelihood: Callable[..., Likelihood], template: Template, answer: str, added: str
) -> None:
    seen = set[tuple[str, str]]()

    def scores(prompt: str, text: str, at: int) -> float:
        seen.add((prompt, text))
        return -2.0 if prompt.startswith("A picture of") else -3.25

    figure = asyncio.run(likelihood(scores).described(f"{FOX}.", answer))
    assert figure is not None
    assert figure.value == pytest.approx(1.25)
    talk = template.chat([Turn("user", f"{FOX}!")], 100).text + f"Sure, {FOX}."
    assert seen == {(f"A picture of {FOX},", added), (talk, added)}


@pytest.mark.parametrize("answer", ["", FOX, f"{FOX},", f" {FOX.upper()} , ."])
def test_an_answer_that_is_the_prompt_again_adds_nothing_to_judge(
    likelihood: Callable[..., Likelihood], answer: str
) -> None:
    judge = likelihood(lambda prompt, text, at: -1.0)
    assert asyncio.run(judge.described(FOX, answer)) is None
    assert judge.engine.seen_scores == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("answer", "figures", "texts"),
    [(f"{FOX}, in deep snow", (None, 0.0), 2), ("in deep snow, a fox", (1.0, None), 3), (f"{FOX}.", (None, None), 0)],
)
def test_of_a_copy_the_rest_is_weighed_and_of_other_answers_the_meaning(
    likelihood: Callable[..., Likelihood], answer: str, figures: tuple[float | None, float | None], texts: int
) -> None:
    judge = likelihood(lambda prompt, text, at: -2.0 if "thing" in prompt else -1.0)
    opinion = asyncio.run(judge.opinion(FOX, answer))
    asked = judge.engine.seen_scores  # type: ignore[attr-defined]
    assert (opinion.kept, opinion.described, opinion.error, len(asked)) == (*figures, None, texts)
    assert opinion.usage.prompt_tokens == sum(len(prompt.token_ids) + len(text) for prompt, text in asked)


def test_two_texts_are_scored_at_a_time(likelihood: Callable[..., Likelihood]) -> None:
    now = most = 0

    class Counting(ScriptedEngine):
        async def score(self, *given: Any, **options: Any) -> Any:
            nonlocal now, most
            now += 1
            most = max(most, now)
            try:
                return await super().score(*given, **options)
            finally:
                now -= 1

    asyncio.run(likelihood(lambda *_: 0, engine=Counting(step_s=0.001)).kept(FOX, "in deep snow"))
    assert most == AT_ONCE == 2


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
        assert cancelled == ["one"] * 2  # here: the end of the loop would cancel it in any case

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
        ("begun", "Sure."),
        ("nothing", ""),
    ],
)
def test_a_context_without_its_mark_or_with_another_is_refused(field: str, text: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Judge.model_validate({**JUDGE.model_dump(), field: text})
