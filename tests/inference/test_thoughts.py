"""A thought is closed at its limit by tokens that are put in: to the token what `generate` says, in any company."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from handler.engine.fold import Completion, whole
from handler.engine.protocol import Prompt, Thought
from handler.engine.sampling import Sampling
from handler.engine.stream import Logprob
from handler.inference.loop import BatchingEngine
from handler.ops.pages import KVPages, Layout
from tests.inference.test_engine_equality import every_model, habitual
from tests.support import models

Ids = tuple[int, ...]
#: the answers of these models never close a thought by themselves: their tokens are numbers
CLOSING = (501, 502, 503)


def token_bytes(token_id: int) -> bytes:
    return b"</think>" if token_id == 502 else b" %d" % token_id


def prompts(count: int) -> list[Ids]:
    """Prompts of 1 to 90 tokens, around pages of 4 and 16."""
    dice = random.Random(11)
    return [tuple(dice.choices(range(500), k=dice.choice((1, 3, 4, 5, 15, 16, 17, 60, 90)))) for _ in range(count)]


async def answer(engine: BatchingEngine, ids: Ids, sampling: Sampling, logprobs: int | None = None) -> Completion:
    thought = Thought(opened=True, closing=CLOSING)
    return await whole(engine.stream(Prompt(ids, thought=thought), sampling, logprobs=logprobs))


def answers(
    engine: BatchingEngine, requests: Sequence[tuple[Ids, Sampling]], *, alone: bool = False
) -> list[Completion]:
    async def ask() -> list[Completion]:
        if alone:
            return [await answer(engine, *request) for request in requests]
        return list(await asyncio.gather(*(answer(engine, *request) for request in requests)))

    return asyncio.run(ask())


@pytest.fixture(autouse=True)
def _bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "token_bytes", token_bytes)


ENGINES: dict[str, dict[str, Any]] = {
    "in step": {},
    "overlapping": {"overlap": True},
    "few rows and small chunks": {"overlap": True, "rows": 5, "prefill_chunk": 2},
    "preempted": {"page_size": 4, "pages": 70, "rows": 12, "max_model_len": 200, "prefill_chunk": 64},
    "preempted and overlapping": {
        "page_size": 4, "pages": 70, "rows": 12, "max_model_len": 200, "prefill_chunk": 64, "overlap": True,
    },
    "guessing": {"speculative_tokens": 4},
    "guessing and preempted": {
        "page_size": 4, "pages": 70, "rows": 12, "max_model_len": 200, "prefill_chunk": 64, "speculative_tokens": 4,
    },
}  # fmt: skip
every_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)


@every_engine
@every_model
def test_thoughts_of_every_length_in_one_batch_are_closed_as_if_generate_went_on(
    name: str, engine: dict[str, Any]
) -> None:
    """After the thought and what closes it, the answer is what `generate` says to all of these as a prompt."""
    requests = [(ids, 1 + index % 21) for index, ids in enumerate(prompts(24))]
    with models.serving(name, **engine) as serving:
        got = answers(serving, [(ids, models.sampling(30, max_thinking_tokens=limit)) for ids, limit in requests])
        details = serving.status().details
    for (ids, limit), one in zip(requests, got, strict=True):
        thought = models.greedy(name, ids, limit)
        rest = models.greedy(name, (*ids, *thought, *CLOSING), 30 - limit - len(CLOSING))
        assert one.token_ids == (*thought, *CLOSING, *rest)
        assert one.reasoning == "".join(f" {token}" for token in (*thought, 501))
        assert one.text == b"".join(map(token_bytes, (503, *rest))).decode()
        assert (one.finish.reason, one.finish.reasoning_cut) == ("length", True)
        assert one.finish.usage.completion_tokens == 30
    assert (details["preemptions"] != 0) == ("pages" in engine)
    assert (details["pages_used"], details["step_failures"], details["out_of_memory"]) == (0, 0, 0)


def sampled(count: int) -> list[tuple[Ids, Sampling]]:
    """Requests with options of every kind, penalties and stop strings among them."""
    dice = random.Random(12)
    return [
        (
            ids,
            models.sampling(
                30,
                temperature=dice.choice((0.0, 0.8, 1.4)),
                top_p=dice.choice((1.0, 0.9)),
                top_k=dice.choice((0, 40)),
                repetition_penalty=dice.choice((1.0, 1.0, 1.3)),
                presence_penalty=dice.choice((0.0, 0.0, 0.7)),
                frequency_penalty=dice.choice((0.0, 0.5)),
                seed=number,
                stop=dice.choice(((), (" 1", "9"))),
                max_thinking_tokens=dice.choice((None, 1, 2, 7, 15, 26)),
            ),
        )
        for number, ids in enumerate(prompts(count))
    ]


@pytest.fixture(scope="module")
def alone() -> list[Completion]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "token_bytes", token_bytes)
        with models.serving() as engine:
            return answers(engine, sampled(40), alone=True)


def seen(completions: list[Completion]) -> list[tuple[object, ...]]:
    return [
        (one.token_ids, one.text, one.reasoning, one.finish.reason, one.finish.reasoning_cut) for one in completions
    ]


@every_engine
def test_with_any_options_a_cut_thought_and_its_answer_are_the_same_in_any_company(
    engine: dict[str, Any], alone: list[Completion]
) -> None:
    with models.serving(**{"rows": 12, **engine}) as serving:
        assert seen(answers(serving, sampled(40))) == seen(alone)
        assert serving.status().details["pages_used"] == 0
    assert {one.finish.reasoning_cut for one in alone} == {True, False}
    assert {one.finish.reason for one in alone} == {"stop", "length"}


def test_penalties_count_the_tokens_that_were_put_in_and_no_draw_that_was_dropped() -> None:
    """The model likes one token above all; a penalty keeps it to one time, whatever was drawn in vain."""

    def forward(ids: Tensor, positions: Tensor, keep: Tensor | None, layout: Layout, pages: KVPages) -> Tensor:
        fed = ids if keep is None else ids[keep]
        logits = torch.zeros(len(fed), models.VOCAB)
        logits[:, 40:48] = torch.arange(8.0, 0, -1)
        logits[:, 503] = 7.5
        return logits

    said = []
    for overlap in (False, True):
        with models.serving(forward=forward, overlap=overlap) as engine:
            sampling = models.sampling(9, frequency_penalty=2.0, max_thinking_tokens=2)
            said += [one.token_ids for one in answers(engine, [((5,), sampling)])]
    # 40, and 503 (7.5) before 40 a second time (6); the closing tokens, with 503 once more; 41 (7), 40 and 42 (6), and
    # 41 (5), but not 503 (3.5)
    assert said == [(40, 503, *CLOSING, 41, 40, 42, 41)] * 2


def test_guesses_are_made_on_both_sides_of_the_tokens_that_were_put_in() -> None:
    requests = [(ids, models.changed(options, max_tokens=60)) for ids, options in sampled(24)]
    said, right = [], []
    for guesses in (0, 5):
        with models.serving(forward=habitual("demo"), speculative_tokens=guesses, max_model_len=200) as engine:
            said.append(seen(answers(engine, requests)))
            right.append(engine.status().details["guessed_right"])
    assert said[0] == said[1]
    assert right[1] > 30  # type: ignore[operator]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_step_that_runs_out_of_memory_loses_no_closing_token(overlap: bool) -> None:
    """Each step of the request in turn, before and after the tokens were put in."""
    expected = None
    for failing in range(1, 12):
        steps = iter(range(1, 100))

        def forward(
            ids: Tensor, positions: Tensor, keep: Tensor | None, layout: Layout, pages: KVPages,
            steps: Any = steps, failing: int = failing,
        ) -> Tensor:  # fmt: skip
            if next(steps) == failing:
                raise torch.OutOfMemoryError("no room")
            return models.served("demo").forward(ids, positions, keep, layout, pages)

        with models.serving(forward=forward, overlap=overlap) as engine:
            (got,) = answers(engine, [((7, 8, 9), models.sampling(10, max_thinking_tokens=4))])
            assert engine.status().details["out_of_memory"] == (1 if failing < 9 + overlap else 0) or failing >= 8
        expected = expected or got.token_ids
        assert got.token_ids == expected
        assert got.token_ids[4:7] == CLOSING


def test_a_token_that_was_put_in_has_a_log_probability_of_0_and_the_others_their_own() -> None:
    with models.serving() as engine:
        sampling = models.sampling(12, max_thinking_tokens=4)
        got = asyncio.run(answer(engine, (7, 8, 9), sampling, logprobs=2))
    assert len(got.logprobs) == len(got.token_ids) == 12
    assert got.logprobs[4:7] == (Logprob(0.0, ()),) * 3
    for token, entry in [*zip(got.token_ids, got.logprobs, strict=True)][7:]:
        assert entry.top[0] == (token, entry.logprob)


@pytest.mark.parametrize("max_tokens", [7, 8, 9])
def test_a_thought_without_room_for_an_answer_goes_on_to_max_tokens(max_tokens: int) -> None:
    """Its limit is 5 tokens, closing takes 3, and an answer 1 at least."""
    with models.serving() as engine:
        (got,) = answers(engine, [((7, 8, 9), models.sampling(max_tokens, max_thinking_tokens=5))])
    assert (got.finish.reasoning_cut, len(got.token_ids)) == (max_tokens == 9, max_tokens)


def test_half_a_character_at_the_limit_is_no_replacement_character(monkeypatch: pytest.MonkeyPatch) -> None:
    half = models.greedy("demo", (7, 8, 9), 3)[2]
    monkeypatch.setattr(models, "token_bytes", lambda id_: "☃".encode()[:2] if id_ == half else token_bytes(id_))
    with models.serving() as engine:
        (got,) = answers(engine, [((7, 8, 9), models.sampling(9, max_thinking_tokens=3))])
    assert got.token_ids[2] == half
    assert got.reasoning is not None
    assert "\ufffd" not in got.reasoning
    assert got.reasoning.endswith(" 501")
