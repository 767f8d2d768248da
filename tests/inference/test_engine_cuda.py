"""On a GPU the engine gives, token for token, the answers of `generate` on a CPU with or without kernels and graphs."""

from typing import Any

import pytest

from tests.inference.test_engine_equality import MAX_TOKENS, answers, prompts
from tests.support import models
from tests.support.kernels import DEVICE, gpu

pytestmark = [*gpu, pytest.mark.usefixtures("no_tf32")]


@pytest.mark.parametrize(
    "setting",
    [
        {"attention": "reference"},
        {"attention": "kernel"},
        {"attention": "kernel", "overlap": True, "prefill_chunk": 48},
        {"attention": "kernel", "overlap": True, "graph_buckets": (1, 2, 4, 8, 16, 32, 64)},
        {"attention": "kernel", "graph_buckets": (1, 8, 64), "speculative_tokens": 4},
        {"attention": "kernel", "overlap": True, "page_size": 4, "pages": 160, "rows": 24, "graph_buckets": (8, 24)},
    ],
    ids=["reference", "kernel", "chunks", "graphs", "guesses", "preempted"],
)
@pytest.mark.parametrize("name", models.NAMES)
def test_64_prompts_together_get_the_answers_that_generate_gives_to_each(name: str, setting: dict[str, Any]) -> None:
    with models.serving(name, model=models.merged(models.oracle(name), DEVICE), **setting) as engine:
        assert engine.warm_up(120)
        completions = answers(engine, [(ids, models.sampling(MAX_TOKENS)) for ids in prompts()])
        details = engine.status().details
    for ids, completion in zip(prompts(), completions, strict=True):
        assert completion.token_ids == models.greedy(name, ids, MAX_TOKENS)
    graphs = details["graphs"]
    assert isinstance(graphs, tuple)
    # Those of more rows are captured while nothing runs, which may be never.
    assert {*graphs} >= {bucket for bucket in setting.get("graph_buckets", ()) if bucket <= 8}
    assert details["pages_used"] == 0
    assert (details["preemptions"] != 0) == ("pages" in setting)
