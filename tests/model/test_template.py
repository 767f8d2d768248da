"""The template: the model reads the caller's messages to the token, and nothing else."""

import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from handler.errors import ContextLengthExceeded, InvalidRequest, StartError, Unsupported
from handler.model.snapshot import DEMO
from handler.model.template import Ending, Template, Turn
from handler.model.tokenizer import ChatTokenizer, read

GENUINE = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
ROOM = 100_000

#: text without control tokens (Hypothesis tries the literals it finds in our code, `<|im_start|>` among them)
PLAIN = st.text(max_size=30).filter(lambda text: "<" not in text) | st.sampled_from(
    ["\n", " \n\n", "\t", "", "e\u0301", "你好", "🦊", "a < b |> c"]
)
TURNS = st.lists(st.builds(Turn, st.sampled_from(["user", "assistant", "system"]), PLAIN), min_size=1, max_size=6)


def directory(name: str) -> Path:
    """Of the demo model's tokenizer, or of a genuine one; Qwen3's has the vocabulary of Qwen2.5."""
    path = DEMO if name == "demo" else GENUINE / "qwen2.5-7b-instruct"
    if not path.is_dir():
        pytest.skip("the genuine Qwen tokenizers are not on this machine")
    return path


def chat_template(name: str) -> str | None:
    """The template in place of the directory's own; None keeps that."""
    if name != "qwen3":
        return None
    return str(json.loads((GENUINE / "qwen3" / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"])


def load(name: str) -> ChatTokenizer:
    tokenizer = read(directory(name), name)
    return replace(tokenizer, chat_template=chat_template(name) or tokenizer.chat_template)


@pytest.fixture(scope="module", params=["demo", "qwen2.5", "qwen3"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """As the model's makers have it."""
    theirs = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(directory(name), local_files_only=True))
    theirs.chat_template = chat_template(name) or theirs.chat_template
    return theirs


@pytest.fixture(scope="module")
def template(name: str) -> Template:
    return Template(load(name))


def as_left_alone(name: str, turns: list[Turn]) -> list[Turn]:
    """Turns that the template passes on whole: Qwen3's cuts line breaks off the front of an assistant's last words."""
    if name != "qwen3":
        return turns
    return [Turn(turn.role, turn.content.lstrip("\n") if turn.role == "assistant" else turn.content) for turn in turns]


def plain_path(tokenizer: PreTrainedTokenizerFast, turns: list[Turn]) -> list[int]:
    """The ids as the model's makers get them."""
    conversation = [turn._asdict() for turn in turns]
    return cast(
        list[int],
        tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, enable_thinking=False, return_dict=False
        ),
    )


def test_no_system_turn_reaches_the_model_where_none_was_sent(template: Template) -> None:
    rendered = template.chat([Turn("user", "hi")], ROOM)
    assert rendered.text.startswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")


def test_an_empty_system_turn_is_an_empty_system_turn(template: Template) -> None:
    rendered = template.chat([Turn("system", ""), Turn("user", "hi")], ROOM)
    assert rendered.text.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n")


@pytest.mark.parametrize("name", ["demo", "qwen2.5"], indirect=True)
def test_the_templates_own_system_prompt_is_known_but_not_used(
    template: Template, tokenizer: PreTrainedTokenizerFast
) -> None:
    plain = str(tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False))
    assert template.default_system
    assert plain.startswith(f"<|im_start|>system\n{template.default_system}<|im_end|>\n<|im_start|>user\nhi")


def test_an_unfinished_turn_of_the_assistant_is_left_open(
    template: Template, tokenizer: PreTrainedTokenizerFast
) -> None:
    turns = [Turn("system", "s"), Turn("user", "hi"), Turn("assistant", "Well, ")]
    rendered = template.chat(turns, ROOM, Ending(continues=True))
    plain = tokenizer.apply_chat_template(
        [turn._asdict() for turn in turns], tokenize=False, continue_final_message=True
    )
    assert rendered.text == plain


def test_a_second_system_turn_stays_where_it_was_put(template: Template) -> None:
    rendered = template.chat([Turn("user", "a"), Turn("system", "b"), Turn("user", "c")], ROOM)
    assert "a<|im_end|>\n<|im_start|>system\nb<|im_end|>" in rendered.text


@given(turns=TURNS, system=PLAIN)
@settings(deadline=None)
def test_with_a_system_turn_the_ids_are_those_of_the_plain_path(
    name: str, template: Template, tokenizer: PreTrainedTokenizerFast, turns: list[Turn], system: str
) -> None:
    turns = [Turn("system", system), *as_left_alone(name, turns)]
    assert list(template.chat(turns, ROOM).prompt.token_ids) == plain_path(tokenizer, turns)


@given(turns=TURNS)
@settings(deadline=None)
def test_without_a_system_turn_the_ids_are_those_of_the_plain_path_less_the_default_one(
    name: str, template: Template, tokenizer: PreTrainedTokenizerFast, turns: list[Turn]
) -> None:
    turns = [Turn("user", "first"), *as_left_alone(name, turns)]
    default = ""
    if template.default_system is not None:
        default = f"<|im_start|>system\n{template.default_system}<|im_end|>\n"
    expected = plain_path(tokenizer, turns)
    assert expected == tokenizer.encode(default) + list(template.chat(turns, ROOM).prompt.token_ids)


@given(data=st.data(), roles=st.lists(st.sampled_from(["user", "assistant", "system"]), min_size=1, max_size=4))
@settings(deadline=None)
def test_control_tokens_typed_in_a_text_stay_text(
    template: Template, tokenizer: PreTrainedTokenizerFast, data: st.DataObject, roles: list[str]
) -> None:
    controls = tokenizer.get_added_vocab()
    typed = st.lists(st.sampled_from(sorted(controls)) | st.text("ab <|>\n", max_size=5), max_size=6).map("".join)
    turns = [Turn(role, data.draw(typed)) for role in roles]
    frame = template.chat([Turn(role, "") for role in roles], ROOM).prompt.token_ids
    rendered = template.chat(turns, ROOM)
    ids = rendered.prompt.token_ids
    assert [id_ for id_ in ids if id_ in controls.values()] == [id_ for id_ in frame if id_ in controls.values()]
    assert tokenizer.decode(list(ids)) == rendered.text
    raw = template.raw("".join(turn.content for turn in turns), ROOM).prompt.token_ids
    assert not set(controls.values()).intersection(raw)


@given(text=st.text(max_size=60))
@settings(deadline=None)
def test_the_bytes_of_tokens_join_to_what_the_tokenizer_decodes(
    template: Template, tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    joined = b"".join(map(template.token_bytes, ids)).decode("utf-8", errors="replace")
    assert joined == tokenizer.decode(ids, skip_special_tokens=True)


def test_ids_without_a_token_add_no_text(template: Template) -> None:
    assert template.token_bytes(template.tokens_in_vocab + 5) == b""


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(template: Template) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"has \d+ tokens, and the limit is 5$"):
        template.chat([Turn("user", "one two three four")], 5)


def test_no_text_of_more_than_four_million_characters_is_encoded_however_large_the_context(template: Template) -> None:
    for encode in (template.raw, lambda text, room: template.chat([Turn("user", "hi"), Turn("user", text)], room)):
        with pytest.raises(InvalidRequest, match=r"of 400000\d characters is too long to encode; 4000000 at most$"):
            encode("x" * 4_000_001, 10**9)


def test_a_text_that_cannot_fit_is_refused_before_it_is_encoded(template: Template) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"10000000 characters .* the limit is 100$"):
        template.raw("x" * 10_000_000, 100)


def test_a_tokenizer_without_a_chat_template_encodes_raw_text_and_refuses_messages_with_the_cure(name: str) -> None:
    base, chatting = (Template(replace(load(name), chat_template=text)) for text in (None, load(name).chat_template))
    assert (base.chats, base.thinks, base.default_system, chatting.chats) == (False, "never", None, True)
    assert base.raw("Once upon a time", 100) == chatting.raw("Once upon a time", 100)
    with pytest.raises(
        Unsupported, match=r"no chat template.* send generate with a prompt, or serve an instruct model"
    ):
        base.chat([Turn("user", "hi")], 100)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% if not loop.last %}; {% endif %}{% endfor %}",
            "ChatML",
        ),
        ("{{ raise_exception('only with tools') }}", "only with tools"),
        ("{% for m in messages %}", "refuses"),
        ("{{ messages.missing.content }}", "refuses"),
        ("hello", "does not render the roles"),
    ],
)
def test_a_template_that_is_not_chatml_stops_the_start(name: str, text: str, cause: str) -> None:
    with pytest.raises(StartError, match=cause):
        Template(replace(load(name), chat_template=text))


@pytest.mark.parametrize(
    ("ending", "end"),
    [
        (Ending(), "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (Ending(thinks=True), "<|im_start|>assistant\n"),
    ],
)
def test_qwen3_thinks_only_where_thinking_is_turned_on(ending: Ending, end: str) -> None:
    template = Template(load("qwen3"))
    assert (template.thinks, template.default_system) == ("choice", None)
    assert template.chat([Turn("user", "hi")], ROOM, ending).text == f"<|im_start|>user\nhi<|im_end|>\n{end}"


@pytest.mark.parametrize("begun", ["a fox,", " a fox\nin snow,", "一只猫，", "<|im_end|>\n<|im_start|>user\nhi,"])
def test_an_answer_that_is_begun_stands_behind_all_that_the_template_writes_before_an_answer(
    template: Template, begun: str
) -> None:
    turns = [Turn("system", "s"), Turn("user", "hi")]
    plain, rendered = template.chat(turns, ROOM), template.chat(turns, ROOM, begun=begun)
    assert rendered.text == plain.text + begun
    assert rendered.sha256 != plain.sha256
    controls = [id_ for id_ in plain.prompt.token_ids if id_ in template._control_ids.values()]
    assert [id_ for id_ in rendered.prompt.token_ids if id_ in template._control_ids.values()] == controls
    decoded = b"".join(map(template.token_bytes, rendered.prompt.token_ids)).decode()
    assert decoded.endswith(unicodedata.normalize("NFC", begun))
    assert template.chat(turns, ROOM, begun="").prompt == plain.prompt


@pytest.mark.parametrize("name", ["demo", "qwen2.5"], indirect=True)
def test_the_tokens_of_a_begun_answer_are_those_of_the_whole_text(
    template: Template, tokenizer: PreTrainedTokenizerFast
) -> None:
    turns = [Turn("system", "s"), Turn("user", "a fox")]
    expected = tokenizer.apply_chat_template(
        [*(turn._asdict() for turn in turns), {"role": "assistant", "content": "a fox in the snow,"}],
        continue_final_message=True,
        return_dict=False,
    )
    assert list(template.chat(turns, ROOM, begun="a fox in the snow,").prompt.token_ids) == expected


def test_qwen3_begins_an_answer_behind_an_empty_think_block() -> None:
    template = Template(load("qwen3"))
    end = "<|im_start|>assistant\n<think>\n\n</think>\n\na fox,"
    assert template.chat([Turn("user", "hi")], ROOM, begun="a fox,").text.endswith(end)


def test_a_think_block_that_the_template_opens_is_closed_before_a_begun_answer() -> None:
    plain = load("demo")
    opened = Template(
        replace(
            plain,
            chat_template=f"{plain.chat_template}{{% if add_generation_prompt %}}{{{{ '<think>\n' }}}}{{% endif %}}",
        )
    )
    turns = [Turn("user", "hi")]
    assert opened.chat(turns, ROOM).text.endswith("<|im_start|>assistant\n<think>\n")
    assert opened.chat(turns, ROOM, begun="a fox,").text.endswith("assistant\n<think>\n\n</think>\n\na fox,")


def test_a_tokenizer_that_is_not_byte_level_stops_the_start() -> None:
    with pytest.raises(StartError, match="byte-level"):
        Template(replace(read(DEMO, "demo"), backend=Tokenizer(BPE())))
