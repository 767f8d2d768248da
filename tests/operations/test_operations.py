"""Operations: what was sent reaches the engine, what the engine said reaches the caller, nothing else does."""

import asyncio
import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from handler.api import text as texts
from handler.api.chat import ChatReply
from handler.api.enhance import EnhanceReply
from handler.api.generate import GenerateReply
from handler.api.info import SECTIONS, InfoReply
from handler.api.parse import parse
from handler.api.reply import Reply, to_wire
from handler.api.text import DryRunReply, TextReply
from handler.engine.fold import Piece
from handler.engine.sampling import Sampling
from handler.engine.stream import Delta, Finish, Stream, Timing, Usage
from handler.errors import ContextLengthExceeded, DeadlineExceeded, InvalidRequest, OutOfMemory, Unsupported
from handler.model.snapshot import DEMO
from handler.model.template import Template
from handler.model.tokenizer import read as read_tokenizer
from handler.operations.core import draw_seed, utc_now
from handler.operations.facts import _likely
from handler.operations.operations import Operations
from tests.support.fakes import ScriptedEngine, likely

HI = [{"role": "user", "content": "hi"}]
Line = Callable[[ScriptedEngine], Operations]
Read = Callable[[ScriptedEngine], str]


def run(operations: Operations, **fields: Any) -> tuple[list[str], Reply]:
    """The text as it came, and the reply."""

    async def gather() -> list[Piece | Reply]:
        return [event async for event in operations.run(parse(fields))]

    *pieces, reply = asyncio.run(gather())
    assert isinstance(reply, Reply)
    return [piece.text for piece in pieces if isinstance(piece, Piece) and not piece.reasoning], reply


def changed(operations: Operations, **fields: Any) -> Operations:
    """The same operations over another core."""
    return Operations(replace(operations.core, **fields))


@pytest.fixture
def read(tokenizer: PreTrainedTokenizerFast) -> Callable[[ScriptedEngine], str]:
    """What an engine was given to read last, as text."""
    return lambda engine: str(tokenizer.decode(list(engine.seen[-1][0].token_ids)))


def test_a_chat_answers_with_the_whole_text_and_says_how(line: Line) -> None:
    text, reply = run(line(ScriptedEngine()), operation="chat", messages=HI)
    assert isinstance(reply, ChatReply)
    assert "".join(text) == reply.response == "Hello, world!"
    assert (reply.run.finish_reason, reply.run.usage.completion_tokens) == ("stop", 4)
    assert reply.run.usage.total_tokens == reply.run.usage.prompt_tokens + 4
    assert (reply.system_prompt_used, reply.conversation_history) == (None, None)


def test_the_message_form_reads_history_and_system_prompt_and_returns_the_history_with_two_turns_more(
    line: Line, read: Read
) -> None:
    engine = ScriptedEngine()
    operations = line(engine)
    old = [{"sender": "user", "content": "a", "created_at": "then"}, {"sender": "assistant", "content": "b"}]
    _, reply = run(
        operations, operation="chat", message="c", system_prompt="s", conversation_history=old, conversation_id=[1]
    )
    assert isinstance(reply, ChatReply)
    assert reply.conversation_history is not None
    assert [(turn.sender, turn.content, turn.created_at) for turn in reply.conversation_history] == [
        ("user", "a", "then"),
        ("assistant", "b", None),
        ("user", "c", "now"),
        ("assistant", "Hello, world!", "now"),
    ]
    assert (reply.system_prompt_used, reply.echo.conversation_id, reply.message_id) == ("s", [1], "id")
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    frame = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    assert read(engine) == f"{frame}<|im_start|>assistant\n"


def test_generate_reads_a_raw_prompt_as_it_stands(line: Line, read: Read) -> None:
    engine = ScriptedEngine()
    _, reply = run(line(engine), operation="generate", prompt="<|im_start|>Once")
    assert isinstance(reply, GenerateReply)
    assert (reply.text, read(engine)) == ("Hello, world!", "<|im_start|>Once")


def test_enhance_runs_prompt_and_system_prompt_as_two_messages_and_echoes_the_rest(line: Line, read: Read) -> None:
    engine = ScriptedEngine([" a fox,", " in snow "])
    operations = line(engine)
    _, reply = run(operations, operation="enhance", prompt=" a fox", system_prompt="Rewrite.", context={"n": 1})
    assert isinstance(reply, EnhanceReply)
    assert (reply.original_prompt, reply.enhanced.enhanced_prompt) == (" a fox", " a fox, in snow ")
    assert (reply.enhanced.enhancement_source, reply.enhanced.cache_hit) == ("edge_function", False)
    assert reply.echo.context == {"n": 1}
    assert "system\nRewrite.<|im_end|>\n<|im_start|>user\n a fox<|im_end|>" in read(engine)


@pytest.mark.parametrize(
    "fields",
    [
        {"operation": "chat", "messages": HI},
        {"operation": "chat", "message": "hi"},
        {"operation": "enhance", "messages": HI},
        {"operation": "enhance", "prompt": "a fox", "system_prompt": "x"},
        {"operation": "enhance", "prompt": "a fox", "system_prompt": "x", "n": 2},
        {"operation": "enhance", "prompt": "a fox", "job_type": "sdxl_image_fast"},
    ],
)
def test_what_is_passed_back_comes_back_in_every_form(line: Line, fields: dict[str, Any]) -> None:
    told = type(parse(fields)).model_fields
    passed: dict[str, Any] = {
        name: {"of": name} for name in told if (told[name].description or "").startswith("Passed back")
    }
    if "negative_prompt" in passed:
        passed["negative_prompt"] = "blurry "
    assert len(passed) == 3
    _, reply = run(line(ScriptedEngine()), **fields, **passed)
    wire = to_wire(reply)
    assert {name: wire[name] for name in passed} == passed


def test_log_probabilities_of_a_text_that_is_fitted_afterwards_are_refused(line: Line) -> None:
    target = {"encoder": "clip", "max_tokens": 75}
    with pytest.raises(Unsupported) as caught:
        run(line(ScriptedEngine()), operation="enhance", messages=HI, target=target, logprobs=True)
    assert caught.value.field == "logprobs"


def test_enhance_takes_the_last_user_turn_of_messages_for_the_original_prompt(line: Line) -> None:
    turns = [*HI, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    _, reply = run(line(ScriptedEngine()), operation="enhance", messages=turns)
    assert isinstance(reply, EnhanceReply)
    assert reply.original_prompt == "b"


def test_sampling_is_the_workers_default_where_nothing_was_sent(line: Line) -> None:
    engine = ScriptedEngine()
    run(line(engine), operation="chat", messages=HI)
    assert engine.seen[0][1] == Sampling(max_tokens=512, temperature=0.7, top_p=0.9, seed=4242)


def test_sampling_defaults_model_takes_the_generation_config_and_only_for_what_was_not_sent(line: Line) -> None:
    engine = ScriptedEngine()
    operations = line(engine)
    theirs = {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.05}
    operations = changed(operations, model=replace(operations.core.model, sampling_defaults=theirs))
    run(operations, operation="enhance", messages=HI, sampling_defaults="model", temperature=0)
    assert engine.seen[0][1] == Sampling(
        max_tokens=200, temperature=0.0, top_p=1.0, top_k=20, repetition_penalty=1.05, seed=4242
    )


def test_every_sampling_field_that_was_sent_reaches_the_engine_and_is_echoed(line: Line) -> None:
    engine = ScriptedEngine()
    sent = {
        "max_tokens": 3,
        "temperature": 1.5,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": -0.4,
        "seed": 11,
        "stop": ["x", "y"],
        "stop_token_ids": [5, 0],
    }
    _, reply = run(line(engine), operation="generate", prompt="a", **sent)
    assert isinstance(reply, GenerateReply)
    assert reply.run.sampling.model_dump(mode="json") == sent
    assert engine.seen[0][1] == Sampling.model_validate({**sent, "stop": ("x", "y"), "stop_token_ids": (5, 0)})
    assert reply.run.finish_reason == "length"


@pytest.mark.parametrize("operation", ["chat", "generate", "enhance"])
@pytest.mark.parametrize(("asked", "alternatives"), [({}, 0), ({"top_logprobs": 0}, 0), ({"top_logprobs": 3}, 3)])
def test_logprobs_tell_of_every_completion_token_what_the_engine_said(
    line: Line, template: Template, operation: str, asked: dict[str, int], alternatives: int
) -> None:
    engine = ScriptedEngine(["a", "b", "STOP", "c"])
    _, reply = run(line(engine), operation=operation, messages=HI, logprobs=True, stop="STOP", **asked)
    assert isinstance(reply, TextReply)
    assert reply.run.logprobs is not None
    assert (
        len(reply.run.logprobs) == reply.run.usage.completion_tokens == 3
    )  # what a stop string cut off was drawn, too
    for token, told in enumerate(reply.run.logprobs):
        expected = likely(token, alternatives)
        assert (told.token_id, told.logprob) == (token, round(expected.logprob, 6))
        assert bytes(told.bytes).decode() == told.token == template.token_bytes(token).decode()
        assert [(other.token_id, other.logprob) for other in told.top] == [
            (other, round(logprob, 6)) for other, logprob in expected.top
        ]


def test_the_bytes_of_tokens_that_cut_a_character_are_those_of_the_text(line: Line, template: Template) -> None:
    cut = [id_ for id_ in range(template.tokens_in_vocab) if template.token_bytes(id_) in (b"\xc3", b"\xa9")]
    core = line(ScriptedEngine()).core
    told = sorted((_likely(core, id_, -1.0) for id_ in cut), key=lambda one: one.bytes, reverse=True)
    assert [one.token for one in told] == ["\ufffd", "\ufffd"]
    assert b"".join(bytes(one.bytes) for one in told).decode() == "é"


@pytest.mark.parametrize("fields", [{"messages": [{"role": "user", "content": "a\0b"}]}, {"prompt": "a\0b"}])
def test_u0000_goes_through_as_any_other_character(line: Line, fields: dict[str, Any]) -> None:
    _, reply = run(line(ScriptedEngine(["x\0", "y"])), operation="generate", **fields)
    _, dry = run(line(ScriptedEngine()), operation="generate", dry_run=True, **fields)
    assert isinstance(reply, GenerateReply)
    assert isinstance(dry, DryRunReply)
    assert (reply.text, "a\0b" in dry.rendered) == ("x\0y", True)


def test_logprobs_are_absent_where_they_were_not_asked_for(line: Line) -> None:
    _, reply = run(line(ScriptedEngine()), operation="chat", messages=HI)
    assert isinstance(reply, TextReply)
    assert reply.run.logprobs is None
    assert "logprobs" not in to_wire(reply)


def test_bytes_that_are_no_character_are_shown_as_such_in_logprobs_and_control_tokens_as_no_text(
    line: Line, template: Template
) -> None:
    byte = next(token for token in range(256) if template.token_bytes(token) == b"\xc3")
    (control,) = template.raw("<|im_end|>", 9, special_tokens=True).prompt.token_ids
    _, reply = run(
        line(ScriptedEngine(["a"] * (control + 1), max_model_len=9999)),
        operation="chat",
        messages=HI,
        logprobs=True,
        max_tokens=control + 1,
    )
    assert isinstance(reply, TextReply)
    assert reply.run.logprobs is not None
    assert (reply.run.logprobs[byte].token, reply.run.logprobs[control].token) == ("\ufffd", "")


def test_default_max_tokens_shrink_to_the_room_that_the_prompt_leaves(line: Line) -> None:
    engine = ScriptedEngine(max_model_len=50)
    run(line(engine), operation="chat", messages=HI)
    prompt, sampling, _ = engine.seen[0]
    assert len(prompt.token_ids) + sampling.max_tokens == 50


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": [{"role": "user", "content": "word " * 200}]}, "messages"),
        ({"message": "word " * 200}, "message"),
        ({"operation": "generate", "prompt": "word " * 200}, "prompt"),
        ({"operation": "enhance", "prompt": "word " * 200, "system_prompt": ""}, "prompt"),
        ({"messages": HI, "max_tokens": 99}, "messages"),
        ({"messages": HI, "max_tokens": 100}, "max_tokens"),
    ],
)
def test_what_does_not_fit_the_context_is_refused_with_its_field_before_the_engine_sees_it(
    line: Line, fields: dict[str, Any], field: str
) -> None:
    engine = ScriptedEngine(max_model_len=100)
    with pytest.raises(ContextLengthExceeded) as caught:
        run(line(engine), **{"operation": "chat", **fields})
    assert (caught.value.field, engine.seen) == (field, [])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"message": "a" * 4_000_001}, "message"),
        ({"messages": [{"role": "system", "content": "a" * 4_000_000}, *HI]}, "messages"),
        ({"operation": "generate", "prompt": "a" * 4_000_001}, "prompt"),
        ({"operation": "enhance", "messages": [{"role": "user", "content": "a" * 4_000_001}]}, "messages"),
    ],
)
def test_a_text_that_is_too_long_to_encode_is_refused_with_its_field(
    line: Line, fields: dict[str, Any], field: str
) -> None:
    engine = ScriptedEngine(max_model_len=10**9)
    with pytest.raises(InvalidRequest, match="too long to encode") as caught:
        run(line(engine), **{"operation": "chat", **fields})
    assert (caught.value.field, engine.seen) == (field, [])


def test_a_prompt_that_fits_but_for_max_tokens_is_refused_with_all_the_numbers(line: Line) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"has 9 tokens, and .* 8: max_tokens takes 92 of .* 100"):
        run(line(ScriptedEngine(max_model_len=100)), operation="chat", messages=HI, max_tokens=92)


def test_a_prompt_that_leaves_one_token_for_the_answer_runs(line: Line) -> None:
    _, reply = run(line(ScriptedEngine(max_model_len=10)), operation="chat", messages=HI)
    assert isinstance(reply, ChatReply)
    assert (reply.run.usage.prompt_tokens, reply.run.usage.completion_tokens, reply.run.finish_reason) == (
        9,
        1,
        "length",
    )


def test_dry_run_tells_what_the_model_would_read_and_runs_nothing(
    line: Line, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = ScriptedEngine()
    operations = line(engine)
    _, reply = run(operations, operation="chat", messages=HI, dry_run=True, seed=5)
    assert isinstance(reply, DryRunReply)
    assert reply.rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(list(reply.token_ids)) == reply.rendered
    assert reply.sampling is not None
    assert (reply.usage.prompt_tokens, reply.sampling.seed, engine.seen) == (len(reply.token_ids), 5, [])


def test_the_prompts_hash_is_that_of_the_ids_that_the_engine_was_given(line: Line) -> None:
    engine = ScriptedEngine()
    operations = line(engine)
    _, reply = run(operations, operation="chat", messages=HI)
    _, dry = run(operations, operation="chat", messages=HI, dry_run=True)
    assert isinstance(reply, ChatReply)
    assert isinstance(dry, DryRunReply)
    told = hashlib.sha256(",".join(map(str, engine.seen[0][0].token_ids)).encode()).hexdigest()
    assert reply.run.prompt_sha256 == dry.prompt_sha256 == told


def test_the_models_own_system_prompt_is_used_and_shown_only_where_the_operator_set_it(line: Line, read: Read) -> None:
    engine = ScriptedEngine()
    operations = changed(line(engine), default_system="Be brief.")
    _, reply = run(operations, operation="chat", message="hi")
    assert isinstance(reply, ChatReply)
    assert reply.system_prompt_used == "Be brief."
    assert read(engine).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi")
    _, reply = run(operations, operation="chat", message="hi", system_prompt="")
    assert isinstance(reply, ChatReply)
    assert reply.system_prompt_used == ""
    run(operations, operation="generate", prompt="hi")
    assert read(engine) == "hi"
    run(operations, operation="enhance", messages=HI, target={"encoder": "clip", "max_tokens": 75})
    assert read(engine).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi")


def test_continue_final_message_leaves_the_assistants_turn_open(line: Line, read: Read) -> None:
    engine = ScriptedEngine()
    turns = [*HI, {"role": "assistant", "content": "Well,"}]
    run(line(engine), operation="chat", messages=turns, continue_final_message=True)
    assert read(engine).endswith("<|im_start|>assistant\nWell,")


def test_special_tokens_in_a_raw_prompt_are_text_unless_asked_for(line: Line, template: Template) -> None:
    engine = ScriptedEngine()
    operations = line(engine)
    end = template.raw("<|im_end|>", 100, special_tokens=True).prompt.token_ids
    run(operations, operation="generate", prompt="a<|im_end|>")
    run(operations, operation="generate", prompt="a<|im_end|>", special_tokens=True)
    text, control = (prompt.token_ids for prompt, _, _ in engine.seen)
    assert len(end) == 1
    assert end[0] not in text
    assert control[-1] == end[0]


def test_roles_that_the_models_template_refuses_are_the_messages_fault(line: Line) -> None:
    plain = read_tokenizer(DEMO, "demo")
    strict = "{% if messages[-1].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + str(plain.chat_template)
    operations = changed(line(ScriptedEngine()), template=Template(replace(plain, chat_template=strict)))
    with pytest.raises(InvalidRequest, match="refuses these roles") as caught:
        run(operations, operation="chat", messages=[*HI, {"role": "system", "content": "s"}])
    assert caught.value.field == "messages"


def test_thinking_is_refused_where_the_template_knows_none(line: Line) -> None:
    with pytest.raises(Unsupported, match="thinking"):
        run(line(ScriptedEngine()), operation="chat", messages=HI, enable_thinking=True)


def test_reasoning_comes_apart_from_the_answer(line: Line, read: Read) -> None:
    plain = read_tokenizer(DEMO, "demo")
    told = str(plain.chat_template).replace(
        "'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n' + ('' if enable_thinking else '<think></think>')"
    )
    thinker = replace(plain, chat_template=told)
    engine = ScriptedEngine(["<thi", "nk>", "\nhm", "</think>", "\n\nyes"])
    operations = changed(line(engine), template=Template(thinker))
    text, reply = run(operations, operation="chat", messages=HI, enable_thinking=True)
    assert isinstance(reply, ChatReply)
    assert (reply.run.reasoning, reply.response, "".join(text)) == ("hm", "yes", "yes")
    assert read(engine).endswith("assistant\n")
    _, reply = run(operations, operation="chat", messages=HI)
    assert isinstance(reply, ChatReply)
    assert reply.run.reasoning is None
    assert read(engine).endswith("assistant\n<think></think>")


def test_a_raw_prompts_dry_run_has_no_messages(line: Line) -> None:
    _, reply = run(line(ScriptedEngine()), operation="generate", prompt="Once", dry_run=True)
    assert isinstance(reply, DryRunReply)
    assert (reply.messages, reply.rendered) == (None, "Once")


def test_a_deadline_returns_what_there_is(line: Line) -> None:
    engine = ScriptedEngine(["word "] * 100, step_s=0.01)
    _, reply = run(line(engine), operation="chat", messages=HI, deadline_ms=300)
    assert isinstance(reply, ChatReply)
    assert reply.run.finish_reason == "deadline"
    assert reply.response == "word " * reply.run.usage.completion_tokens


def test_a_deadline_before_the_first_token_is_an_error(line: Line) -> None:
    with pytest.raises(DeadlineExceeded):
        run(line(ScriptedEngine(step_s=0.2)), operation="chat", messages=HI, deadline_ms=50)


@pytest.mark.parametrize("target", [{}, {"target": {"encoder": "clip", "max_tokens": 75}}], ids=["as sent", "fitted"])
def test_the_deadline_and_the_time_in_the_worker_count_from_the_beginning(line: Line, target: dict[str, Any]) -> None:
    engine, clock = ScriptedEngine(), iter([1e6, 1e6 + 0.25])
    operations = changed(line(engine), clock=lambda: next(clock))
    _, reply = run(operations, operation="enhance", messages=HI, deadline_ms=1500, **target)
    assert isinstance(reply, EnhanceReply)
    assert (engine.seen[0][2], reply.run.processing_time) == (1e6 + 1.5, 0.25)


def test_the_engine_tells_likelihoods_only_where_they_are_asked_for(line: Line) -> None:
    asked: list[int | None] = []

    class Asked(ScriptedEngine):
        def stream(self, *args: Any, logprobs: int | None = None, **kwargs: Any) -> Stream:
            asked.append(logprobs)
            return super().stream(*args, logprobs=logprobs, **kwargs)

    for wish in ({}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 2}):
        run(line(Asked()), operation="chat", messages=HI, **wish)
    assert asked == [None, 0, 2]


class Timed(ScriptedEngine):
    """An engine whose times are known."""

    def stream(self, *args: object, **kwargs: object) -> Stream:
        stream = Stream(lambda: None)
        stream.put(Delta("x", (1,)))
        stream.put(Finish("stop", Usage(3, 1, 10), Timing(queue_s=0.5, ttft_s=0.75, total_s=1.3)))
        return stream


def test_times_are_told_in_milliseconds_and_speed_without_the_queue(line: Line) -> None:
    _, reply = run(line(Timed()), operation="enhance", messages=HI)
    assert isinstance(reply, EnhanceReply)
    assert reply.run.timing == texts.Timing(queue_ms=500, ttft_ms=750, total_ms=1300, tokens_per_second=12.5)
    assert reply.run.usage == texts.Usage(prompt_tokens=3, completion_tokens=10, total_tokens=13, cached_tokens=1)
    assert reply.run.generation_time == 1.3


def test_a_seed_that_was_drawn_survives_javascript_and_a_turns_time_is_of_utc() -> None:
    assert all(0 <= draw_seed() < 2**53 for _ in range(50))
    assert datetime.fromisoformat(utc_now()).utcoffset() == timedelta(0)


def test_an_engines_error_reaches_the_caller_as_it_is(line: Line) -> None:
    with pytest.raises(OutOfMemory, match="full"):
        run(line(ScriptedEngine(["a", OutOfMemory("full")])), operation="chat", messages=HI)


def test_closing_the_iterator_cancels_the_request(line: Line) -> None:
    engine = ScriptedEngine(["word "] * 1000, step_s=0.001)

    async def leave_early() -> None:
        events = line(engine).run(parse({"operation": "chat", "messages": HI}))
        assert isinstance(await anext(events), Piece)
        await events.aclose()
        await asyncio.sleep(0.05)

    asyncio.run(leave_early())
    assert (engine.cancelled, engine.running) == (1, 0)


def test_rendering_and_encoding_leave_the_event_loops_thread(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = line(ScriptedEngine(max_model_len=1_000_000))
    threads: list[threading.Thread] = []
    encode = operations.core.template._encode

    def spy(texts: list[str]) -> list[list[int]]:
        threads.append(threading.current_thread())
        return encode(texts)

    monkeypatch.setattr(operations.core.template, "_encode", spy)
    long = [{"role": "user", "content": "many words " * 20_000}]
    _, reply = run(operations, operation="chat", messages=long)
    assert isinstance(reply, ChatReply)
    assert reply.run.usage.prompt_tokens > 20_000
    assert threads
    assert threading.main_thread() not in threads


def test_info_has_every_section_or_those_asked_for_without_the_engine(line: Line) -> None:
    engine = ScriptedEngine()
    operations = line(engine)
    _, whole = run(operations, operation="info")
    _, part = run(operations, operation="info", sections=["model", "memory"])
    assert isinstance(part, InfoReply)
    assert to_wire(whole).keys() == {"success", *SECTIONS}
    assert to_wire(part).keys() == {"success", "model", "memory"}
    assert part.model is not None
    assert part.model.model_name == "scripted"
    assert part.memory is not None
    assert part.memory.host_used is not None
    assert part.memory.host_used > 1e-3
    assert engine.seen == []
