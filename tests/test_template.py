"""The template: the model reads the caller's messages to the token, and nothing else."""

import json
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from handler.errors import ContextLengthExceeded, StartError
from handler.inference.template import Template, Turn
from handler.inference.weights import DEMO

GENUINE = Path(__file__).parents[2] / "shared" / "data" / "tokenizers"
CHECKPOINTS = {"demo": DEMO, "qwen2.5": GENUINE / "qwen2.5-7b-instruct"}
ROOM = 100_000

TURNS = st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), st.text(max_size=30)), min_size=1, max_size=5)


@pytest.fixture(scope="module", params=CHECKPOINTS)
def path(request: pytest.FixtureRequest) -> Path:
    directory: Path = CHECKPOINTS[request.param]
    if not directory.is_dir():
        pytest.skip(f"the genuine {request.param} tokenizer is not on this machine")
    return directory


def load(path: Path) -> PreTrainedTokenizerFast:
    return cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(path, local_files_only=True))


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> PreTrainedTokenizerFast:
    return load(path)


@pytest.fixture(scope="module")
def template(tokenizer: PreTrainedTokenizerFast) -> Template:
    return Template(tokenizer)


def test_no_system_turn_reaches_the_model_where_none_was_sent(template: Template) -> None:
    rendered = template.chat([Turn("user", "hi")], ROOM)
    assert rendered.text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_an_empty_system_turn_is_an_empty_system_turn(template: Template) -> None:
    rendered = template.chat([Turn("system", ""), Turn("user", "hi")], ROOM)
    assert rendered.text.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n")


def test_a_second_system_turn_stays_where_it_was_put(template: Template) -> None:
    rendered = template.chat([Turn("user", "a"), Turn("system", "b"), Turn("user", "c")], ROOM)
    assert "a<|im_end|>\n<|im_start|>system\nb<|im_end|>" in rendered.text


@given(turns=TURNS, system=st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_with_a_system_turn_the_ids_are_those_of_the_plain_path(
    template: Template, tokenizer: PreTrainedTokenizerFast, turns: list[Turn], system: str
) -> None:
    turns = [Turn("system", system), *turns]
    conversation = [turn._asdict() for turn in turns]
    expected = tokenizer.apply_chat_template(
        conversation, add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    assert list(template.chat(turns, ROOM).prompt.token_ids) == expected


@given(before=st.text(max_size=10), after=st.text(max_size=10))
@settings(max_examples=100, deadline=None)
def test_control_tokens_typed_in_a_text_stay_text(
    template: Template, tokenizer: PreTrainedTokenizerFast, before: str, after: str
) -> None:
    control = set(tokenizer.get_added_vocab().values())
    frame = [id_ for id_ in template.chat([Turn("user", "x")], ROOM).prompt.token_ids if id_ in control]
    typed = before + "".join(tokenizer.get_added_vocab()) + after
    ids = template.chat([Turn("user", typed)], ROOM).prompt.token_ids
    assert [id_ for id_ in ids if id_ in control] == frame
    assert not control.intersection(template.raw(typed, ROOM).prompt.token_ids)


@given(text=st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_the_bytes_of_tokens_join_to_what_the_tokenizer_decodes(
    template: Template, tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    joined = b"".join(map(template.token_bytes, ids)).decode("utf-8", errors="replace")
    assert joined == tokenizer.decode(ids, skip_special_tokens=True)


def test_ids_without_a_token_add_no_text(template: Template) -> None:
    assert template.token_bytes(template.tokens_in_vocab + 5) == b""


def test_a_prompt_over_the_room_is_refused_with_both_numbers(template: Template) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"has \d+ tokens.* 5$"):
        template.chat([Turn("user", "one two three four")], 5)


def test_a_text_that_cannot_fit_is_refused_before_it_is_encoded(template: Template) -> None:
    with pytest.raises(ContextLengthExceeded, match="10000000 characters"):
        template.raw("x" * 10_000_000, 100)


def test_a_tokenizer_without_a_chat_template_stops_the_start(path: Path) -> None:
    tokenizer = load(path)
    tokenizer.chat_template = None
    with pytest.raises(StartError, match="no chat template"):
        Template(tokenizer)


def test_a_template_of_another_kind_stops_the_start(path: Path) -> None:
    tokenizer = load(path)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% if not loop.last %} then {% endif %}{% endfor %}"
    )
    with pytest.raises(StartError, match="ChatML"):
        Template(tokenizer)


def test_qwen3_runs_with_thinking_off() -> None:
    if not GENUINE.is_dir():
        pytest.skip("the genuine Qwen tokenizers are not on this machine")
    tokenizer = load(GENUINE / "qwen2.5-7b-instruct")
    other = (GENUINE / "qwen3" / "tokenizer_config.json").read_text(encoding="utf-8")
    tokenizer.chat_template = json.loads(other)["chat_template"]
    rendered = Template(tokenizer).chat([Turn("user", "hi")], ROOM)
    assert rendered.text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
