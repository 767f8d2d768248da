"""On a GPU the engine says, token for token, what `generate` says on a CPU: by kernels or without, in graphs or not."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from handler.model.qwen import Qwen
from tests import models
from tests.test_engine_equality import MAX_TOKENS, answers, prompts
from tests.test_qwen import config_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(autouse=True)
def no_tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def on_device(name: str) -> Qwen:
    return Qwen.from_state(config_of(name), {key: w.to("cuda") for key, w in models.oracle(name).state_dict().items()})


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
def test_64_prompts_together_say_what_generate_says_of_each(name: str, setting: dict[str, Any]) -> None:
    with models.serving(name, model=on_device(name), **setting) as engine:
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
