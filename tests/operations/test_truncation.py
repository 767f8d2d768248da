"""A conversation that is too long loses its oldest exchanges where the caller allows it, and no more than needed."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.api.parse import parse
from handler.api.reply import Reply, to_wire
from handler.api.text import Message
from handler.errors import ContextLengthExceeded, InvalidRequest
from handler.model.snapshot import DEMO
from handler.model.template import Ending, Rendered, Template, Turn
from handler.model.tokenizer import read
from handler.operations.operations import Operations
from handler.operations.truncation import truncate
from tests.support.fakes import ScriptedEngine

Line = Callable[[ScriptedEngine], Operations]
TEMPLATE = Template(read(DEMO, "demo"))


def say(role: str, words: int) -> dict[str, str]:
    return {"role": role, "content": "word " * words}


def conversation(exchanges: int, words: int = 20) -> list[dict[str, str]]:
    """A system turn, exchanges, and a last question."""
    pairs = [say(role, words) for _ in range(exchanges) for role in ("user", "assistant")]
    return [{"role": "system", "content": "Be brief."}, *pairs, {"role": "user", "content": "And now?"}]


def ask(operations: Operations, **fields: Any) -> dict[str, Any]:
    async def gather() -> list[Any]:
        return [event async for event in operations.run(parse(fields))]

    *_, reply = asyncio.run(gather())
    assert isinstance(reply, Reply)
    return to_wire(reply)


def tokens_of(messages: Sequence[dict[str, str]]) -> int:
    turns = [Turn(one["role"], one["content"]) for one in messages]
    return len(TEMPLATE.chat(turns, 10**6).prompt.token_ids)


@pytest.mark.parametrize("operation", ["chat", "generate", "enhance"])
def test_pairs_go_from_the_front_and_the_reply_says_how_many_turns(line: Line, operation: str) -> None:
    messages = conversation(40)
    engine = ScriptedEngine(max_model_len=500)
    with pytest.raises(ContextLengthExceeded):
        ask(line(engine), operation=operation, messages=messages, max_tokens=100)
    fields = {"operation": operation, "messages": messages, "max_tokens": 100, "truncate_history": True}
    reply = ask(line(engine), **fields)
    dropped = reply["truncated_turns"]
    assert dropped % 2 == 0
    assert 0 < dropped < 80
    kept = [messages[0], *messages[1 + dropped :]]
    assert (
        reply["usage"]["prompt_tokens"] == tokens_of(kept) <= 400 < tokens_of([messages[0], *messages[dropped - 1 :]])
    )
    dry = ask(line(engine), **fields, dry_run=True)
    assert (dry["truncated_turns"], dry["messages"]) == (dropped, kept)
    assert dry["token_ids"] == list(engine.seen[-1][0].token_ids)


def test_a_judged_enhance_says_it_too(line: Line) -> None:
    fields = {"messages": conversation(40), "max_tokens": 100, "truncate_history": True, "n": 2}
    assert ask(line(ScriptedEngine(max_model_len=500)), operation="enhance", **fields)["truncated_turns"] > 0


def test_a_chat_by_message_keeps_its_whole_history_in_the_reply(line: Line) -> None:
    history = [{"sender": one["role"], "content": one["content"]} for one in conversation(40)[1:-1]]
    fields = {
        "operation": "chat", "message": "And now?", "system_prompt": "Be brief.", "conversation_history": history,
        "max_tokens": 100, "truncate_history": True,
    }  # fmt: skip
    operations = line(ScriptedEngine(max_model_len=500))
    reply = ask(operations, **fields)
    assert reply["truncated_turns"] > 0
    assert reply["conversation_history"][:80] == history
    assert reply["system_prompt_used"] == "Be brief."
    dry = ask(operations, **fields, dry_run=True)
    assert dry["messages_built"] == dry["messages"]
    assert len(dry["messages"]) == 82 - dry["truncated_turns"]


def test_what_fits_is_not_touched_and_what_was_not_asked_for_is_not_in_the_reply(line: Line) -> None:
    operations, fields = line(ScriptedEngine(max_model_len=500)), {"operation": "chat", "messages": conversation(2)}
    plain, allowed = ask(operations, **fields), ask(operations, **fields, truncate_history=True)
    assert "truncated_turns" not in plain
    assert allowed["truncated_turns"] == 0
    assert allowed["prompt_sha256"] == plain["prompt_sha256"]


def test_an_answer_of_the_default_length_leaves_half_of_a_short_context_to_the_conversation(line: Line) -> None:
    reply = ask(
        line(ScriptedEngine(max_model_len=200)), operation="chat", messages=conversation(9, 8), truncate_history=True
    )
    assert reply["truncated_turns"] > 0
    assert 60 < reply["usage"]["prompt_tokens"] <= 100


def test_a_last_turn_that_is_too_long_by_itself_is_refused_as_ever(line: Line) -> None:
    messages = [*conversation(3)[:-1], say("user", 500)]
    with pytest.raises(ContextLengthExceeded, match="max_tokens takes 100 of the context's 500") as caught:
        ask(
            line(ScriptedEngine(max_model_len=500)), operation="chat", messages=messages, max_tokens=100,
            truncate_history=True,
        )  # fmt: skip
    assert caught.value.field == "messages"


@pytest.mark.parametrize("fields", [{"operation": "generate"}, {"operation": "enhance", "system_prompt": "Rewrite."}])
def test_a_prompt_has_no_turns_to_drop(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="truncate_history needs messages") as caught:
        parse({**fields, "prompt": "a", "truncate_history": True})
    assert caught.value.field == "truncate_history"


roles = st.lists(st.sampled_from(["user", "assistant", "system"]), max_size=12)


@given(roles=roles, sizes=st.lists(st.integers(0, 12), min_size=14, max_size=14), room=st.integers(10, 200))
def test_the_longest_end_of_a_conversation_that_fits_is_kept(roles: list[str], sizes: list[int], room: int) -> None:
    messages = [Message.model_validate(say(role, size)) for role, size in zip([*roles, "user"], sizes, strict=False)]

    def encode(kept: Sequence[Message], most: int) -> Rendered:
        return TEMPLATE.chat([Turn(one.role, one.content) for one in kept], most, Ending())

    def fits(kept: Sequence[Message]) -> bool:
        return len(encode(kept, 10**6).prompt.token_ids) <= room

    kept = truncate(messages, room, 10**6, encode, TEMPLATE.count).messages
    candidates = [
        [one for at, one in enumerate(messages) if at >= first or one.role == "system"]
        for first in sorted({0, *(at for at, one in enumerate(messages) if one.role == "user")})
    ]
    assert list(kept) == next((one for one in candidates if fits(one)), candidates[-1])


def test_each_text_is_encoded_three_times_at_most_whatever_the_number_of_turns() -> None:
    messages = [Message.model_validate(one) for one in conversation(2_000, 3)]
    encoded: list[int] = []

    def encode(kept: Sequence[Message], most: int) -> Rendered:
        encoded.append(sum(len(one.content) for one in kept))
        return TEMPLATE.chat([Turn(one.role, one.content) for one in kept], most, Ending())

    def count(text: str) -> int:
        encoded.append(len(text))
        return TEMPLATE.count(text)

    kept = truncate(messages, 2_000, 10**6, encode, count).messages
    characters = sum(len(one.content) for one in kept)
    assert 100 < len(kept) < 1_000
    assert sum(encoded) < 3 * characters


def test_a_template_that_needs_more_tokens_than_were_counted_is_asked_few_times() -> None:
    messages = [Message.model_validate(one) for one in conversation(500, 3)]
    tried: list[int] = []

    def encode(kept: Sequence[Message], most: int) -> Rendered:
        tried.append(len(kept))
        if len(kept) > 12:
            raise ContextLengthExceeded("too long")
        return TEMPLATE.chat([Turn(one.role, one.content) for one in kept], most, Ending())

    assert 1 < len(truncate(messages, 5_000, 10**6, encode, TEMPLATE.count).messages) <= 12
    assert len(tried) < 12
