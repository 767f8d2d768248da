"""A body of OpenAI's API becomes one native request, by the table of fields."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.api.chat import ChatRequest
from handler.api.failure import Failure
from handler.api.info import InfoRequest
from handler.errors import InvalidRequest, Unsupported, WorkerError
from handler.openai import errors
from handler.openai.events import event
from handler.openai.fields import BOTH, RULES, Kind, Rule
from handler.openai.requests import MOST, Asked, in_their_names, read, wants_stream
from tests.support.openai_bodies import BESIDE, BODIES, HI, HONOURED, PATHS, SERVED

#: honoured fields of which the native request may know nothing yet
NEWER = {name for name in ("n", "logit_bias") if name not in ChatRequest.model_fields}
CASES = [(kind, rule) for rule in RULES for kind in rule.kinds]


def asked(kind: Kind = "chat", **fields: Any) -> Asked:
    return read(PATHS[kind], {**BODIES[kind], **fields}, SERVED)


def refused(kind: Kind = "chat", **fields: Any) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        asked(kind, **fields)
    return caught.value


def named(case: tuple[Kind, Rule]) -> str:
    return f"{case[0]}-{case[1].name}"


def of(*verdicts: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [case for case in CASES if case[1].verdict in verdicts], ids=named)


@of("honour")
def test_an_honoured_field_changes_the_request(case: tuple[Kind, Rule]) -> None:
    kind, rule = case
    if rule.name in NEWER:
        assert refused(kind, **{rule.name: HONOURED[rule.name]}).field == rule.name
        return
    beside = BESIDE.get(rule.name, {})
    plain = asked(kind, **beside) if rule.name != "continue_final_message" else asked(kind)
    told = asked(kind, **beside, **{rule.name: HONOURED[rule.name]})
    if rule.name == "model":
        assert told.request == plain.request
    elif rule.name == "prompt":
        assert told.request == plain.request  # a list of one is that one
    elif rule.name == "stream_options":
        assert (plain.include_usage, told.include_usage) == (False, True)
    else:
        assert told.request != plain.request
    assert told.ignored == ()


@of("note")
def test_a_noted_field_changes_nothing_and_is_listed(case: tuple[Kind, Rule]) -> None:
    kind, rule = case
    told = asked(kind, **{rule.name: "anything"})
    assert told.request == asked(kind).request
    assert told.ignored == (rule.name,)


@of("refuse")
def test_a_refused_field_is_named_and_the_message_says_what_to_do(case: tuple[Kind, Rule]) -> None:
    kind, rule = case
    error = refused(kind, **{rule.name: 5})
    assert isinstance(error, Unsupported)
    assert (error.field, error.message) == (rule.name, f"{rule.name}: {rule.words}")
    for value in rule.noted:
        told = asked(kind, **{rule.name: value})
        assert (told.ignored, told.request) == ((rule.name,), asked(kind).request)


@of("honour", "note", "refuse")
def test_neutral_values_count_as_not_sent(case: tuple[Kind, Rule]) -> None:
    kind, rule = case
    if rule.name in BODIES[kind]:
        return
    values = [None, *rule.neutral, *(() if rule.verdict == "honour" else (False, "", [], {}))]
    for value in values:
        told = asked(kind, **{rule.name: value})
        assert (told.request, told.ignored) == (asked(kind).request, ()), value


def test_the_rules_of_a_route_name_each_field_once() -> None:
    for kind in BOTH:
        names = [rule.name for rule in RULES if kind in rule.kinds]
        assert sorted(names) == sorted(set(names))


def test_true_is_no_one_and_zero_no_false() -> None:
    assert refused(min_tokens=True).field == "min_tokens"
    assert asked(min_tokens=0).ignored == ()
    assert refused(tools=0).field == "tools"


def test_an_unknown_field_is_refused_with_the_one_that_was_meant() -> None:
    error = refused(temprature=1)
    assert (error.field, error.message) == ("temprature", "temprature: unknown field; did you mean temperature?")
    assert refused("completions", messages=HI).field == "messages"
    with pytest.raises(InvalidRequest) as caught:
        read(PATHS["chat"], {**BODIES["chat"], "x" * 1000: 1}, SERVED)
    assert len(str(caught.value.field)) == 100


def test_what_is_not_sent_is_the_workers_default_and_the_rest_of_the_context() -> None:
    request = asked().request
    assert isinstance(request, ChatRequest)
    assert (request.max_tokens, request.sent_max_tokens) == (MOST, None)
    assert (request.temperature, request.top_p) == (0.7, 0.9)


def test_both_names_of_max_tokens_may_be_sent_where_they_agree() -> None:
    request = asked(max_tokens=7, max_completion_tokens=7).request
    assert isinstance(request, ChatRequest)
    assert request.sent_max_tokens == 7
    assert "send one of them" in refused(max_tokens=7, max_completion_tokens=8).message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": "x"}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"reasoning_effort": 3}, "reasoning_effort"),
        ({"chat_template_kwargs": {"enable_thinking": 3}}, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": {"other": 3}}, "chat_template_kwargs.other"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [3]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [*HI, {"role": "tool", "content": "x"}]}, "messages.1.role"),
        ({"messages": [*HI, {"role": "assistant", "tool_calls": [{"id": "x"}]}]}, "messages.1.tool_calls"),
        ({"messages": [*HI, {"role": "assistant", "content": "x"}]}, "messages.1.role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]},
            "messages.0.content.1",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0"),
        ({"messages": [{**HI[0], **{f"x{index}": 1 for index in range(200)}}]}, "messages"),
        ({"model": "gpt-4o"}, "model"),
        ({"model": 3}, "model"),
    ],
)
def test_what_is_wrong_is_named_by_the_callers_own_path(fields: dict[str, Any], field: str) -> None:
    error = refused(**fields)
    assert isinstance(error, InvalidRequest | Unsupported)
    assert error.field == field


@pytest.mark.parametrize("prompt", [["a", "b"], [1, 2], [[1]], []])
def test_completions_take_one_text(prompt: list[Any]) -> None:
    assert refused("completions", prompt=prompt).field == "prompt"


def test_a_developer_is_the_system_and_text_parts_are_joined_with_nothing_between() -> None:
    parts = [{"type": "text", "text": "a", "cache_control": {"type": "x"}}, {"type": "text", "text": "b"}]
    told = asked(messages=[{"role": "developer", "content": "x", "name": "n"}, {"role": "user", "content": parts}])
    assert isinstance(told.request, ChatRequest)
    assert [(one.role, one.content) for one in told.request.messages or ()] == [("system", "x"), ("user", "ab")]
    assert told.ignored == ("messages[].role", "messages[].name", "messages[].content[].cache_control")


def test_a_turn_of_the_assistant_comes_back_as_a_reply_had_it() -> None:
    echoed: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [],
        "reasoning_content": "hm",
    }
    told = asked(messages=[echoed, {"role": "assistant", "content": "x", "reasoning": "hm"}, *HI])
    assert isinstance(told.request, ChatRequest)
    assert [one.content for one in told.request.messages or ()] == ["", "x", "hi"]
    assert told.ignored == ("messages[].reasoning_content", "messages[].reasoning")


def test_a_degree_of_reasoning_is_noted_and_none_is_no_thinking() -> None:
    high, none = asked(reasoning_effort="high"), asked(reasoning_effort="none")
    assert isinstance(high.request, ChatRequest)
    assert isinstance(none.request, ChatRequest)
    assert (high.request.enable_thinking, high.ignored) == (True, ("reasoning_effort",))
    assert (none.request.enable_thinking, none.ignored) == (False, ())


def test_vllms_pair_of_fields_for_a_continued_answer_is_taken() -> None:
    turns = [*HI, {"role": "assistant", "content": "so"}]
    assert asked(messages=turns, continue_final_message=True, add_generation_prompt=False).ignored == ()
    assert refused(add_generation_prompt="x").field == "add_generation_prompt"


def test_stream_options_without_a_stream_are_noted() -> None:
    assert asked(stream_options={"include_usage": True}).ignored == ("stream_options",)


def test_the_models_are_an_info_whatever_the_body() -> None:
    for path, body in (("/v1/models", None), ("/v1/models/", {}), ("/v1/models?x=1", 3)):
        assert read(path, body, SERVED) == Asked("models", InfoRequest(operation="info", sections=("model",)))
    assert read(f"/v1/models/{SERVED.name}", None, SERVED).route == "model"
    with pytest.raises(errors.ModelNotFound, match=SERVED.name):
        read("/v1/models/gpt-4o", None, SERVED)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/x", "/v1/embeddings", "/chat/completions", "", "/"])
def test_a_route_that_is_not_there_says_what_to_use(path: str) -> None:
    with pytest.raises(errors.UnknownUrl, match="/v1/chat/completions"):
        read(path, {}, SERVED)


@pytest.mark.parametrize("body", [None, [], "x", 3])
def test_a_body_is_an_object(body: object) -> None:
    with pytest.raises(InvalidRequest):
        read(PATHS["chat"], body, SERVED)
    assert not wants_stream(body)


def test_a_failure_at_run_time_has_the_callers_names() -> None:
    names = asked(max_completion_tokens=7).names
    native = Failure(code="invalid_request", message="max_tokens is 7", retryable=False, field="max_tokens")
    mapped = in_their_names(native, names)
    assert (mapped.field, mapped.message) == ("max_completion_tokens", "max_completion_tokens is 7")
    other = native.model_copy(update={"field": "messages"})
    assert in_their_names(other, names) == other


def test_every_error_has_a_status_and_a_type_that_agree() -> None:
    for code, status in errors.STATUS.items():
        given = Failure(code=code, message="m", retryable=code == "overloaded", field="f", retry_after_s=2.4)
        found, body = errors.body(given)
        kind = "invalid_request_error" if status < 500 else "server_error"
        assert (found, body) == (
            status,
            {"error": {"message": "m", "type": kind, "param": "f", "code": code, "retry_after_s": 2.4}},
        )
    assert errors.headers(given.model_copy(update={"retryable": False})) == {
        "Retry-After": "2",
        "x-should-retry": "false",
    }


def test_every_code_of_the_worker_has_a_status_but_those_of_enhance() -> None:
    codes = {kind.code for kind in WorkerError.__subclasses__()} - {"no_pack", "bad_answer"}
    assert codes <= set(errors.STATUS)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls", "\ud800"]), VALUES, max_size=4),
    max_size=3,
)


@given(
    kind=st.sampled_from(BOTH),
    fields=st.dictionaries(st.sampled_from([rule.name for rule in RULES]) | st.text(max_size=9), VALUES, max_size=4),
    messages=MESSAGES | st.just(HI),
)
@settings(max_examples=200)
def test_any_body_is_read_or_refused_with_an_error_that_can_be_sent(
    kind: Kind, fields: dict[str, Any], messages: Any
) -> None:
    beside = {"messages": messages} if kind == "chat" else {"prompt": "hi"}
    try:
        told = read(PATHS[kind], {**beside, **fields}, SERVED)
    except WorkerError as error:
        status, body = errors.body(Failure.of(error))
        assert status in (400, 404)
        event(body).encode()
    else:
        "".join(told.ignored).encode()
