"""Callers of different salts share nothing that was computed: no prefix, no kept enhancement, no flight.

Each test comes in a pair: the same salt shares, another one does not. A salt that reached nothing would fail the one, a
cache that is off the other.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from handler.api.enhance import EnhanceReply
from handler.api.info import InfoReply
from handler.api.parse import parse
from handler.api.reply import Reply, to_wire
from handler.api.text import TextReply
from handler.engine.fold import whole
from handler.engine.protocol import Prompt
from handler.inference.loop import BatchingEngine
from handler.job import Jobs
from handler.operations.operations import Operations
from handler.report import Report
from handler.settings import PrefixSharing, Settings
from handler.start import start
from tests.support import models
from tests.support.fakes import ScriptedEngine
from tests.support.rewriting import PROMPT, Line, Model, wide

SALT, OTHER = "salt-8c1f", "salt-2b90"
#: a prompt of several pages
LONG = "You are the assistant of one tenant, and this is its own secret system prompt. " * 4
REQUESTS: dict[str, dict[str, Any]] = {
    "chat": {"operation": "chat", "message": "hi", "system_prompt": LONG},
    "generate": {"operation": "generate", "prompt": LONG},
    "enhance, plain": {"operation": "enhance", "prompt": "a fox", "system_prompt": LONG},
    "enhance, checked": {"operation": "enhance", "prompt": "a fox", "system_prompt": LONG, "language": "en"},
    "enhance, by a pack": {"operation": "enhance", "prompt": "a fox", "job_type": "sdxl_image_fast", "cache": "off"},
}
REQUEST = pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)


async def ask(operations: Operations, fields: dict[str, Any]) -> Reply:
    reply = [event async for event in operations.run(parse({"seed": 7, **fields}))][-1]
    assert isinstance(reply, Reply)
    return reply


def salt_of(engine: ScriptedEngine) -> bytes:
    """The salt of the prompt that the engine was given last."""
    return engine.seen[-1][0].salt


def salts(line: Line, request: dict[str, Any], *sent: str | None, sharing: PrefixSharing = "all") -> list[bytes]:
    """The salts of prompts by the salts that were sent with the same request."""
    engine = wide()
    operations = Operations(replace(line(engine).core, prefix_sharing=sharing))
    found = []
    for salt in sent:
        asyncio.run(ask(operations, {**request, "cache_salt": salt}))
        found.append(salt_of(engine))
    return found


@REQUEST
def test_a_prompt_has_the_salt_of_its_request(line: Line, request_: dict[str, Any]) -> None:
    one, again, other, none, none_again = salts(line, request_, SALT, SALT, OTHER, None, None)
    assert one == again
    assert none == none_again == b""
    assert len({one, other, none}) == 3


@REQUEST
def test_where_only_salted_requests_share_one_without_a_salt_shares_with_none(
    line: Line, request_: dict[str, Any]
) -> None:
    one, again, other, none, none_again = salts(line, request_, SALT, SALT, OTHER, None, None, sharing="salted")
    assert one == again
    assert len({one, other, none, none_again, b""}) == 5


@REQUEST
def test_where_sharing_is_off_no_two_prompts_share(line: Line, request_: dict[str, Any]) -> None:
    assert len({*salts(line, request_, SALT, SALT, None, None, sharing="off"), b""}) == 5


def test_a_salt_changes_neither_the_draws_nor_the_hash_of_the_prompt(line: Line) -> None:
    engine = wide()
    operations = line(engine)
    one, other = (asyncio.run(ask(operations, {**REQUESTS["chat"], "cache_salt": salt})) for salt in (SALT, None))
    assert isinstance(one, TextReply)
    assert isinstance(other, TextReply)
    assert (one.run.prompt_sha256, one.run.sampling) == (other.run.prompt_sha256, other.run.sampling)
    assert engine.seen[0][0].token_ids == engine.seen[1][0].token_ids


@REQUEST
def test_a_salt_is_in_no_reply_no_dry_run_no_refusal_and_no_line_of_the_log(
    line: Line, request_: dict[str, Any], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    jobs = Jobs(line(wide()), Report())
    changes: list[dict[str, Any]] = [
        {},
        {"dry_run": True},
        {"top_p": 5},
        {"cache_salt": SALT * 20},
        {"cache_salt": [SALT]},
    ]
    for more in changes:
        end = asyncio.run(jobs.answer({"id": "j", "input": {**request_, "cache_salt": SALT, **more}}))
        told = json.dumps(to_wire(end) if isinstance(end, Reply) else end.to_wire()) + caplog.text
        assert SALT not in told + "".join(capfd.readouterr())
        assert "cache_salt" not in told or "cache_salt" in more


PROMPT_IDS = tuple(range(3, 60))


def cached(engine: BatchingEngine, *asked: bytes) -> list[int]:
    """Tokens of the prompt that were found in the cache, by the salts of requests one after the other."""

    async def one(salt: bytes) -> int:
        stream = engine.stream(Prompt(PROMPT_IDS, salt), models.sampling(4))
        completion = await whole(stream)
        answers.add(completion.token_ids)
        return completion.finish.usage.cached_tokens

    answers: set[tuple[int, ...]] = set()
    found = [asyncio.run(one(salt)) for salt in asked]
    assert answers == {models.greedy("demo", PROMPT_IDS, 4)}
    return found


def test_the_engine_shares_a_prefix_between_equal_salts_alone_and_no_answer_changes() -> None:
    with models.serving() as engine:
        assert cached(engine, b"", b"", b"a", b"a", b"b", b"", b"b", b"a") == [0, 48, 0, 48, 0, 48, 48, 48]


@pytest.fixture
def salted(line: Line) -> Callable[[Model], Callable[..., EnhanceReply]]:
    """Asks for one enhancement by one model, with the salt that is given."""

    def by(model: Model) -> Callable[..., EnhanceReply]:
        operations = line(model)

        def one(salt: str | None, **fields: Any) -> EnhanceReply:
            request = {"operation": "enhance", "prompt": PROMPT, "job_type": "sdxl_image_fast", "cache_salt": salt}
            reply = asyncio.run(ask(operations, {**request, **fields}))
            assert isinstance(reply, EnhanceReply)
            return reply

        return one

    return by


Salted = Callable[[Model], Callable[..., EnhanceReply]]


def test_a_kept_enhancement_is_found_by_its_own_salt_alone(salted: Salted) -> None:
    one = salted(wide())
    asked = [SALT, SALT, OTHER, OTHER, None, None, SALT]
    assert [one(salt).enhanced.cache_hit for salt in asked] == [False, True, False, True, False, True, True]


def test_the_first_of_two_salts_is_not_found_by_a_request_without_one_and_the_other_way_round(salted: Salted) -> None:
    one, other = salted(wide()), salted(wide())
    assert [one(salt).enhanced.cache_hit for salt in (None, SALT)] == [False, False]
    assert [other(salt).enhanced.cache_hit for salt in (SALT, None)] == [False, False]


def flown(line: Line, *sent: dict[str, Any]) -> int:
    """How often the model was asked for equal questions at the same time."""
    model = wide(step_s=0.005)
    operations = line(model)
    question = {"operation": "enhance", "prompt": PROMPT, "job_type": "sdxl_image_fast"}

    async def crowd() -> None:
        await asyncio.gather(*(ask(operations, {**question, **fields}) for fields in sent))

    asyncio.run(crowd())
    return len(model.asked)


def test_a_flight_is_shared_between_equal_salts_alone(line: Line) -> None:
    assert flown(line, {}, {}) == 1
    assert flown(line, {"cache_salt": SALT}, {"cache_salt": SALT}) == 1
    assert flown(line, {"cache_salt": SALT}, {"cache_salt": OTHER}) == 2
    assert flown(line, {"cache_salt": SALT}, {}) == 2


def test_a_flight_is_shared_only_between_requests_without_a_deadline(line: Line) -> None:
    assert flown(line, {"deadline_ms": 60_000}, {"deadline_ms": 60_000}) == 2
    assert flown(line, {"deadline_ms": 60_000}, {}, {}) == 2


def test_a_request_gets_the_whole_of_its_own_deadline_though_an_equal_one_began_before(line: Line) -> None:
    operations = line(wide(PROMPT + ", soft light" * 2000, step_s=0.001))
    question = {"operation": "enhance", "prompt": PROMPT, "job_type": "sdxl_image_fast", "max_tokens": 4000}

    async def later() -> list[float]:
        async def after(pause_s: float) -> float:
            await asyncio.sleep(pause_s)
            reply = await ask(operations, {**question, "deadline_ms": 400})
            assert isinstance(reply, EnhanceReply)
            return reply.run.timing.total_ms

        return [*await asyncio.gather(after(0), after(0.3))]

    assert min(asyncio.run(later())) > 300


def test_an_answer_to_a_request_with_a_deadline_is_kept(salted: Salted) -> None:
    one = salted(wide())
    assert [one(SALT, deadline_ms=60_000).enhanced.cache_hit for _ in range(2)] == [False, True]


def cleared(operations: Operations, **fields: Any) -> InfoReply:
    reply = asyncio.run(anext(operations.run(parse({"operation": "info", "clear_cache": True, **fields}))))
    assert isinstance(reply, InfoReply)
    return reply


def test_a_caller_removes_the_enhancements_of_its_own_salt_and_no_other(line: Line) -> None:
    operations = line(wide())
    question = {"operation": "enhance", "prompt": PROMPT, "job_type": "sdxl_image_fast"}
    for salt in (SALT, OTHER, None):
        asyncio.run(ask(operations, {**question, "cache_salt": salt}))
    assert to_wire(cleared(operations, cache_salt=SALT)) == {"success": True, "cache_cleared": 1, "cache_size": 0}
    assert cleared(operations, cache_salt=SALT).cache_cleared == 0
    hits = []
    for salt in (OTHER, None, SALT):
        reply = asyncio.run(ask(operations, {**question, "cache_salt": salt}))
        assert isinstance(reply, EnhanceReply)
        hits.append(reply.enhanced.cache_hit)
    assert hits == [True, True, False]


def test_a_caller_without_a_salt_clears_only_what_requests_without_one_left(line: Line) -> None:
    operations = line(wide())
    question = {"operation": "enhance", "prompt": PROMPT, "job_type": "universal"}
    for salt in (SALT, None):
        asyncio.run(ask(operations, {**question, "cache_salt": salt}))
    assert to_wire(cleared(operations)) == {"success": True, "cache_cleared": 1, "cache_size": 0}
    reply = asyncio.run(ask(operations, {**question, "cache_salt": SALT}))
    assert isinstance(reply, EnhanceReply)
    assert reply.enhanced.cache_hit


def test_the_settings_reach_the_operations() -> None:

    settings = Settings(model_path="demo", prefix_sharing="salted")
    worker = start(settings, Report())
    core = worker.jobs.operations.core
    worker.engine.close()
    assert core.prefix_sharing == "salted"
