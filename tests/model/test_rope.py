"""Rotary embeddings beyond the plain one: transformers' angles, logits and answers, below and beyond the original
context."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from handler.engine.fold import Completion
from handler.model.config import ModelConfig
from handler.model.qwen import Qwen
from handler.model.rope import Rope
from handler.model.rotation import Rotation
from tests.inference.test_engine_equality import answers
from tests.model.test_qwen import layout_of, pages_of
from tests.support import models
from tests.support.rescaled import ORIGINAL, SCALINGS, cached_logits, greedily, rescaled

#: as far as the scalings reach
EXTENDED = 4 * ORIGINAL
every_kind = pytest.mark.parametrize("kind", SCALINGS)
every_model = pytest.mark.parametrize("name", ["qwen2", "qwen3"])


def logits_of(model: Qwen, text: Tensor, prompt: int, chunk: int) -> Tensor:
    """[tokens, vocab] of a text: its prompt in chunks, then each token in a step of its own."""
    spans = [(at, min(at + chunk, prompt)) for at in range(0, prompt, chunk)]
    spans += [(at, at + 1) for at in range(prompt, len(text))]
    pages, rows = pages_of(model, 10), []
    for begin, end in spans:
        drawn = begin >= prompt
        layout = layout_of([(begin, end)], int(drawn), model.device)
        if not drawn:
            layout = replace(layout, prompt_lens=torch.full((end - begin,), prompt))
        with torch.inference_mode():
            rows.append(model.forward(text[begin:end], torch.arange(begin, end), None, layout, pages))
    return torch.cat(rows)


@every_model
@every_kind
def test_logits_are_those_of_transformers_to_1e_5_below_and_beyond_the_original_context(kind: str, name: str) -> None:
    text = torch.randint(models.VOCAB, (EXTENDED,), generator=torch.Generator().manual_seed(1))
    ours = models.merged(rescaled(name, SCALINGS[kind]))
    for prompt in (20, 100):
        expected = cached_logits(rescaled(name, SCALINGS[kind]), text, prompt).log_softmax(-1)
        for chunk in (200, 17):
            strayed = (logits_of(ours, text, prompt, chunk).log_softmax(-1) - expected).abs().amax(-1)
            below, beyond = float(strayed[:ORIGINAL].max()), float(strayed[ORIGINAL:].max())
            print(  # noqa: T201, for `pytest -s`
                f"{name} {kind}, a prompt of {prompt} in chunks of {chunk}: {below:.1e} below, {beyond:.1e} beyond"
            )
            assert max(below, beyond) < 1e-5
    plain = logits_of(models.served(name), text, 100, 200).log_softmax(-1)
    assert (plain - expected)[ORIGINAL:].abs().max() > 0.1


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"beta_fast": 16, "beta_slow": 2},
        {"attention_factor": 0.7},
        {"mscale": 0.7, "mscale_all_dim": 1.1},
        {"mscale": 0.7},
        {"truncate": False},
        {"factor": 1.0},
        {"factor": 2.5, "original_max_position_embeddings": 32_768},
        {"original_max_position_embeddings": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_yarn_has_the_angles_of_transformers_for_all_its_parameters(more: dict[str, Any], head_dim: int) -> None:
    given = {**SCALINGS["yarn"], "rope_theta": 1e6, "original_max_position_embeddings": 4096, **more}
    given = {key: value for key, value in given.items() if value is not None}
    theirs = Qwen2Config(
        hidden_size=2 * head_dim, num_attention_heads=2, max_position_embeddings=8192, rope_parameters=dict(given)
    )
    frequencies, scale = ROPE_INIT_FUNCTIONS["yarn"](theirs, torch.device("cpu"))
    rope = Rope.model_validate(given)
    ours = Rotation(rope, 8192, head_dim, torch.float32, torch.device("cpu"))
    ours.reserve(9000)
    positions = torch.tensor([0, 1, 77, 4095, 4096, 8999])
    angles = positions[:, None].float() * frequencies
    cos, sin = ours(positions, None).unbind(1)
    torch.testing.assert_close(cos, (angles.cos() * scale).repeat(1, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(sin[:, head_dim // 2 :], angles.sin() * scale, atol=1e-6, rtol=0)


@every_kind
@pytest.mark.parametrize("setting", [{}, {"page_size": 4, "pages": 45, "rows": 6, "prefill_chunk": 23}])
def test_requests_together_get_the_answers_that_generate_gives_to_each(kind: str, setting: dict[str, Any]) -> None:
    """Prompts that begin alike, shorter and longer than the original context, share no key that differs."""
    dice = random.Random(7)
    beginning = dice.choices(range(models.VOCAB), k=100)
    sizes = (1, 20, 31, 32, 33, 48, 64, 100, 100, 64)
    prompts = [
        (*beginning[:size], *dice.choices(range(models.VOCAB), k=number % 3)) for number, size in enumerate(sizes)
    ]
    model = models.merged(rescaled("qwen3", SCALINGS[kind]))
    with models.serving("qwen3", model=model, max_model_len=EXTENDED, overlap=True, **setting) as engine:
        one_after_the_other = [ask(engine, [ids])[0] for ids in prompts]
        together = ask(engine, prompts)
        preempted = engine.status().details["preemptions"] != 0
    for alone, crowded, ids in zip(one_after_the_other, together, prompts, strict=True):
        assert alone.token_ids == crowded.token_ids == greedily("qwen3", kind, ids, 24)
    assert preempted == bool(setting)
    assert any(answer.finish.usage.cached_tokens for answer in one_after_the_other)


def ask(engine: Any, prompts: list[tuple[int, ...]]) -> list[Completion]:
    return answers(engine, [(ids, models.sampling(24)) for ids in prompts])


CONFIG: dict[str, Any] = {
    "model_type": "qwen3", "vocab_size": 10, "hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 40_960,
    "rope_theta": 1e6,
}  # fmt: skip


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        (None, 40_960),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}, 131_072),
        ({"rope_type": "yarn", "factor": 2.0}, 81_920),
        ({"rope_type": "linear", "factor": 2.0}, 81_920),
        ({"type": "dynamic", "factor": 1.5}, 61_440),
        ({"rope_type": "default"}, 40_960),
    ],
)
def test_the_context_is_as_long_as_the_scaling_says(scaling: dict[str, Any] | None, context: int) -> None:
    config = ModelConfig.model_validate({**CONFIG, "rope_scaling": scaling})
    assert config.beyond_merged() is None
    assert config.context_length == config.shape(2).context_length == context
