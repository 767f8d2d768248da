"""Requests: what is allowed comes in unchanged, everything else is refused with the path of its field."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from handler.api.chat import ChatEcho, ChatRequest, Turn
from handler.api.enhance import MAX_PROMPT, EnhanceEcho, EnhanceRequest, Target
from handler.api.failure import Failure
from handler.api.fields import Echo, Part, Sent
from handler.api.generate import GenerateRequest
from handler.api.info import SECTIONS, InfoRequest
from handler.api.parse import parse
from handler.api.requests import REQUESTS
from handler.api.text import Message
from handler.engine.values import Value
from handler.errors import InvalidRequest

HI = [{"role": "user", "content": "hi"}]
CHAT: dict[str, Any] = {"operation": "chat", "messages": HI}
ENHANCE: dict[str, Any] = {"operation": "enhance", "prompt": "a fox", "job_type": "sdxl_image_fast"}
TURN = {"sender": "user", "content": "a"}
#: every form of every operation
FORMS: list[dict[str, Any]] = [
    CHAT,
    {"operation": "chat", "message": "hi", "system_prompt": "", "conversation_history": [TURN]},
    {"operation": "generate", "messages": HI},
    {"operation": "generate", "prompt": "Once"},
    {"operation": "enhance", "messages": HI},
    {"operation": "enhance", "prompt": "a fox", "system_prompt": "x"},
    {"operation": "enhance", "prompt": "a fox", "system_prompt": "x", "job_type": "sdxl_image_fast"},
    ENHANCE,
    {"operation": "info", "sections": ["model"]},
]


def refusal(payload: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(payload)
    return caught.value


def test_every_form_of_every_operation_is_let_in() -> None:
    chat, generate, enhance = ChatRequest, GenerateRequest, EnhanceRequest
    assert [type(parse(form)) for form in FORMS] == [
        *(chat, chat, generate, generate),
        *(enhance, enhance, enhance, enhance, InfoRequest),
    ]


PARTS = [{"type": "text", "text": "one "}, {"type": "text", "text": ""}, {"type": "text", "text": "two"}]


@pytest.mark.parametrize("operation", ["chat", "generate", "enhance"])
def test_text_parts_are_joined_with_nothing_between_them(operation: str) -> None:
    request = parse({"operation": operation, "messages": [{"role": "user", "content": PARTS}]})
    assert not isinstance(request, InfoRequest)
    assert request.messages == (Message(role="user", content="one two"),)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ([], "must have 1 to 1000 parts"),
        (PARTS * 334, "must have 1 to 1000 parts"),
        (["text"], "part 0 is no text part"),
        ([*PARTS, {"text": "x"}], "part 3 is no text part"),
        ([{"type": "image_url", "image_url": {}}], "part 0 is no text part; the model reads text alone"),
        ([{"type": "text"}], "part 0 must have a type and a text, and nothing else"),
        ([{"type": "text", "text": 5}], "part 0 must have a type and a text"),
        ([{"type": "text", "text": "x", "cache_control": {}}], "part 0 must have a type and a text, and nothing else"),
        ([{"type": "text", "text": "\ud800"}], "lone surrogate"),
    ],
)
def test_other_parts_are_refused_with_their_number(content: list[Any], cause: str) -> None:
    error = refusal({**CHAT, "messages": [{"role": "user", "content": content}]})
    assert error.field == "messages.0.content"
    assert cause in error.message


def test_an_assistants_last_message_is_let_in_to_be_continued() -> None:
    turns = [*HI, {"role": "assistant", "content": "Well,"}]
    assert isinstance(parse({**CHAT, "messages": turns, "continue_final_message": True}), ChatRequest)


def test_what_was_not_sent_has_its_default_and_null_counts_as_not_sent() -> None:
    request = parse({**CHAT, "temperature": None, "stream": None, "dry_run": None, "max_tokens": None})
    assert isinstance(request, ChatRequest)
    assert (request.stream, request.dry_run) == (False, False)
    assert (request.temperature, request.seed, request.max_tokens, request.stop) == (0.7, None, 512, ())
    assert (request.model_fields_set, request.sent_max_tokens) == ({"operation", "messages"}, None)


@pytest.mark.parametrize("form", FORMS)
def test_every_field_that_need_not_be_sent_may_be_null(form: dict[str, Any]) -> None:
    plain = parse(form)
    nulls = parse({**dict.fromkeys(type(plain).model_fields), **form})
    passed_back = {"conversation_id", "context_type", "project_id", "enhancement_type", "context"}
    assert dict(nulls) == dict(plain)
    assert nulls.model_fields_set - passed_back == plain.model_fields_set


def test_numbers_keep_their_kind_an_integer_may_stand_for_a_float() -> None:
    request = parse({**CHAT, "temperature": 1, "top_k": 5, "seed": 2**64 - 1})
    assert isinstance(request, ChatRequest)
    assert (request.temperature, request.top_k, request.seed) == (1.0, 5, 2**64 - 1)


@pytest.mark.parametrize(("sent", "kept"), [("END", ("END",)), (["a", "b"], ("a", "b")), ([], ())])
def test_stop_is_a_string_or_a_list(sent: object, kept: tuple[str, ...]) -> None:
    request = parse({**CHAT, "stop": sent})
    assert isinstance(request, ChatRequest)
    assert request.stop == kept


OUT_OF_RANGE: list[tuple[str, list[object]]] = [
    ("max_tokens", [0, -1, 10**7, 1.5, "5", True, []]),
    ("temperature", [-0.1, 2.1, "0.7", float("nan"), float("inf"), {}]),
    ("top_p", [0, -1, 1.01, "1", float("nan")]),
    ("top_k", [-1, 10**7, 2.5, "5", False]),
    ("min_p", [-0.1, 1.1, "0"]),
    ("repetition_penalty", [0, -1, 11, "1"]),
    ("presence_penalty", [-2.1, 2.1, "0"]),
    ("frequency_penalty", [-2.1, 2.1, "0"]),
    ("seed", [-1, 2**64, 10**30, 1.5, "7"]),
    ("stop", ["", [""], [1], 5, ["x"] * 17, "x" * 201, {}]),
    ("logprobs", ["true", 1, 5]),
    ("top_logprobs", [-1, 21, 1.5, "3", True, 0, 3]),  # in bounds it goes with `logprobs` alone
    ("stream", ["true", 1, "x"]),
    ("deadline_ms", [0, -5, 1.5, 10**12, "1000"]),
    ("dry_run", ["yes", 1]),
    ("enable_thinking", ["yes", 1]),
    ("stop_token_ids", [5, "5", ["5"], [-1], [1.5], [True], [2**31], [7] * 65, {}]),
    (
        "logit_bias",
        [
            5,
            [1],
            "x",
            {"5": 101},
            {"5": -100.5},
            {"5": "1"},
            {"5": True},
            {"5": None},
            {"5": float("nan")},
            {"": 1},
            {"-5": 1},
            {"05": 1},
            {" 5": 1},
            {"5.0": 1},
            {"fox": 1},
            {"9" * 11: 1},
            {str(token): 1 for token in range(301)},
        ],
    ),
    ("n", [0, -1, 9, 1.5, "2", True, []]),
    ("max_thinking_tokens", [0, -1, 10**7, 1.5, "5", True, []]),
    ("continue_final_message", ["yes", True]),
    ("sampling_defaults", ["mine", 1]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in OUT_OF_RANGE for value in values])
@pytest.mark.parametrize("operation", ["chat", "generate", "enhance"])
def test_a_shared_field_out_of_bounds_or_of_the_wrong_type_is_refused_by_name(
    operation: str, name: str, value: object
) -> None:
    error = refusal({"operation": operation, "messages": HI, name: value})
    assert error.field is not None
    assert error.field.split(".")[0] == name


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (None, "input"),
        ([], "input"),
        ("hi", "input"),
        ({}, "operation"),
        ({"operation": "sing"}, "operation"),
        ({"operation": 5}, "operation"),
        ({"operation": "chat"}, "messages"),
        ({"operation": "generate"}, "messages"),
        ({"operation": "enhance"}, "messages"),
        ({**CHAT, "max_token": 5}, "max_token"),
        ({**CHAT, "message": "hi"}, "message"),
        ({**CHAT, "system_prompt": "x"}, "system_prompt"),
        ({**CHAT, "conversation_history": []}, "conversation_history"),
        ({"operation": "chat", "messages": []}, "messages"),
        ({"operation": "chat", "messages": "hi"}, "messages"),
        ({"operation": "chat", "messages": ["hi"]}, "messages.0"),
        ({"operation": "chat", "messages": [{"role": "user"}]}, "messages.0.content"),
        ({"operation": "chat", "messages": [{"content": "hi"}]}, "messages.0.role"),
        ({"operation": "chat", "messages": [{"role": "developer", "content": "hi"}]}, "messages.0.role"),
        ({"operation": "chat", "messages": [{"role": "user", "content": ["hi"]}]}, "messages.0.content"),
        ({"operation": "chat", "messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"operation": "chat", "messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content"),
        ({"operation": "chat", "messages": [*HI, {"role": "user", "content": "a", "name": "b"}]}, "messages.1.name"),
        ({"operation": "chat", "messages": [*HI, {"role": "assistant", "content": "a"}]}, "messages.1.role"),
        ({"operation": "chat", "message": " \n"}, "message"),
        ({"operation": "chat", "message": 5}, "message"),
        ({"operation": "chat", "message": "hi", "system_prompt": 5}, "system_prompt"),
        ({"operation": "chat", "message": "hi", "conversation_history": [{}]}, "conversation_history.0.sender"),
        (
            {"operation": "chat", "message": "hi", "conversation_history": [{**TURN, "sender": "bot"}]},
            "conversation_history.0.sender",
        ),
        (
            {"operation": "chat", "message": "hi", "conversation_history": [{**TURN, "created_at": 5}]},
            "conversation_history.0.created_at",
        ),
        ({"operation": "generate", "messages": HI, "prompt": "x"}, "prompt"),
        ({"operation": "generate", "prompt": ""}, "prompt"),
        ({"operation": "generate", "prompt": "x", "continue_final_message": True}, "continue_final_message"),
        ({"operation": "generate", "prompt": "x", "enable_thinking": True}, "enable_thinking"),
        ({"operation": "generate", "prompt": "x", "enable_thinking": False}, "enable_thinking"),
        ({"operation": "generate", "messages": HI, "special_tokens": True}, "special_tokens"),
        ({**CHAT, "special_tokens": True}, "special_tokens"),
        ({**CHAT, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({**CHAT, "logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"operation": "generate", "prompt": "x", "conversation_id": "c"}, "conversation_id"),
        ({"operation": "enhance", "messages": HI, "prompt": "x"}, "prompt"),
        ({"operation": "enhance", "messages": HI, "system_prompt": "x"}, "system_prompt"),
        ({"operation": "enhance", "messages": HI, "job_type": "x"}, "job_type"),
        ({"operation": "enhance", "prompt": "  "}, "prompt"),
        ({"operation": "enhance", "prompt": "x"}, "system_prompt"),
        ({"operation": "enhance", "prompt": "x", "system_prompt": "y", "quality": "fast"}, "quality"),
        ({"operation": "enhance", "prompt": "x", "system_prompt": "y", "pack": {}}, "pack"),
        ({"operation": "enhance", "prompt": "x", "original_prompt": "x", "job_type": "z"}, "original_prompt"),
        ({"operation": "enhance", "original_prompt": " ", "job_type": "z"}, "prompt"),
        ({"operation": "enhance", "messages": HI, "target_model": "x"}, "target_model"),
        ({"operation": "enhance", "prompt": "x", "job_type": "z", "quality": "best"}, "quality"),
        ({"operation": "enhance", "prompt": "x", "system_prompt": "y", "context": []}, "context"),
        ({**ENHANCE, "prompt": "x" * 200_000}, "prompt"),
        ({**ENHANCE, "sampling_defaults": "model"}, "sampling_defaults"),
        ({**ENHANCE, "target": {"encoder": "clip", "max_tokens": 0}}, "target.max_tokens"),
        ({**ENHANCE, "target": {"encoder": "bert", "max_tokens": 75}}, "target.encoder"),
        ({**ENHANCE, "target": {"encoder": "clip"}}, "target.max_tokens"),
        ({**ENHANCE, "mode": "shout"}, "mode"),
        ({**ENHANCE, "language": "tlh"}, "language"),
        ({**ENHANCE, "protect": [" "]}, "protect.0"),
        ({**ENHANCE, "protect": ["x"] * 51}, "protect"),
        ({**ENHANCE, "n": 0}, "n"),
        ({**ENHANCE, "n": 9}, "n"),
        ({**ENHANCE, "cache": "maybe"}, "cache"),
        ({**ENHANCE, "fallback": "silent"}, "fallback"),
        ({**ENHANCE, "negative_prompt": "x" * 20_001}, "negative_prompt"),
        ({**ENHANCE, "pack": {"x": "y" * 300_000}}, "pack"),
        ({"operation": "enhance", "messages": HI, "pack": {}}, "pack"),
        ({**CHAT, "conversation_id": "\udfff"}, "conversation_id"),
        ({**CHAT, "project_id": "x" * 70_000}, "project_id"),
        ({**CHAT, "stop": ["a", "\ud800"]}, "stop.1"),
        ({"operation": "info", "sections": []}, "sections"),
        ({"operation": "info", "sections": ["secrets"]}, "sections.0"),
        ({"operation": "info", "stream": True}, "stream"),
    ],
)
def test_what_is_missing_unknown_or_contradictory_is_refused_by_its_path(payload: object, field: str) -> None:
    error = refusal(payload)
    assert error.field == field
    assert field.strip(".0123456789").rpartition(".")[2] in error.message


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"messages": "hi"}, "messages: should be a list"),
        ({"messages": ["hi"]}, "messages.0: should be an object"),
        ({"messages": []}, "messages: should have at least 1 item"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: is missing"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages.0.role: should be 'system', 'user' or 'assistant'",
        ),
        ({"messages": HI, "stop": 5}, "stop: should be a string or a list of strings"),
        ({"messages": HI, "stop": ["x"] * 17}, "stop: should have at most 16 items"),
        ({"messages": HI, "stop": ""}, "stop.0: should have at least 1 character"),
        ({"messages": HI, "stop": "x" * 201}, "stop.0: should have at most 200 characters"),
        ({"messages": HI, "seed": "7"}, "seed: should be a valid integer"),
        ({"messages": HI, "target": []}, "target: should be an object"),
        ({"messages": HI, "context": []}, "context: should be an object"),
    ],
)
def test_a_refusal_speaks_of_json_and_not_of_python(fields: dict[str, Any], told: str) -> None:
    assert refusal({"operation": "enhance", **fields}).message == told


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"temprature": 0.5}, "temprature: unknown field; did you mean temperature?"),
        ({"max_token": 5}, "max_token: unknown field; did you mean max_tokens?"),
        ({"max_completion_tokens": 5}, "max_completion_tokens: unknown field"),
        ({"prompt": "x"}, "prompt: unknown field; did you mean message?"),  # of generate, not of chat
    ],
)
def test_a_name_that_is_nearly_a_field_of_the_operation_is_told_which(fields: dict[str, Any], told: str) -> None:
    assert refusal({**CHAT, **fields}).message == told


def test_a_call_of_openais_api_is_refused_by_what_the_platform_made_of_it() -> None:
    error = refusal({"openai_route": "/v1/chat/completions", "openai_input": {"messages": HI}})
    assert (error.field, "send an operation" in error.message) == ("openai_route", True)


def test_more_logprobs_than_a_reply_can_carry_are_refused_before_they_are_made() -> None:
    wish = {**CHAT, "logprobs": True, "top_logprobs": 4}
    assert parse({**wish, "max_tokens": 16_000})
    error = refusal({**wish, "max_tokens": 16_001})
    assert (error.field, "of 16000 tokens" in error.message) == ("logprobs", True)
    wish = {**CHAT, "logprobs": True, "top_logprobs": 20, "n": 8}  # the first of 8 stands at the top, too
    assert parse({**wish, "max_tokens": 80_000 // (21 * 9)})
    error = refusal({**wish, "max_tokens": 80_000 // (21 * 9) + 1})
    assert (error.field, "of 423 tokens" in error.message) == ("logprobs", True)
    assert refusal({**CHAT, "logprobs": True, "max_tokens": 80_001}).field == "logprobs"
    assert parse({**CHAT, "max_tokens": 80_001})


def test_a_refusal_never_quotes_what_was_sent() -> None:
    error = refusal({"operation": "chat", "messages": [{"role": "the secret", "content": "the secret"}]})
    assert "secret" not in json.dumps(Failure.of(error).to_wire())


def test_passed_back_fields_take_any_json() -> None:
    request = parse({**CHAT, "conversation_id": {"a": [1, None]}, "project_id": 5})
    assert isinstance(request, ChatRequest)
    assert (request.conversation_id, request.project_id) == ({"a": [1, None]}, 5)


def test_nesting_without_end_is_refused_and_does_not_crash() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for fields in ({"conversation_id": deep}, {"messages": [deep]}, {"seed": deep}, {"?": deep}):
        assert len(refusal({**CHAT, **fields}).field or "") <= 200


def test_a_refusal_names_the_first_field_at_fault_in_short() -> None:
    error = refusal({**CHAT, "x" * 1_000: 1, "": 2})
    assert (error.field, error.message) == ("x" * 100, "x" * 100 + ": unknown field")
    assert refusal({**CHAT, "": 2}).message == "input: unknown field"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
FIELDS = st.sampled_from(sorted({*ChatRequest.model_fields, *EnhanceRequest.model_fields, *InfoRequest.model_fields}))


@given(st.sampled_from(["chat", "generate", "enhance", "info", ""]), st.dictionaries(FIELDS, JSON, max_size=5))
def test_any_json_is_either_parsed_or_refused_with_a_field(operation: str, fields: dict[str, Any]) -> None:
    try:
        parse({**fields, "operation": operation})
    except InvalidRequest as error:
        refused = error
    else:
        return
    assert refused.field


def test_a_field_name_without_end_is_cut_in_the_refusal() -> None:
    assert len(json.dumps(Failure.of(refusal({**CHAT, "x" * 10**6: 1})).to_wire())) < 1000


@pytest.mark.parametrize("items", [[1], [{"role": "user", "content": "hi"}], [{"role": "nobody", "content": "hi"}]])
def test_a_million_turns_are_refused_by_their_first_fault_alone(items: list[Any]) -> None:
    error = refusal({**CHAT, "messages": items * 1_000_000})
    assert error.field is not None
    assert error.field.split(".")[0] == "messages"
    assert not re.search(r"and \d{3,} more", error.message)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": [{"role": "user", "content": "a", **{str(index): 1 for index in range(101)}}]}, "messages.0"),
        ({"message": "a", "conversation_history": [dict.fromkeys(map(str, range(101)))]}, "conversation_history.0"),
        ({**ENHANCE, "target": dict.fromkeys(map(str, range(101)))}, "target"),
    ],
)
def test_an_object_with_more_fields_than_any_has_costs_one_error(fields: dict[str, Any], field: str) -> None:
    error = refusal({"operation": "chat", **fields})
    assert error.field == field
    assert re.search(r"has \d+ fields; no object has more than 100$", error.message)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sections", ["x"] * 2_400_000),
        ("protect", [1] * 1_000_000),
        ("context", {"a": [[]] * 3_000_000}),
        ("context", dict.fromkeys(map(str, range(800_000)))),
        ("messages", [{"role": "user", "content": "a", **dict.fromkeys(map(str, range(500_000)))}]),
        ("stop", [["a"] * 60_000] * 2),
    ],
)
def test_more_values_than_a_request_may_have_are_refused_by_the_field_that_holds_them(field: str, value: Any) -> None:
    error = refusal({"operation": "info", field: value, "seed": 1})
    assert error.field == field
    assert error.message == f"{field}: with it the input has more than 100000 values; send fewer"


def test_the_values_of_all_fields_count_together() -> None:
    half = [1] * 60_000
    assert "100000 values" in refusal({**CHAT, "conversation_id": half, "project_id": half}).message
    assert isinstance(parse({**CHAT, "conversation_id": [1] * 20_000, "project_id": [1] * 20_000}), ChatRequest)


def test_a_field_has_at_most_64_levels() -> None:
    deepest: Any = 1
    for _ in range(64):
        deepest = [deepest]
    assert isinstance(parse({**CHAT, "conversation_id": deepest}), ChatRequest)
    error = refusal({**CHAT, "conversation_id": [deepest]})
    assert error.field == "conversation_id"
    assert error.message == "conversation_id: has more than 64 levels of lists and objects; send a flatter value"


def test_the_longest_conversation_that_is_taken_is_within_every_bound() -> None:
    turns = [{"sender": "user", "content": "a", "created_at": "then"}] * 10_000
    assert isinstance(parse({"operation": "chat", "message": "a", "conversation_history": turns}), ChatRequest)


def test_every_list_of_a_request_is_bounded_and_ends_at_its_first_fault() -> None:
    kinds: tuple[type[Value], ...] = (*REQUESTS.values(), Message, Turn, Target)
    for kind in kinds:
        for name, schema in kind.model_json_schema().get("properties", {}).items():
            for form in (schema, *schema.get("anyOf", ())):
                assert form.get("type") != "array" or "maxItems" in form, f"{kind.__name__}.{name}"
    for field in ("sections", "protect", "stop", "messages", "conversation_history"):
        owner = next(kind for kind in REQUESTS.values() if field in kind.model_fields)
        with pytest.raises(ValidationError) as caught:
            owner.model_validate({"operation": owner.__name__.removesuffix("Request").lower(), field: [1, 1]})
        assert [error["loc"] for error in caught.value.errors() if error["loc"][1:]] == [(field, 0)]


def test_each_section_is_asked_for_once() -> None:
    assert isinstance(parse({"operation": "info", "sections": list(SECTIONS)}), InfoRequest)
    for sections in (["memory", "memory"], ["memory"] * 20_000):
        assert refusal({"operation": "info", "sections": sections}).field == "sections"


LONG = "a" * (MAX_PROMPT + 1)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": LONG, "system_prompt": "x"}, "prompt"),
        ({"original_prompt": LONG, "job_type": "sdxl_image_fast"}, "prompt"),
        *[
            ({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": LONG}], **check},
             "messages.1.content")
            for check in (
                {"protect": ["a"]},
                {"target": {"encoder": "clip", "max_tokens": 75}},
                {"mode": "extend"},
                {"language": "en"},
                {"cache": "use"},
                {"fallback": "original"},
                {"n": 2},
            )
        ],
    ],
)  # fmt: skip
def test_what_is_searched_fitted_or_judged_is_bounded_in_every_form(fields: dict[str, Any], field: str) -> None:
    error = refusal({"operation": "enhance", **fields})
    assert error.field == field
    assert "20000" in error.message


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": LONG}],
        [{"role": "system", "content": LONG}, {"role": "user", "content": "a fox"}],
        [{"role": "user", "content": LONG}, {"role": "user", "content": "a fox"}],
    ],
)
def test_messages_that_only_the_model_reads_may_be_longer(messages: list[dict[str, str]]) -> None:
    check = {} if messages[-1]["content"] == LONG else {"protect": ["fox"]}
    assert isinstance(parse({"operation": "enhance", "messages": messages, **check}), EnhanceRequest)


def test_a_million_fields_are_refused_as_one() -> None:
    assert refusal({**CHAT, **{str(index): 1 for index in range(1_000_000)}}).field == "input"


@pytest.mark.parametrize(("kind", "form"), [(ChatEcho, CHAT), (EnhanceEcho, {**ENHANCE, "system_prompt": "x"})])
def test_null_comes_back_in_every_field_that_is_passed_back(kind: type[Echo], form: dict[str, Any]) -> None:
    nulls = dict.fromkeys(kind.model_fields)
    request = parse({**form, **nulls})
    assert isinstance(request, kind)
    assert kind.of(request).model_dump() == nulls
    assert kind.of(parse(form)).model_dump() == {}


def test_original_prompt_is_another_name_of_prompt() -> None:
    request = parse({"operation": "enhance", "original_prompt": "a fox", "job_type": "z", "prompt": None})
    assert isinstance(request, EnhanceRequest)
    assert (request.prompt, request.original_prompt) == ("a fox", "a fox")
    assert parse({**ENHANCE, "original_prompt": None}) == parse(ENHANCE)


def test_a_pack_of_the_request_is_looked_at_whoever_brings_the_messages() -> None:
    request = parse({**ENHANCE, "system_prompt": "x", "pack": {"a": 1}, "quality": "fast", "target_model": "sdxl"})
    assert isinstance(request, EnhanceRequest)
    assert (request.brings_messages, request.names_entry, request.cache_use(0), request.falls_back) == (
        True, True, "off", False,
    )  # fmt: skip
    packs = parse(ENHANCE)
    assert isinstance(packs, EnhanceRequest)
    assert (packs.brings_messages, packs.falls_back) == (False, True)
    assert [packs.cache_use(temperature) for temperature in (0, 0.7)] == ["use", "off"]


@pytest.mark.parametrize("kind", REQUESTS.values())
def test_every_request_is_sent_so_that_null_counts_as_not_sent(kind: type[Value]) -> None:
    assert issubclass(kind, Sent)


@pytest.mark.parametrize("name", ["chat", "enhance"])
def test_the_schema_lets_null_stand_for_every_field_that_need_not_be_sent(name: str) -> None:
    schema = REQUESTS[name].model_json_schema()
    for field, facts in schema["properties"].items():
        if field not in schema["required"]:
            assert {"type": "null"} in facts.get("anyOf", ()) or facts.get("$ref", "").endswith("JsonValue"), field


class Whole(Part):
    """A part of a reply with a field of each kind."""

    always: int
    null_without_a_gpu: int | None
    where_asked: str | None = None


def test_a_field_of_a_reply_is_absent_without_a_value_and_null_where_null_is_the_value() -> None:
    assert Whole(always=1, null_without_a_gpu=None).model_dump() == {"always": 1, "null_without_a_gpu": None}
    assert Whole(always=1, null_without_a_gpu=2, where_asked="").model_dump() == {
        "always": 1, "null_without_a_gpu": 2, "where_asked": "",
    }  # fmt: skip


def test_a_turn_comes_back_with_the_fields_that_were_sent() -> None:
    turns = [TURN, {**TURN, "created_at": "then"}, {**TURN, "created_at": None}]
    request = parse({"operation": "chat", "message": "hi", "conversation_history": turns})
    assert isinstance(request, ChatRequest)
    assert [turn.model_dump() for turn in request.conversation_history] == turns
