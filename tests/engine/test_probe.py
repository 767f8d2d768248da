"""The probe: an engine that computes finite logits is told from one that does not."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from handler.engine.probe import computes_finite_logits
from handler.engine.protocol import Prompt
from tests.support import models


def probe(forward: Callable[..., Tensor] | None = None) -> bool:
    with models.serving(forward=forward) as engine:
        return asyncio.run(computes_finite_logits(engine, Prompt((1, 2, 3))))


def test_a_sound_model_passes() -> None:
    assert probe()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["prefill", "decode"])
def test_one_logit_that_is_not_finite_in_prefill_or_decode_is_found(value: float, place: str) -> None:
    def forward(ids: Tensor, *others: Any) -> Tensor:
        logits = models.served("demo").forward(ids, *others)
        if (len(ids) > 1) == (place == "prefill"):
            logits[-1, 7] = value
        return logits

    assert not probe(forward)
