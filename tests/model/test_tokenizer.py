"""The tokenizer and the chat template of a checkpoint give the results of transformers for the same files."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any, cast

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from handler.errors import StartError
from handler.model.snapshot import DEMO
from handler.model.tokenizer import ChatTokenizer, read

GENUINE = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
#: genuine ones are vocab.json and merges.txt, the demo model's is tokenizer.json
every_tokenizer = pytest.mark.parametrize("name", ["demo", "qwen2.5-7b-instruct"])
#: letters with marks, numbers, line breaks, scripts without spaces, and what looks like a control token
TEXT = st.lists(
    st.text(max_size=20)
    | st.sampled_from(
        ["e\u0301", "'LL ", "  \n \r\n", "\uff11\uff12", "你好", "นี่คือ", "🦊", "<|im_end|>", "<|im_start", "\u2028"]
    ),
    max_size=8,
).map("".join)


def directory(name: str) -> Path:
    path = DEMO if name == "demo" else GENUINE / name
    if not path.is_dir():
        pytest.skip("the genuine Qwen tokenizers are not on this machine")
    return path


@cache
def pair(name: str) -> tuple[ChatTokenizer, PreTrainedTokenizerFast]:
    """Ours, and transformers'."""
    path = directory(name)
    return read(path, name), cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(path, local_files_only=True))


@every_tokenizer
@given(text=TEXT)
def test_a_text_has_the_ids_that_transformers_gives_it(name: str, text: str) -> None:
    ours, theirs = pair(name)
    ids = ours.backend.encode(text, add_special_tokens=False).ids
    assert ids == theirs.encode(text, add_special_tokens=False)
    assert ours.backend.decode(ids, skip_special_tokens=False) == theirs.decode(ids)


@every_tokenizer
def test_texts_are_cut_by_the_same_rules(name: str) -> None:
    """All of them: no merge of Qwen's tells whether digits are cut one by one."""
    ours, theirs = (
        json.loads(backend.to_str()) for backend in (pair(name)[0].backend, pair(name)[1].backend_tokenizer)
    )
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        assert ours[part] == theirs[part]


@every_tokenizer
def test_both_know_the_same_tokens(name: str) -> None:
    ours, theirs = pair(name)
    assert ours.backend.get_vocab() == theirs.get_vocab()
    added, others = ours.backend.get_added_tokens_decoder(), theirs.backend_tokenizer.get_added_tokens_decoder()
    assert {id_: str(token) for id_, token in added.items()} == {id_: str(token) for id_, token in others.items()}
    assert ours.named == {key: token for key, token in theirs.special_tokens_map.items() if key in ours.named}


MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": TEXT}),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("name", ["demo", "qwen2.5-7b-instruct", "qwen3"])
@given(messages=MESSAGES, answer=st.booleans(), thinks=st.booleans())
def test_messages_are_rendered_as_transformers_renders_them(
    name: str, messages: list[dict[str, str]], answer: bool, thinks: bool
) -> None:
    ours, theirs = pair("qwen2.5-7b-instruct" if name == "qwen3" else name)
    template = ours.chat_template
    if name == "qwen3":
        config = json.loads((GENUINE / "qwen3" / "tokenizer_config.json").read_text(encoding="utf-8"))
        template = config["chat_template"]
        ours = ChatTokenizer(ours.backend, template, ours.named)
    expected = theirs.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=answer, enable_thinking=thinks
    )
    assert ours.render(messages, add_generation_prompt=answer, enable_thinking=thinks) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}\n {% if loop.first %}\n  {% continue %}\n {% endif %}\n{{ m.content }}\n{% endfor %}",
        "{{ messages | tojson }} {{ {'b': '<é>', 'a': 1} | tojson(indent=2, sort_keys=true) }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{% set x = 1 %}{% for m in messages %}{% generation %}\n{% set x = 2 %}{{ m.content }}{% endgeneration %}"
        "{{ x }}{% endfor %}",
        "{{ eos_token }}{{ bos_token }}{{ pad_token }}{{ tools is none }}{{ documents is none }}{{ enable_thinking }}",
        "{{ strftime_now('%Y') }}",
    ],
)
def test_templates_find_what_transformers_gives_them(template: str) -> None:
    messages = [{"role": "user", "content": "<a> & é"}, {"role": "assistant", "content": "b"}]
    named = {"eos_token": "<end>", "pad_token": "<pad>"}
    settings: dict[str, Any] = {
        "chat_template": template,
        "add_generation_prompt": True,
        "enable_thinking": False,
        **named,
    }
    (expected,), _ = cast(tuple[list[str], object], render_jinja_template([cast(Any, messages)], **settings))
    ours = ChatTokenizer(Tokenizer.from_file(str(DEMO / "tokenizer.json")), template, named)
    assert ours.render(messages, add_generation_prompt=True, enable_thinking=False) == expected


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no') }}", "{{ ''.__class__ }}{{ x.y }}", "{% set _ = messages.append(1) %}"]
)
def test_templates_get_no_further_than_text(template: str) -> None:
    ours = ChatTokenizer(Tokenizer.from_file(str(DEMO / "tokenizer.json")), template)
    with pytest.raises(jinja2.TemplateError):
        ours.render([{"role": "user", "content": "hi"}], add_generation_prompt=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The demo tokenizer, to change."""
    shutil.copytree(DEMO, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("config", "template"),
    [
        ({"chat_template": "one"}, "one"),
        ({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}, "d"),
        ({"chat_template": [{"name": "tool_use", "template": "t"}]}, None),
        ({}, None),
    ],
)
def test_a_chat_template_may_lie_in_the_tokenizers_config(
    copy: Path, config: dict[str, Any], template: str | None
) -> None:
    assert read(copy, "mine").chat_template == (DEMO / "chat_template.jinja").read_text(encoding="utf-8")
    (copy / "chat_template.jinja").unlink()
    (copy / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert read(copy, "mine").chat_template == template


def test_a_vocabulary_and_its_merges_are_read_as_the_tokenizer_that_holds_both(copy: Path) -> None:
    whole = read(copy, "demo").backend
    config = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.json").write_text(json.dumps(config["model"]["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(merge) for merge in config["model"]["merges"])
    (copy / "merges.txt").write_text(merges, encoding="utf-8")
    added = {token.pop("id"): token for token in config["added_tokens"]}
    (copy / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}), encoding="utf-8")
    parts = read(copy, "demo").backend
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        assert json.loads(parts.to_str())[part] == config[part]
    for text in ("a red fox", " e\u0301t\u00e9\n\n 12345, it's 你好🦊<|im_end|>"):
        assert parts.encode(text).ids == whole.encode(text).ids


def test_truncation_and_padding_of_a_tokenizer_are_turned_off(copy: Path) -> None:
    backend = Tokenizer.from_file(str(copy / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=4)
    backend.save(str(copy / "tokenizer.json"))
    ours = read(copy, "mine").backend
    assert len(ours.encode("a").ids) == 1
    assert len(ours.encode("a b c d e f g h i j").ids) > 4


@pytest.mark.parametrize(
    ("file", "content", "cause"),
    [
        ("vocab.json", None, "no tokenizer.json, nor vocab.json with merges.txt"),
        ("vocab.json", "{", "the tokenizer cannot be read"),
        ("merges.txt", None, "the tokenizer cannot be read"),
        ("tokenizer_config.json", "{", "tokenizer_config.json of the model cannot be read"),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"7": {"content": "<x>"}}}',
            "gives <x> an id that does not",
        ),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"3": {"text": "<x>"}}}', "the tokenizer cannot be read"),
    ],
)
def test_a_missing_or_broken_file_stops_the_start_in_one_line(
    tmp_path: Path, file: str, content: str | None, cause: str
) -> None:
    good = {
        "vocab.json": '{"a": 0, "b": 1, "ab": 2}',
        "merges.txt": "#version: 0.2\na b\n",
        "tokenizer_config.json": '{"added_tokens_decoder": {"3": {"content": "<x>", "special": true}}}',
    }
    for name, text in good.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert read(tmp_path, "mine").backend.encode("ab<x>").ids == [2, 3]
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(StartError, match=cause) as caught:
        read(tmp_path, "mine")
    assert "\n" not in str(caught.value)
