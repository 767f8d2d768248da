"""Which tokens end an answer, and where a checkpoint says so."""

from pathlib import Path
from typing import Any

import pytest

from handler.engine.protocol import EndToken
from handler.errors import StartError
from handler.model import weights
from handler.model.snapshot import find
from handler.model.weights import Loaded
from tests.support import scripted
from tests.support.scripted import ARCHITECTURES, CHATML

SCRIPT = ("\n", "Yes", "<|eot|>", "</s>")
ENDOFTEXT, IM_END = 1837, 1839
TURN = "'<|im_end|>' + '\\n' }}"
#: ends a turn of the assistant with a text, and those of others as ever
OF_TEXT = CHATML.replace(TURN, "('</ s>' if message.role == 'assistant' else '<|im_end|>') + '\\n' }}")


def load(path: Path) -> Loaded:
    return weights.load(find(str(path), name=None, revision=None, on_runpod=False), device="cpu")


@pytest.mark.parametrize(
    ("turn", "end"),
    [
        (TURN, "<|im_end|>"),
        ("('' if loop.last else '<|im_end|>\\n') }}", "<|im_end|>"),
        ("'<|im_end|><|endoftext|>' + '\\n' }}", "<|im_end|>"),
        ("'\\n<|im_end|>' + '\\n' }}", "<|im_end|>"),
        ("'<|im_end|>' }}", "<|im_end|>"),
        ("'<|im_end|>' + ' // ' }}", "<|im_end|>"),
        ("'</s> <|im_end|>' + '\\n\\n' }}", "</s>"),
        ("'<|im_end|>\\n' + ('<|endoftext|>' if loop.last else '') }}", "<|im_end|>"),
        ("('<|eot|>' if message.role == 'assistant' else '<|im_end|>') + '\\n' }}", "<|eot|>"),
        ("(raise_exception('no') if message.role == 'assistant' else '<|im_end|>') + '\\n' }}", "<|im_end|>"),
        ("(1 // 0 if message.role == 'assistant' else '<|im_end|>') ~ '\\n' }}", "<|im_end|>"),
    ],
)
@pytest.mark.parametrize("special", [(), ("<|eot|>", "</s>")], ids=["tokens of text", "special tokens"])
def test_the_end_of_a_turn_is_read_from_templates_of_any_form(
    tmp_path: Path, turn: str, end: str, special: tuple[str, ...]
) -> None:
    scripted.write(tmp_path / "c", SCRIPT, template=CHATML.replace(TURN, turn), special=special)
    _, template, info = load(tmp_path / "c")
    assert template.end_id is not None
    assert info.end_tokens == (EndToken(template.end_id, end, ("chat_template",)),)
    assert info.stop_token_ids == ()


def test_every_file_that_names_a_token_is_told_and_a_token_outside_the_vocabulary_only_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generation = {"eos_token_id": [7, ENDOFTEXT, 99_999, 7]}
    scripted.write(tmp_path / "c", SCRIPT, config={"eos_token_id": [ENDOFTEXT, IM_END]}, generation=generation)
    info = load(tmp_path / "c").info
    assert [(end.token_id, end.sources) for end in info.end_tokens] == [
        (IM_END, ("chat_template", "config")),
        (7, ("generation_config",)),
        (ENDOFTEXT, ("generation_config", "config")),
    ]
    assert info.stop_token_ids == (IM_END, 7, ENDOFTEXT)
    assert "generation_config.json: eos_token_id 99999 is outside [0, 2048), and left out" in capsys.readouterr().err


def test_a_turn_that_ends_with_a_text_is_ended_by_the_configurations_and_the_log_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.write(tmp_path / "c", SCRIPT, template=OF_TEXT, generation={"eos_token_id": ENDOFTEXT})
    _, template, info = load(tmp_path / "c")
    assert (template.end_id, info.stop_token_ids) == (None, (ENDOFTEXT,))
    assert "writes no control token after the assistant's turn" in capsys.readouterr().err


@pytest.mark.parametrize("generation", [None, {"eos_token_id": None}, {"eos_token_id": []}, {"eos_token_id": -1}])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_in_which_nothing_ends_an_answer_stops_the_start(
    tmp_path: Path, architecture: str, generation: dict[str, Any] | None
) -> None:
    scripted.write(tmp_path / "c", SCRIPT, architecture=architecture, template=OF_TEXT, generation=generation)
    with pytest.raises(StartError, match=r"no token ends an answer.*set eos_token_id in generation_config\.json"):
        load(tmp_path / "c")


def test_more_end_tokens_than_any_model_has_stop_the_start(tmp_path: Path) -> None:
    scripted.altered(tmp_path / "c", generation={"eos_token_id": list(range(100))})
    with pytest.raises(StartError, match="names 101 tokens, and 64 is the most"):
        load(tmp_path / "c")
