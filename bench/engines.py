"""Engines on random weights of a genuine shape, and work for them: what the benches of speed share."""

import asyncio
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from handler.engine.protocol import ModelInfo, Prompt
from handler.engine.sampling import Sampling
from handler.engine.stream import Delta, Finish
from handler.inference.config import EngineOptions
from handler.inference.loop import BatchingEngine
from handler.inference.model import Model
from handler.inference.plan import plan
from handler.model.config import ModelConfig
from handler.model.qwen import Qwen

SHAPES: dict[str, dict[str, Any]] = {
    "50m": {
        "vocab_size": 32_000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": False,
    },
    "0.5b": {
        "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "7b": {
        "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
    },
}  # fmt: skip
GREEDY: dict[str, Any] = {
    "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": 0, "stop": (),
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Requests sent at once: (prompt, new tokens) of each."""

    name: str
    requests: list[tuple[list[int], int]]

    @property
    def new(self) -> int:
        return sum(new for _, new in self.requests)


@dataclass(frozen=True)
class Record:
    """One answer of ours: when its tokens came, in seconds since all were sent."""

    arrivals: list[float]
    finish: Finish


def build(shape: str, dtype: torch.dtype, device: str) -> PreTrainedModel:
    config = Qwen2Config(
        **SHAPES[shape], max_position_embeddings=32_768, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model: PreTrainedModel = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.eval().requires_grad_(False)
    return model


def merged(model: PreTrainedModel) -> Qwen:
    """Our forward, with a copy of the weights."""
    return Qwen.from_state(ModelConfig.model_validate(model.config.to_dict()), model.state_dict())


def random_model(shape: str, dtype: torch.dtype, device: torch.device) -> Qwen:
    """Our forward with random weights, made on the device: no copy of transformers' model takes memory beside it."""
    config = ModelConfig.model_validate({
        **SHAPES[shape], "model_type": "qwen2", "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    })  # fmt: skip
    generator = torch.Generator(device).manual_seed(0)

    def source(names: Mapping[str, tuple[int, ...]]) -> torch.Tensor:
        rows = sum(size for size, *_ in names.values())
        _, *columns = next(iter(names.values()))
        weight = torch.empty(rows, *columns, dtype=dtype, device=device)
        if "norm" in next(iter(names)):
            return weight.fill_(1.0)
        return weight.normal_(0, 0.02, generator=generator)

    return Qwen(config, source, dtype, device)


def blocks_for(lengths: Iterable[int]) -> int:
    """Blocks of transformers' continuous batching that hold sequences of these lengths.

    One has 256 tokens by default, under a name that differs from version to version.
    """
    return sum(-(-length // 256) + 1 for length in lengths) + 4


def random_ids(count: int) -> list[int]:
    return [random.randrange(1, 30_000) for _ in range(count)]


@contextmanager
def engine_on(model: Model, rows: int, longest: int, *, guesses: int = 0) -> Iterator[BatchingEngine]:
    """The engine at the size that `plan` gives it in production, with all its graphs captured."""
    shape, cuda = model.shape, model.device.type == "cuda"
    free = torch.cuda.mem_get_info()[0] if cuda else 8 << 30
    wishes = EngineOptions(max_concurrent_requests=rows, max_model_len=longest, speculative_tokens=guesses)
    sized = plan(wishes, shape, device="cuda" if cuda else "cpu", free_bytes=free)
    info = ModelInfo("random", None, "path", "qwen2", "merged", True, str(model.dtype), str(model.device), 0, 0,
                     shape.vocab, shape.context_length, (), {})  # fmt: skip
    engine = BatchingEngine(model, info, lambda _: b"word ", sized)
    try:
        engine.settled(600)
        yield engine
    finally:
        engine.close()


def serve(engine: BatchingEngine, work: Work) -> tuple[float, list[Record]]:
    """Seconds until the last answer, and all answers."""

    async def one(prompt: list[int], new: int, begin: float) -> Record:
        arrivals: list[float] = []
        async for event in engine.stream(Prompt(tuple(prompt)), Sampling(max_tokens=new, **GREEDY)):
            if isinstance(event, Delta):
                arrivals += [time.perf_counter() - begin] * len(event.token_ids)
            else:
                return Record(arrivals, event)
        raise AssertionError("a stream ends with a Finish")

    async def all_of_it() -> tuple[float, list[Record]]:
        begin = time.perf_counter()
        records = await asyncio.gather(*(one(prompt, new, begin) for prompt, new in work.requests))
        return time.perf_counter() - begin, records

    return asyncio.run(all_of_it())
