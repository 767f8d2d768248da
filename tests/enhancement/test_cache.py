"""The cache: no two different questions share an answer, and the oldest leave together."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.engine.protocol import Prompt
from handler.engine.sampling import Sampling
from handler.enhancement.cache import Cache
from handler.enhancement.packs import Loaded, Packs
from handler.enhancement.rewrite import Question
from handler.model.template import Rendered
from tests.support.enhancing import a_brief, genuine_encoders, needs_data, pack_json

SAMPLING = Sampling(max_tokens=145, temperature=0.7, top_p=0.9, seed=7)
QUESTION = Question(
    brief=a_brief("a fox"),
    rendered=Rendered("a fox", Prompt((1, 2)), "00"),
    sampling=SAMPLING,
    seeded=True,
    variant=0,
    seed_step=1,
    thinking=False,
    cache="use",
    model=("Qwen", "a1"),
    deadline=None,
    salt=None,
)

OTHER_SAMPLING: dict[str, Any] = {
    "max_tokens": 144,
    "temperature": 0.6,
    "top_p": 0.8,
    "top_k": 1,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "stop": (".",),
}
#: one change each; every one of them can change the answer
CHANGES: dict[str, dict[str, Any]] = {
    "prompt": {"brief": a_brief("a fox ")},
    "prompt's case": {"brief": a_brief("A fox")},
    "prompt's normal form": {"brief": a_brief("a fóx".replace("ó", "o\u0301"))},
    "own messages": {"brief": replace(a_brief("a fox"), by_pack=False)},
    "entry": {"brief": a_brief("a fox", job_type="sdxl_image_high")},
    "budget": {"brief": a_brief("a fox", target={"encoder": "clip", "max_tokens": 74})},
    "encoder": {"brief": a_brief("a fox", target={"encoder": "t5", "max_tokens": 75})},
    "language": {"brief": a_brief("a fox", language="de")},
    "mode": {"brief": a_brief("a fox", mode="extend")},
    "protect": {"brief": a_brief("a fox", protect=["fox"])},
    "rendered": {"rendered": Rendered("a  fox", Prompt((1, 2)), "00")},
    "token ids": {"rendered": Rendered("a fox", Prompt((1, 3)), "01")},
    "thinking": {"thinking": True},
    "model": {"model": ("Qwen2", "a1")},
    "revision": {"model": ("Qwen", "a2")},
    "seed": {"sampling": SAMPLING.with_seed(8)},
    "no seed": {"seeded": False},
    "variant": {"seeded": False, "variant": 1},
    "variants": {"seed_step": 2},
    **{name: {"sampling": SAMPLING.model_copy(update={name: value})} for name, value in OTHER_SAMPLING.items()},
}


def changed(names: Iterable[str]) -> Question:
    fields: dict[str, Any] = {}
    for name in sorted(names):
        fields |= CHANGES[name]
    return replace(QUESTION, **fields)


def test_every_single_change_has_a_key_of_its_own() -> None:
    keys = {name: changed([name]).key for name in CHANGES}
    assert QUESTION.key not in keys.values()
    assert len(set(keys.values())) == len(CHANGES)


@given(st.sets(st.sampled_from(sorted(CHANGES))), st.sets(st.sampled_from(sorted(CHANGES))))
def test_questions_that_differ_in_any_field_have_different_keys(one: set[str], other: set[str]) -> None:
    first, second = changed(one), changed(other)
    assert (first.key == second.key) is (_without_drawn_seed(first) == _without_drawn_seed(second))


def _without_drawn_seed(question: Question) -> Question:
    """A seed that the caller did not send is no part of the question."""
    return question if question.seeded else replace(question, sampling=question.sampling.with_seed(0))


def test_another_pack_has_another_key() -> None:
    value = pack_json()
    value["version"] = "2"
    brief = QUESTION.brief
    found = Packs((Loaded.of(value),)).find("sdxl_image_fast", None, None)
    assert replace(QUESTION, brief=replace(brief, found=found)).key != QUESTION.key


@needs_data
def test_another_tokenizer_has_another_key() -> None:
    other = replace(QUESTION, brief=a_brief("a fox", genuine_encoders()))
    assert other.key != QUESTION.key


def ask(cache: Cache[str], key: str, answer: str = "", clean: bool = True, **options: Any) -> tuple[str, bool]:
    async def make() -> str:
        return answer or key

    return asyncio.run(cache.get(key, make, keep=lambda _: clean, **{"use": "use", **options}))


def test_on_overflow_the_twenty_oldest_leave() -> None:
    cache: Cache[str] = Cache()
    for index in range(101):
        ask(cache, str(index))
    assert cache.size == 81
    assert [ask(cache, key)[1] for key in ("20", "100", "19")] == [True, True, False]


def test_who_comes_one_too_many_is_kept_however_many_are_to_leave() -> None:
    cache: Cache[str] = Cache(limit=2, evict=20)
    for key in "abc":
        ask(cache, key)
    assert [ask(cache, "c")[1], cache.size] == [True, 1]


def test_refresh_replaces_what_is_kept_and_off_neither_reads_nor_keeps() -> None:
    cache: Cache[str] = Cache()
    assert ask(cache, "k", "old", use="off") == ("old", False)
    assert ask(cache, "k", "new") == ("new", False)
    assert ask(cache, "k", "newer", use="refresh") == ("newer", False)
    assert ask(cache, "k") == ("newer", True)
    assert cache.clear(None) == 1
    assert ask(cache, "k", "last") == ("last", False)


def test_what_is_not_clean_is_not_kept() -> None:
    cache: Cache[str] = Cache()
    assert [ask(cache, "k", clean=False)[1] for _ in range(2)] == [False, False]


def test_an_error_reaches_all_who_wait_and_nothing_is_kept() -> None:
    cache: Cache[str] = Cache()
    asked = 0

    async def fail() -> str:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        raise KeyError("x")

    async def crowd() -> list[object]:
        one = [cache.get("k", fail, use="use", keep=lambda _: True) for _ in range(5)]
        return list(await asyncio.gather(*one, return_exceptions=True))

    assert [type(error) for error in asyncio.run(crowd())] == [KeyError] * 5
    assert (asked, cache.size) == (1, 0)
    with pytest.raises(KeyError):
        asyncio.run(cache.get("k", fail, use="use", keep=lambda _: True))


def asked_by_a_crowd(*options: dict[str, Any]) -> int:
    """How often the same key is asked for, by callers with these options at the same time."""
    cache: Cache[str] = Cache()
    asked = 0

    async def make() -> str:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return "x"

    async def crowd() -> None:
        await asyncio.gather(*(cache.get("k", make, use="use", keep=lambda _: True, **one) for one in options))

    asyncio.run(crowd())
    return asked


def test_a_pending_answer_is_shared_by_callers_of_one_owner_who_are_not_alone() -> None:
    assert asked_by_a_crowd({}, {}) == 1
    assert asked_by_a_crowd({"owner": "a"}, {"owner": "a"}) == 1
    assert asked_by_a_crowd({"owner": "a"}, {"owner": "b"}, {}) == 3
    assert asked_by_a_crowd({"alone": True}, {"alone": True}, {}, {}) == 3


def test_an_owner_finds_and_clears_its_own_answers_alone() -> None:
    cache: Cache[str] = Cache()
    for owner in ("a", "b", None):
        assert ask(cache, "k", owner=owner) == ("k", False)
    assert cache.clear("a") == 1
    assert [ask(cache, "k", owner=owner)[1] for owner in ("b", None, "a")] == [True, True, False]


def test_an_answer_that_was_shared_is_the_own_one_of_the_first_who_gets_it() -> None:
    async def crowd(leader_leaves: bool) -> list[bool]:
        cache: Cache[str] = Cache()
        began = asyncio.Event()

        async def make() -> str:
            began.set()
            await asyncio.sleep(0.01)
            return "answer"

        asked = [asyncio.ensure_future(cache.get("k", make, use="use", keep=lambda _: True)) for _ in range(4)]
        await began.wait()
        if leader_leaves:
            asked.pop(0).cancel()
        return [shared for _, shared in await asyncio.gather(*asked)]

    assert asyncio.run(crowd(leader_leaves=False)) == [False, True, True, True]
    assert asyncio.run(crowd(leader_leaves=True)) == [False, True, True]
