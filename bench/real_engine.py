"""The engine on a real model: beside transformers' `generate` on the same GGUF file, and beside itself in a crowd.

Knows no worker: prompts go in as token ids.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from handler.engine import fold
from handler.engine.fold import Completion
from handler.engine.protocol import Prompt
from handler.engine.sampling import Sampling
from handler.inference.config import EngineConfig
from handler.inference.loop import BatchingEngine
from handler.model import weights
from handler.model.snapshot import Snapshot
from handler.model.template import Template, Turn
from handler.model.weights import Loaded
from tests.support import real

Ids = tuple[int, ...]
Asked = tuple[Ids, Sampling]

QUESTIONS = (
    "Why is the sky blue?", "Who wrote Faust?", "What is 17 + 25?", "Name three rivers in Europe.",
    "Write a haiku about snow.", "Explain photosynthesis to a child.", "What does HTTP 404 mean?",
    "Translate 'good morning' into French.", "List the planets.", "How do I boil an egg?", "What is a prime number?",
    "Tell me a short story about a fox.", "Give me a name for a cat.", "What is the capital of Japan?",
    "Write a Python function that adds 2 numbers.", "Why do leaves fall in autumn?", "What is Wi-Fi?",
    "Describe a lighthouse at dusk in one sentence.", "Is 91 prime?", "Was ist ein Fahrrad?", "¿Qué es la música?",
    "Qu'est-ce qu'un nuage ?", "日本の首都はどこですか。", "Что такое снег?",
)  # fmt: skip
SYSTEMS = (None, "Answer in one sentence.")
#: a text that does not change, for prompts of many lengths
LICENSE = Path(__file__).parents[1] / "LICENSE"


def load(dtype: str) -> Loaded:
    """Our forward, template and facts of the checkpoint in `dtype`.

    Raises:
        Unavailable: see `real.checkpoint`.
    """
    return weights.load(Snapshot(real.checkpoint(dtype), "path", real.NAME, None), device="cpu")


def theirs() -> PreTrainedModel:
    """transformers' own reading of the GGUF file, in float32.

    It keeps the weights packed and computes in float32 whatever the dtype, so that it can be compared in no other.
    """
    file = real.gguf()
    model: PreTrainedModel = LlamaForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    model.train(False).requires_grad_(False)
    return model


def converted(dtype: str) -> PreTrainedModel:
    """transformers' reading of the checkpoint that was made of it."""
    model: PreTrainedModel = Qwen2ForCausalLM.from_pretrained(real.checkpoint(dtype), local_files_only=True)
    model.train(False).requires_grad_(False)
    return model


def same_logits(one: PreTrainedModel, other: PreTrainedModel, prompts: Sequence[Ids]) -> list[bool]:
    """For each prompt: are the logits of both models at all positions equal to the bit?"""
    with torch.inference_mode():
        return [torch.equal(one(ids).logits, other(ids).logits) for ids in map(_row, prompts)]


def prompts(template: Template, count: int) -> list[Ids]:
    """Chats as token ids: three in four ask a question, every fourth quotes 200 to 3,000 characters of the licence."""
    dice, text = random.Random(17), LICENSE.read_text(encoding="utf-8")
    found = []
    for number in range(count):
        system, question = SYSTEMS[number % len(SYSTEMS)], QUESTIONS[number % len(QUESTIONS)]
        if number % 4 == 3:
            begin, size = dice.randrange(len(text) - 3000), dice.randint(200, 3000)
            question = f"What does this say?\n\n{text[begin : begin + size]}"
        turns = [Turn("system", system)] if system else []
        found.append(template.chat([*turns, Turn("user", question)], 4000).prompt.token_ids)
    return found


def greedy(max_tokens: int) -> Sampling:
    return Sampling.model_validate({"max_tokens": max_tokens, "temperature": 0.0, "seed": 0})


def mixed(prompts: Sequence[Ids], max_tokens: int) -> list[Asked]:
    """Each prompt with options of its own: every option is on in many of them, and some are greedy."""
    dice = random.Random(18)

    def maybe(value: float, neutral: float) -> float:
        return value if dice.random() < 0.5 else neutral

    return [
        (
            ids,
            Sampling.model_validate(
                {
                    "max_tokens": dice.randint(max_tokens // 2, max_tokens),
                    "temperature": dice.choice((0.0, 0.7, 1.0, dice.uniform(0.1, 1.8))),
                    "top_p": maybe(dice.uniform(0.3, 0.99), 1.0),
                    "top_k": int(maybe(dice.choice((2, 5, 40, 10_000)), 0)),
                    "min_p": maybe(dice.uniform(0.001, 0.3), 0.0),
                    "repetition_penalty": maybe(dice.uniform(0.8, 1.4), 1.0),
                    "presence_penalty": maybe(dice.uniform(-1, 1), 0.0),
                    "frequency_penalty": maybe(dice.uniform(-1, 1), 0.0),
                    "seed": dice.randrange(2**63),
                    "stop": dice.choice(((), (". ",), (" the", "!"))),
                }
            ),
        )
        for ids in prompts
    ]


@contextmanager
def serving(loaded: Loaded, *, rows: int = 64, tokens: int = 40_000, **options: Any) -> Iterator[BatchingEngine]:
    """An engine with room for `tokens` in its cache."""
    sized: dict[str, Any] = {
        "rows": rows, "max_waiting": 256, "max_model_len": min(4096, tokens), "page_size": 16, "pages": tokens // 16,
        "prefill_chunk": 512, "prefill_alone": 512, "attention": "auto", "graph_buckets": (), "overlap": False,
    }  # fmt: skip
    template = loaded.template
    engine = BatchingEngine(
        loaded.model,
        loaded.info,
        template.token_bytes,
        EngineConfig(**{**sized, **options}),
        tokens_in_vocab=template.tokens_in_vocab,
    )
    try:
        yield engine
    finally:
        engine.close()


def at_once(engine: BatchingEngine, asked: Sequence[Asked]) -> list[Completion]:
    """All requests sent at once; answers in their order."""

    async def together() -> list[Completion]:
        streams = [engine.stream(Prompt(ids), sampling) for ids, sampling in asked]
        return await asyncio.gather(*map(fold.whole, streams))

    return asyncio.run(together())


def in_turn(engine: BatchingEngine, asked: Sequence[Asked]) -> list[Completion]:
    """Each request sent when the one before it has its answer."""
    return [at_once(engine, [one])[0] for one in asked]


def generated(model: PreTrainedModel, ids: Ids, max_tokens: int, ends: Sequence[int]) -> Ids:
    """The greedy answer of `generate`, an end token included."""
    options = GenerationConfig(max_new_tokens=max_tokens, do_sample=False, eos_token_id=list(ends), pad_token_id=0)
    given = _row(ids)
    with torch.inference_mode():
        generate: Any = model.generate
        out = generate(given, attention_mask=torch.ones_like(given), generation_config=options)
    return tuple(out[0, len(ids) :].tolist())


def said(completion: Completion) -> tuple[Ids, str, str]:
    """The part of an answer that does not depend on other requests."""
    return completion.token_ids, completion.text, completion.finish.reason


def _row(ids: Ids) -> torch.Tensor:
    return torch.tensor([ids])
