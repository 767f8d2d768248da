"""The variants of one job: in the order of their seeds, few at a time, and none refused for other jobs' variants."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from handler.api.enhance import EnhanceReply
from handler.api.parse import parse
from handler.api.reply import Reply
from handler.api.text import TextReply
from handler.engine.protocol import Prompt
from handler.engine.sampling import Sampling
from handler.engine.stream import Stream
from handler.errors import Overloaded
from handler.inference.config import EngineOptions
from handler.inference.plan import plan
from handler.inference.shape import ModelShape
from handler.operations.operations import Operations
from handler.queue.sdk import overfetched
from tests.support.rewriting import PROMPT, Line, Model, by_pack, extended, wide

ENHANCE: dict[str, Any] = {
    "operation": "enhance",
    "prompt": PROMPT,
    "job_type": "sdxl_image_fast",
    "cache": "off",
    "seed": 7,
    "n": 8,
}
CHAT: dict[str, Any] = {"operation": "chat", "message": "hi"}
ROWS = 32


@dataclass
class Crowded(Model):
    """Refuses what its queue has no room for, as the engine does, and remembers the most that it ran."""

    places: int = 1_000
    most: int = field(default=0)

    def stream(
        self, prompt: Prompt, sampling: Sampling, *, logprobs: int | None = None, deadline: float | None = None
    ) -> Stream:
        if len(self._tasks) >= self.places:
            raise Overloaded("full")
        stream = super().stream(prompt, sampling, logprobs=logprobs, deadline=deadline)
        self.most = max(self.most, len(self._tasks))
        return stream


def crowded(**fields: Any) -> Crowded:
    return Crowded(max_model_len=100_000, step_s=0.001, **fields)


async def answer(operations: Operations, request: dict[str, Any]) -> Reply:
    reply = [event async for event in operations.run(parse(request))][-1]
    assert isinstance(reply, Reply)
    return reply


def test_two_variants_of_a_job_run_at_a_time_and_come_in_the_order_of_their_seeds(line: Line) -> None:
    engine = crowded()
    reply = asyncio.run(answer(line(engine), ENHANCE))
    assert isinstance(reply, EnhanceReply)
    assert engine.most == 2
    assert [variant.seed for variant in reply.variants or ()] == list(range(7, 15))


def places(rows: int) -> int:
    """Requests that the engine of so many rows holds."""
    shape = ModelShape(
        context_length=1024, layers=1, heads=4, kv_heads=2, head_dim=16, hidden=64, intermediate=64, vocab=512,
        dtype_bytes=4,
    )  # fmt: skip
    options = EngineOptions(max_concurrent_requests=rows, kv_cache_gb=1)
    config = plan(options, shape, device="cpu", free_bytes=8 * 2**30)
    return config.rows + config.max_waiting


@pytest.mark.parametrize("rows", [1, 2, 8, ROWS, 64])
def test_the_engine_has_room_for_two_requests_of_every_job_that_is_taken(rows: int) -> None:
    assert 2 * overfetched(rows) <= places(rows)


def test_no_job_is_refused_for_the_variants_of_others(line: Line) -> None:
    engine = crowded(places=places(ROWS))
    operations = line(engine)

    async def crowd() -> list[Reply]:
        others = overfetched(ROWS) - 1
        return await asyncio.gather(*(answer(operations, one) for one in ([ENHANCE] * others + [CHAT])))

    *enhanced, chat = asyncio.run(crowd())
    assert isinstance(chat, TextReply)
    for reply in enhanced:
        assert isinstance(reply, EnhanceReply)
        assert [variant.degraded for variant in reply.variants or ()] == [None] * 8


@pytest.mark.parametrize("cache", ["off", "use"])
def test_variants_that_cannot_differ_run_once_and_say_so(line: Line, cache: str) -> None:
    model = wide(" soft light, sharp focus")
    reply = extended(line(model), n=4, temperature=0, cache=cache)
    assert len(model.asked) == 1
    assert reply.variants is not None
    assert {variant.enhanced_prompt for variant in reply.variants} == {PROMPT + ", soft light, sharp focus"}
    assert [variant.same_as for variant in reply.variants] == [None, 0, 0, 0]
    assert [variant.cache_hit for variant in reply.variants] == [False, True, True, True]
    assert [variant.seed for variant in reply.variants] == [7, 8, 9, 10]
    once = extended(line(wide(" soft light, sharp focus")), temperature=0)
    assert reply.run.usage == once.run.usage
    drawn = by_pack(line(wide()), n=4).variants
    assert drawn is not None
    assert [variant.same_as for variant in drawn] == [None] * 4
