"""An entry says what judges its answers: rules, the model's figures, or both. The model is scripted."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from handler.api.enhance import CandidateReply, EnhanceReply, Judged
from handler.api.parse import parse
from handler.api.text import DryRunReply
from handler.engine.scoring import Scored
from handler.enhancement.packs import Loaded, Packs
from handler.errors import DeadlineExceeded, EngineFailed, InvalidRequest, Overloaded
from handler.model.template import Template
from handler.operations.operations import Operations
from tests.support.enhancing import pack_json
from tests.support.rewriting import GOOD, PROMPT, Line, Model, by_pack, by_template, code_of, extended, judged, run

#: keeps the meaning in no word of the prompt, so that it does not begin with the prompt
OTHER_WORDS = "deep snow, where two red foxes walk, no people anywhere, soft light, sharp focus, highly detailed"
REFUSAL = "I'm sorry, but I can't help with that."
DUNE = "a dune of pale sand with two red foxes resting, no people, snow in its hollows, low noon sun"
TALK_BEHIND = f"{PROMPT}, powdery drifts under a pale sun, ask for more whenever wanted"


@dataclass
class Judging(Model):
    """A model whose figures are written down, by a part of the answer; 1 where no part is in it."""

    template: Template | None = None
    kept: Mapping[str, float] = ()  # type: ignore[assignment]
    described: Mapping[str, float] = ()  # type: ignore[assignment]
    fails: Exception | None = None
    score_s: float = 0.0
    scoring: int = 0
    began: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.max_model_len = 100_000
        self.scores = self._score

    def _said(self, ids: tuple[int, ...]) -> str:
        assert self.template is not None
        return b"".join(map(self.template.token_bytes, ids)).decode(errors="replace")

    def _score(self, prompt_ids: tuple[int, ...], text_ids: tuple[int, ...], at: int) -> float:
        prompt, text = self._said(prompt_ids), self._said(text_ids)
        if prompt.endswith("in a few words:"):
            if prompt.startswith("Image description: something\n"):
                return -4.0
            own = prompt.startswith(f"Image description:{text}\n")
            return -2.0 if own else -4.0 + 2 * _of(self.kept, prompt)
        return -3.0 + (_of(self.described, text) if prompt.startswith("Image description:") else 0.0)

    async def score(self, *given: Any, **options: Any) -> Scored:
        self.scoring += 1
        self.began.set()
        try:
            if self.score_s:
                await asyncio.sleep(self.score_s)
            if self.fails is not None:
                raise self.fails
            return await super().score(*given, **options)
        finally:
            self.scoring -= 1


def _of(figures: Mapping[str, float], text: str) -> float:
    return next((figures[part] for part in figures or () if part in text), 1.0)


@pytest.fixture
def judging(line: Line, template: Template) -> Callable[..., tuple[Operations, Judging]]:
    def build(by: str, *says: str, weights: Mapping[str, float] | None = None, **fields: Any) -> tuple[Any, Judging]:
        model = Judging(says=says or (OTHER_WORDS,), template=template, **fields)
        return with_judge(line(model), by, **(weights or {})), model

    return build


def with_judge(operations: Operations, by: str, **weights: float) -> Operations:
    """The same with a pack whose entries are judged so, with other weights of its scores."""
    value = pack_json()
    for entry in value["entries"].values():
        entry["judge"] = by
    for rules in value["rules"].values():
        rules["score"].update(weights)
    core = operations.core
    return Operations(replace(core, enhancer=replace(core.enhancer, packs=Packs((Loaded.of(value),)))))


def told(reply: EnhanceReply) -> Judged | None:
    return judged(reply).judge


Judgings = Callable[..., tuple[Operations, Judging]]


@pytest.mark.parametrize("by", ["model", "both"])
@pytest.mark.parametrize(
    ("says", "figures", "code"),
    [
        (OTHER_WORDS, {"kept": {"red foxes walk": 0.3}}, "off_subject"),
        (OTHER_WORDS, {"kept": {"red foxes walk": -0.5}}, "off_subject"),
        (GOOD, {"described": {"soft light": -0.2}}, "question"),
    ],
)
def test_an_answer_that_the_figures_refuse_is_asked_for_once_more_and_then_replaced(
    judging: Judgings, by: str, says: str, figures: Any, code: str
) -> None:
    operations, model = judging(by, says, **figures)
    reply = by_pack(operations)
    assert code_of(reply) == code
    assert len(model.asked) == 2
    assert reply.enhanced.enhanced_prompt.startswith(PROMPT)
    assert "soft light" not in reply.enhanced.enhanced_prompt
    assert told(reply) == Judged(by="rules")  # of the text that stands in


def test_a_second_answer_that_the_figures_accept_is_the_result(judging: Judgings) -> None:
    operations, _ = judging("both", DUNE, OTHER_WORDS, kept={"dune": 0.1})
    reply = by_pack(operations)
    assert reply.enhanced.degraded is None
    assert judged(reply).retries == 1
    assert told(reply) == Judged(by="both", kept=1.0)


def test_by_rules_nothing_is_scored(judging: Judgings) -> None:
    operations, model = judging("rules", kept={"red foxes walk": 0.3})
    reply = by_pack(operations)
    assert (code_of(reply), told(reply), model.seen_scores) == (None, None, [])


def test_by_the_model_talk_is_found_by_the_figures_and_not_by_lists(judging: Judgings) -> None:
    says = f"{PROMPT}, I'm sorry to say that the pale winter light is fading behind the trees"
    assert code_of(by_pack(judging("both", says)[0])) == "refusal"
    assert code_of(by_pack(judging("model", says)[0])) is None
    assert code_of(by_pack(judging("model", says, described={"fading": -1.0})[0])) == "question"


@pytest.mark.parametrize("by", ["model", "both"])
@pytest.mark.parametrize(
    ("says", "code"),
    [
        ("", "empty"),
        ("Two red foxes in the snow, no people.", "unchanged"),
        (f"{PROMPT}, a special place, a special place, a special place, a special place", "loop"),
    ],
)
def test_what_counting_finds_costs_no_scoring(judging: Judgings, by: str, says: str, code: str) -> None:
    operations, model = judging(by, says)
    assert code_of(by_pack(operations)) == code
    assert model.seen_scores == []


def test_talk_behind_a_copy_of_the_prompt_is_found_though_the_meaning_is_kept(judging: Judgings) -> None:
    for ask, says in ((by_pack, TALK_BEHIND), (extended, TALK_BEHIND.removeprefix(f"{PROMPT},"))):
        operations, model = judging("both", says, described={"whenever": -0.4})
        assert code_of(ask(operations)) == "question"
        assert len(model.seen_scores) == 2 * 2  # a copy says the prompt: two texts of each try, not five
        assert told(ask(judging("both", says)[0])) == Judged(by="both", described=1.0)


def test_the_figures_are_parts_of_the_score(judging: Judgings) -> None:
    figures = {"kept": {"red foxes walk": 0.6}}
    without = by_pack(judging("both", weights={"meaning": 0, "description": 0}, **figures)[0])
    score = judged(without).score
    assert score is not None
    assert score.parts["meaning"] == 0.6
    assert "description" not in score.parts
    lower = by_pack(judging("both", weights={"meaning": 3, "description": 0}, **figures)[0])
    assert lower.enhanced.quality_score is not None
    assert without.enhanced.quality_score is not None
    assert lower.enhanced.quality_score < without.enhanced.quality_score
    alone = {"words_kept": 0.0, "bindings": 0.0, "meaning": 1.0}
    less, whole = (
        by_pack(judging("both", weights=alone, kept={"red foxes walk": kept})[0]).enhanced.quality_score
        for kept in (0.8, 1.0)
    )
    assert less is not None
    assert whole is not None
    assert less == pytest.approx(0.8 * whole, abs=1e-3)  # the additions are weighed apart
    copy = judged(by_pack(judging("both", GOOD, described={"soft light": 0.9})[0])).score
    assert copy is not None
    assert "meaning" not in copy.parts
    assert copy.parts["description"] == pytest.approx(0.7311, abs=1e-4)  # one nat above the threshold


@pytest.mark.parametrize("by", ["model", "both"])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineFailed("no"), "engine_failed"),
        (Overloaded("full", retry_after_s=1), "overloaded"),
        (DeadlineExceeded("late"), "deadline_exceeded"),
        (ZeroDivisionError(), "internal"),
    ],
)
def test_where_scoring_fails_the_rules_judge_alone_and_the_reply_says_so(
    judging: Judgings, by: str, error: Exception, code: str
) -> None:
    reply = by_pack(judging(by, fails=error)[0])
    assert code_of(reply) is None
    assert "red foxes walk" in reply.enhanced.enhanced_prompt
    assert told(reply) == Judged(by="rules", error=code)
    assert code_of(by_pack(judging(by, REFUSAL, fails=error)[0])) == "refusal"


def test_an_answer_that_was_judged_without_the_model_as_it_failed_is_not_cached(judging: Judgings) -> None:
    operations, model = judging("both", fails=EngineFailed("no"))
    assert told(by_pack(operations)) == Judged(by="rules", error="engine_failed")
    model.fails = None
    assert told(by_pack(operations)) == Judged(by="both", kept=1.0)


def test_a_deadline_ends_the_scoring_and_the_answer_is_used(judging: Judgings) -> None:
    operations, model = judging("both")
    by_pack(operations, cache="off")  # word lists are compiled at their first use, which takes a while
    scored = model.score

    async def late(*given: Any, deadline: float | None, **options: Any) -> Scored:
        assert deadline is not None
        await asyncio.sleep(max(0.0, deadline - time.monotonic()))
        return await scored(*given, deadline=deadline, **options)

    model.score = late  # type: ignore[method-assign]
    reply = by_pack(operations, deadline_ms=300)
    assert "red foxes walk" in reply.enhanced.enhanced_prompt
    assert told(reply) == Judged(by="rules", error="deadline_exceeded")


def test_cancelling_the_request_cancels_the_scoring(judging: Judgings) -> None:
    operations, model = judging("both", score_s=60)
    request = parse({"operation": "enhance", "prompt": PROMPT, "job_type": "sdxl_image_fast", "mode": "rewrite"})

    async def main() -> None:
        async def read() -> None:
            async for _ in operations.run(request):
                pass

        task = asyncio.create_task(read())
        await asyncio.wait_for(model.began.wait(), 30)
        assert model.scoring
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(5):
            await asyncio.sleep(0)
        assert model.scoring == 0

    asyncio.run(main())


def test_usage_has_the_tokens_of_what_was_scored(judging: Judgings) -> None:
    alone, both = judging("rules")[0], judging("both")
    fields: dict[str, Any] = {"cache": "off"}
    before, reply = by_pack(alone, **fields).run, by_pack(both[0], **fields).run
    scored = sum(len(prompt.token_ids) + len(text) for prompt, text in both[1].seen_scores)
    assert len(both[1].seen_scores) == 3
    assert reply.usage.prompt_tokens == before.usage.prompt_tokens + scored
    assert reply.usage.completion_tokens == before.usage.completion_tokens
    assert reply.prompt_sha256 == before.prompt_sha256


def test_tokens_of_an_answer_that_the_figures_refuse_are_counted_too(judging: Judgings) -> None:
    operations, model = judging("both", kept={"red foxes walk": 0.0})
    once = judging("rules")[0]
    reply, plain = by_pack(operations).run, by_pack(once).run
    assert len(model.seen_scores) == 2 * 3
    scored = sum(len(prompt.token_ids) + len(text) for prompt, text in model.seen_scores)
    assert reply.usage.prompt_tokens == 2 * plain.usage.prompt_tokens + scored


def test_each_variant_is_judged(judging: Judgings) -> None:
    for kept, code, tries in ((1.0, None, 1), (0.0, "off_subject", 2)):
        operations, model = judging("both", kept={"red foxes walk": kept})
        variants = by_pack(operations, n=2).variants
        assert variants is not None
        assert [one.degraded and one.degraded.code for one in variants] == [code] * 2
        assert len(model.seen_scores) == 2 * tries * 3


def test_a_dry_run_scores_nothing_and_shows_the_same_prompt(judging: Judgings) -> None:
    shown = []
    for by in ("rules", "both"):
        operations, model = judging(by)

        async def main(operations: Operations = operations) -> list[Any]:
            fields = {"prompt": PROMPT, "job_type": "sdxl_image_fast", "dry_run": True, "seed": 1}
            return [event async for event in operations.run(parse({"operation": "enhance", **fields}))]

        (reply,) = asyncio.run(main())
        assert isinstance(reply, DryRunReply)
        assert (model.asked, model.seen_scores) == ([], [])
        shown.append((reply.token_ids, reply.usage))
    assert shown[0] == shown[1]


def test_a_candidate_is_judged_by_rules_alone_and_the_reply_says_so(judging: Judgings) -> None:
    operations, model = judging("both", kept={"red foxes walk": 0.0})

    async def main() -> list[Any]:
        fields = {"prompt": PROMPT, "job_type": "sdxl_image_fast", "candidate": OTHER_WORDS}
        return [event async for event in operations.run(parse({"operation": "enhance", **fields}))]

    (reply,) = asyncio.run(main())
    assert isinstance(reply, CandidateReply)
    assert reply.enhanced.degraded is None
    assert reply.enhanced.enhancement is not None
    assert reply.enhanced.enhancement.judge == Judged(by="rules")
    assert model.seen_scores == []


def test_a_translation_is_judged_by_rules_alone_and_the_reply_says_so(judging: Judgings) -> None:
    for by in ("model", "both"):
        operations, model = judging(by, REFUSAL, OTHER_WORDS, kept={"red foxes walk": 0.0})
        reply = by_pack(operations, prompt="雪の中の二匹の赤い狐", language="en", protect=None)
        assert (code_of(reply), judged(reply).retries, model.seen_scores) == (None, 1, [])
        assert told(reply) == Judged(by="rules")


def test_answers_to_the_callers_own_messages_are_not_judged(judging: Judgings) -> None:
    operations, model = judging("both", kept={"red foxes walk": 0.0})
    reply = by_template(operations)
    assert (told(reply), model.seen_scores) == (None, [])


def test_a_kept_answer_has_its_figures_and_is_not_scored_again(judging: Judgings) -> None:
    operations, model = judging("both", kept={"red foxes walk": 0.7})
    first, again = by_pack(operations), by_pack(operations)
    assert again.enhanced.cache_hit
    assert told(first) == told(again) == Judged(by="both", kept=0.7)
    assert len(model.seen_scores) == 3
    assert again.run.usage.prompt_tokens == 0


def test_an_answer_judged_one_way_is_not_given_where_another_is_asked_for(judging: Judgings) -> None:
    operations, model = judging("rules")
    by_pack(operations)
    by_pack(with_judge(operations, "both"))
    assert (len(model.asked), len(model.seen_scores)) == (2, 3)


def test_syntax_of_a_user_interface_is_not_scored(judging: Judgings) -> None:
    operations, model = judging("both", f"a den of {OTHER_WORDS}, <lora:snow:0.8>")
    run(operations, prompt="(two red foxes:1.3), <lora:snow:0.8>", job_type="sdxl_image_fast", mode="rewrite")
    texts = [model._said(ids) for pair in model.seen_scores for ids in (pair[0].token_ids, pair[1])]
    assert len(texts) == 2 * 3
    assert " two red foxes" in texts
    assert not any("lora" in text or "1.3" in text for text in texts)


def test_a_pack_whose_entry_asks_the_model_needs_contexts(line: Line) -> None:
    value = pack_json()
    value["entries"]["sdxl_image_fast"]["judge"] = "both"
    del value["judge"]
    with pytest.raises(InvalidRequest, match=r"sdxl_image_fast\.judge is both"):
        Loaded.of(value)
