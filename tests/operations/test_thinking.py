"""Thoughts: told apart from the answer wherever a prompt makes them, and closed where they have had their tokens."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import scripted
from tests.support.scripted import ARCHITECTURES, TEMPLATES, Line, started

HI = [{"role": "user", "content": "hi"}]
#: a thought that has a stop string in it, and never ends by itself
LOOP = ("<think>", " hm", " Question:", " so", " hm")
#: the answer after the thought; "\n\n" is a token of its own, as in Qwen's tokenizers
ANSWER = ("\n\n", "The answer is 4.", " Question: 5", "<|im_end|>", "more")


def checkpoint(path: Path, kind: str, architecture: str = "qwen2", **options: Any) -> Path:
    """A checkpoint that thinks without end; where its template has a choice, it opens the think block itself."""
    first = "<think>" if kind == "choice" else " hm"
    return scripted.write(
        path,
        ("\n", first),
        LOOP,
        ANSWER,
        ("</think>",),
        architecture=architecture,
        template=TEMPLATES[kind],
        **options,
    )


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def choice(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """Thinks where `enable_thinking` asks for it, like Qwen3."""
    with started(checkpoint(tmp_path_factory.mktemp("choice") / "c", "choice", architecture)) as line:
        yield line


@pytest.fixture(scope="module")
def always(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """Always thinks, like Qwen3-Thinking-2507 and QwQ."""
    with started(checkpoint(tmp_path_factory.mktemp("always") / "c", "always", architecture)) as line:
        yield line


@pytest.fixture(scope="module")
def never(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """Never thinks, like Qwen2.5."""
    path = tmp_path_factory.mktemp("never") / "c"
    with started(scripted.write(path, ("\n", "The answer is 4.", "<|im_end|>"), architecture=architecture)) as line:
        yield line


@pytest.mark.parametrize("stop", [[], ["Question:"], ["hm", "so"]])
def test_with_thinking_on_stop_strings_sleep_until_the_thought_has_ended(choice: Line, stop: list[str]) -> None:
    reply = choice.told(
        operation="chat", message="hi", enable_thinking=True, max_thinking_tokens=6, max_tokens=40, stop=stop
    )
    answer = "The answer is 4. " + ("" if "Question:" in stop else "Question: 5")
    assert (reply["response"], reply["finish_reason"]) == (answer, "stop")
    assert reply["reasoning"] == " hm Question: so hm Question:\n"


def test_a_thought_that_ends_by_itself_is_not_cut_and_stop_strings_sleep_until_then(
    tmp_path: Path, architecture: str
) -> None:
    script = ("\n", "<think>", " hm Question:", "</think>", *ANSWER)
    path = scripted.write(tmp_path / "c", script, template=TEMPLATES["choice"], architecture=architecture)
    with started(path) as line:
        thinks = {"operation": "chat", "message": "hi", "enable_thinking": True, "stop": "Question:"}
        reply = line.told(**thinks)
        assert (reply["response"], reply["reasoning"]) == ("The answer is 4. ", " hm Question:")
        assert reply == {**line.told(**thinks, max_thinking_tokens=20), **{key: reply[key] for key in CHANGING}}
        assert "reasoning_cut" not in reply


CHANGING = (
    "conversation_history", "message_id", "timing", "generation_time", "processing_time", "sampling", "usage",
)  # fmt: skip


@pytest.mark.parametrize("limit", [1, 2, 5, 20])
@pytest.mark.parametrize("kind", ["choice", "always"])
def test_a_thought_at_its_limit_is_closed_and_the_answer_begins(
    choice: Line, always: Line, kind: str, limit: int
) -> None:
    line = {"choice": choice, "always": always}[kind]
    asked = {"operation": "chat", "messages": HI, "enable_thinking": True, "max_tokens": 60, "logprobs": True}
    reply = line.told(**asked, max_thinking_tokens=limit)
    assert (reply["response"], reply["finish_reason"]) == ("The answer is 4. Question: 5", "stop")
    assert reply["reasoning_cut"] is True
    assert reply["sampling"]["max_thinking_tokens"] == limit
    thought = ["<think>"] * (kind == "choice") + [" hm", " Question:", " so"] * 10
    closing, answer = ["\n", "</think>", "\n\n"], ["The answer is 4.", " Question: 5", ""]
    tokens = [entry["token"] for entry in reply["logprobs"]]
    assert tokens == [*thought[:limit], *closing, *answer]
    assert [entry["logprob"] for entry in reply["logprobs"][limit : limit + 3]] == [0.0] * 3
    assert reply["usage"]["completion_tokens"] == limit + 6


def test_thoughts_and_answer_of_a_cut_thought_come_as_pieces(always: Line) -> None:
    pieces, _ = always.pieces(operation="chat", message="hi", stream=True, max_thinking_tokens=3, stop="Question:")
    assert "".join(piece.text for piece in pieces if piece.reasoning) == " hm Question: so\n"
    assert "".join(piece.text for piece in pieces if not piece.reasoning) == "The answer is 4. "


def test_a_prompt_that_ends_inside_a_think_block_is_split_though_thinking_was_not_asked_for(always: Line) -> None:
    for form in (
        {"operation": "chat", "message": "hi"},
        {"operation": "generate", "messages": HI},
        {"operation": "enhance", "messages": HI},
        {"operation": "generate", "prompt": "2 + 2 = ?\n<think>\n"},
        {"operation": "generate", "prompt": "<|im_start|>assistant\n<think>\nWell,\n", "special_tokens": True},
        {"operation": "chat", "messages": [*HI, {"role": "assistant", "content": "<think>\nWell,\n"}],
         "continue_final_message": True},
    ):  # fmt: skip
        reply = always.told(**form, max_thinking_tokens=3, max_tokens=40, stop_token_ids=[1839])
        text = next(reply[name] for name in ("response", "text", "enhanced_prompt") if name in reply)
        assert (reply["reasoning"], text) == (" hm Question: so\n", "The answer is 4. Question: 5")


def test_a_thought_that_never_ends_is_all_reasoning(always: Line) -> None:
    reply = always.told(operation="chat", message="hi", max_tokens=7)
    assert (reply["response"], reply["reasoning"]) == ("", " hm Question: so hm Question: so hm")
    assert (reply["finish_reason"], "reasoning_cut" in reply) == ("length", False)


def test_what_cannot_be_thought_is_text(never: Line) -> None:
    """The word of a caller who writes about tags begins no thought."""
    for content in ("What is <think>?", "<think>", "<think>\n", "<|im_start|>assistant\n<think>\n"):
        reply = never.told(operation="chat", message=content)
        assert ("reasoning" in reply, reply["response"]) == (False, "The answer is 4.")


def test_not_sent_true_and_false_are_told_apart_by_each_kind_of_template(
    choice: Line, always: Line, never: Line
) -> None:
    accepted = {
        "choice": (choice, [None, True, False], None),
        "always": (always, [None, True], False),
        "never": (never, [None, False], True),
    }
    for kind, (line, wishes, refused) in accepted.items():
        facts = line.told(operation="info", sections=["model", "worker"])
        assert facts["model"]["thinking"] == kind
        assert facts["worker"]["capabilities"]["thinking"] == (kind != "never")
        for form in ({"operation": "chat"}, {"operation": "generate"}, {"operation": "enhance"}):
            for wish in wishes:
                reply = line.told(**form, messages=HI, enable_thinking=wish, max_tokens=5)
                thinks = kind == "always" or (kind == "choice" and wish is True)
                assert ("reasoning" in reply) == thinks
            if refused is not None:
                failure = line.refused(**form, messages=HI, enable_thinking=refused)
                assert (failure.code, failure.field) == ("unsupported", "enable_thinking")


def test_false_closes_the_block_of_a_template_that_knows_how_and_not_sent_does_too(choice: Line) -> None:
    for wish in (None, False):
        rendered = choice.told(operation="chat", message="hi", enable_thinking=wish, dry_run=True)["rendered"]
        assert rendered.endswith("assistant\n<think>\n\n</think>\n\n")
    rendered = choice.told(operation="chat", message="hi", enable_thinking=True, dry_run=True)["rendered"]
    assert rendered.endswith("assistant\n")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"enable_thinking": True, "max_thinking_tokens": 10, "max_tokens": 13}, "13; send 9 at most"),
        ({"enable_thinking": True, "max_thinking_tokens": 1, "max_tokens": 3}, "3; send more max_tokens"),
        ({"enable_thinking": True, "max_thinking_tokens": 509}, "share max_tokens, "),
        ({"max_thinking_tokens": 10}, "not asked to think"),
        ({"enable_thinking": False, "max_thinking_tokens": 10}, "not asked to think"),
    ],
)
def test_a_limit_that_no_thought_can_have_is_refused_by_name(choice: Line, fields: dict[str, Any], told: str) -> None:
    for dry_run in (False, True):
        failure = choice.refused(operation="chat", message="hi", dry_run=dry_run, **fields)
        assert (failure.code, failure.field) == ("invalid_request", "max_thinking_tokens")
        assert told in failure.message


def test_a_template_that_refuses_not_to_think_always_thinks(tmp_path: Path) -> None:
    template = "{% if not enable_thinking %}{{ raise_exception('thinking only') }}{% endif %}" + TEMPLATES["always"]
    scripted.write(tmp_path / "c", ("\n", " hm", "</think>", *ANSWER), template=template)
    with started(tmp_path / "c") as line:
        assert line.told(operation="info", sections=["model"])["model"]["thinking"] == "always"
        assert line.told(operation="chat", message="hi")["reasoning"] == " hm"


def test_tags_that_a_tokenizer_calls_special_are_seen_all_the_same(tmp_path: Path) -> None:
    script = ("\n", "<think>", " hm", "</think>", *ANSWER)
    scripted.write(tmp_path / "c", script, template=TEMPLATES["choice"], special=("<think>", "</think>"))
    with started(tmp_path / "c") as line:
        reply = line.told(operation="chat", message="hi", enable_thinking=True)
        assert (reply["reasoning"], reply["response"]) == (" hm", "The answer is 4. Question: 5")


def test_the_demo_made_to_think_has_its_thought_closed_and_answers(tmp_path: Path) -> None:
    """Its tokenizer has no tokens for the tags: they are texts of several tokens."""
    scripted.altered(tmp_path / "c", template=TEMPLATES["always"], generation={"eos_token_id": 1837})
    with started(tmp_path / "c") as line:
        free = line.told(operation="chat", message="Who are you?", max_tokens=80, seed=3)
        cut = line.told(operation="chat", message="Who are you?", max_tokens=80, max_thinking_tokens=5, seed=3)
        assert "reasoning_cut" not in free
        assert (cut["reasoning_cut"], cut["reasoning"][:-1]) == (True, free["reasoning"][: len(cut["reasoning"]) - 1])
        prompt = line.told(operation="chat", message="Who are you?", dry_run=True)["rendered"]
        raw = {"operation": "generate", "prompt": f"{prompt}{cut['reasoning']}</think>\n\n", "special_tokens": True}
        assert line.told(**raw, max_tokens=66, stop_token_ids=[1839])["text"].lstrip("\n") == cut["response"]
