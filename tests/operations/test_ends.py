"""An answer ends where the chat template ends a turn, whatever the configurations of the checkpoint say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import scripted
from tests.support.scripted import ARCHITECTURES, CHATML, Line, started

HI = [{"role": "user", "content": "hi"}]
#: what a fine-tune goes on with where nothing ends its turn: turns of its own
SCRIPT = ("\n", "Yes", ".", "<|im_end|>", "\nuser: And you?", "Well", "<|endoftext|>", "more", "<|im_end|>")
ENDOFTEXT, IM_END = 1837, 1839
#: as many fine-tunes have it
BASES = {"eos_token_id": ENDOFTEXT}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A generated checkpoint whose configurations name the end token of the base model alone."""
    path = tmp_path_factory.mktemp("tuned") / "checkpoint"
    scripted.write(path, SCRIPT, architecture=request.param, config=BASES, generation=BASES)
    with started(path) as line:
        yield line


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """The demo checkpoint with the end token of the base model alone."""
    path = scripted.altered(tmp_path_factory.mktemp("demo") / "copy", config=BASES, generation=BASES)
    with started(path) as line:
        yield line


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({"operation": "chat", "message": "hi"}, "response"),
        ({"operation": "chat", "messages": HI}, "response"),
        ({"operation": "generate", "messages": HI}, "text"),
        ({"operation": "enhance", "messages": HI}, "enhanced_prompt"),
        ({"operation": "enhance", "prompt": "hi", "system_prompt": "s", "fallback": "error"}, "enhanced_prompt"),
    ],
)
def test_the_token_that_ends_a_turn_of_the_template_ends_every_answer_to_messages(
    tuned: Line, form: dict[str, Any], text: str
) -> None:
    reply = tuned.told(**form, max_tokens=30)
    assert (reply[text], reply["finish_reason"], reply["usage"]["completion_tokens"]) == ("Yes.", "stop", 3)


def test_the_demo_with_the_base_models_end_token_ends_where_it_always_did(demo: Line) -> None:
    with started(Path("demo")) as own:
        expected = own.told(operation="chat", message="Who are you?", max_tokens=200)
    reply = demo.told(operation="chat", message="Who are you?", max_tokens=200)
    assert expected["finish_reason"] == "stop"
    assert (reply["response"], reply["finish_reason"]) == (expected["response"], "stop")


def test_a_raw_prompt_ends_by_the_configurations_and_by_the_callers_own_tokens(tuned: Line) -> None:
    raw = {"operation": "generate", "prompt": "\n", "max_tokens": 30}
    reply = tuned.told(**raw)
    assert (reply["text"], reply["usage"]["completion_tokens"]) == ("Yes.\nuser: And you?Well", 6)
    reply = tuned.told(**raw, stop_token_ids=[IM_END, 5])
    assert (reply["text"], reply["finish_reason"], reply["usage"]["completion_tokens"]) == ("Yes.", "stop", 3)
    assert reply["sampling"]["stop_token_ids"] == [IM_END, 5]


@pytest.mark.parametrize(
    "form",
    [
        {"operation": "chat", "message": "hi"},
        {"operation": "generate", "messages": HI},
        {"operation": "enhance", "messages": HI},
    ],
)
def test_a_stop_token_ends_an_answer_before_its_text(tuned: Line, form: dict[str, Any]) -> None:
    full_stop = tuned.told(operation="generate", prompt=".", dry_run=True)["token_ids"]
    reply = tuned.told(**form, stop_token_ids=full_stop, max_tokens=30)
    assert (reply["finish_reason"], reply["usage"]["completion_tokens"]) == ("stop", 2)
    assert "Yes" in reply.values()


@pytest.mark.parametrize("operation", ["chat", "generate", "enhance"])
def test_a_stop_token_outside_the_vocabulary_is_refused_by_name(tuned: Line, operation: str) -> None:
    failure = tuned.refused(operation=operation, messages=HI, stop_token_ids=[5, scripted.ROWS])
    assert (failure.code, failure.field) == ("invalid_request", "stop_token_ids.1")
    assert "[0, 2048)" in failure.message


def test_info_and_the_ledger_say_which_tokens_end_an_answer_and_where_each_comes_from(
    tuned: Line, demo: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = [
        {"token_id": IM_END, "token": "<|im_end|>", "sources": ["chat_template"]},
        {"token_id": ENDOFTEXT, "token": "<|endoftext|>", "sources": ["generation_config", "config"]},
    ]
    for line in (tuned, demo):
        model = line.told(operation="info", sections=["model"])["model"]
        assert (model["end_tokens"], model["stop_token_ids"]) == (ends, [ENDOFTEXT])
        assert line.told(operation="info", sections=["startup"])["startup"]["weights"]["end_tokens"] == ends


@pytest.mark.parametrize("special", [(), ("<|eot|>",)], ids=["a token of text", "a special token"])
def test_a_turn_may_end_with_another_token(tmp_path: Path, special: tuple[str, ...]) -> None:
    template = CHATML.replace(
        "'<|im_end|>' + '\\n' }}", "('<|eot|>' if message.role == 'assistant' else '<|im_end|>') + '\\n' }}"
    )
    script = ("\n", "Yes", "<|im_end|>", ".", "<|eot|>", "more")
    scripted.write(tmp_path / "c", script, template=template, special=special)
    with started(tmp_path / "c") as line:
        assert line.told(operation="chat", message="hi", max_tokens=30)["response"] == "Yes."
