"""Encoders: the same counts as the models' own tokenizers, and a name on every stand-in."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from handler.enhancement.encoder import load
from handler.errors import StartError
from tests.support.enhancing import DATA, TEXTS, genuine_encoders, needs_data


def words(text: str) -> int:
    return len(text.split())


@pytest.fixture(scope="module")
def clip() -> Any:
    return CLIPTokenizer.from_pretrained(DATA / "clip-vit-l-14")


@needs_data
@given(text=st.one_of(TEXTS, st.text(max_size=80)))
def test_clip_counts_as_transformers_does_and_control_tokens_as_more(clip: Any, text: str) -> None:
    theirs = len(clip(text, add_special_tokens=False)["input_ids"])
    ours = genuine_encoders()["clip"].count(text)
    assert ours == theirs or (ours > theirs and "<|" in text)


@needs_data
def test_clip_counts_what_openai_published() -> None:
    count = genuine_encoders()["clip"].count
    assert [count(text) for text in ("a photo of a cat", "", "(masterpiece:1.2), best quality")] == [5, 0, 9]


@needs_data
def test_an_encoders_own_tokenizer_is_used_and_named(tmp_path: Path) -> None:
    for name, folder in (("clip", "clip-vit-l-14"), ("t5", "t5-v1_1")):
        (tmp_path / name).symlink_to(DATA / folder)
    encoders = load(tmp_path, "qwen", words)
    told = {name: encoder.measured_with for name, encoder in encoders.items()}
    assert told == {"clip": "clip", "umt5": "t5-v1_1 (proxy)", "t5": "t5-v1_1", "qwen": "qwen"}
    assert encoders["umt5"].count("a photo of a cat") == encoders["t5"].count("a photo of a cat") == 7
    assert [encoders["clip"].windows(count) for count in (0, 75, 76, 150, 151)] == [1, 1, 2, 2, 3]
    assert encoders["qwen"].windows(10**6) == 1
    (tmp_path / "umt5").mkdir()
    shutil.copy(DATA / "t5-v1_1" / "tokenizer.json", tmp_path / "umt5")
    assert load(tmp_path, "qwen", words)["umt5"].measured_with == "umt5"


def test_without_files_counts_are_estimates_on_the_safe_side(tmp_path: Path) -> None:
    encoders = load(tmp_path, "qwen", words)
    assert encoders["clip"].measured_with == encoders["umt5"].measured_with == "qwen x1.35 (estimate)"
    assert encoders["clip"].count("one two three four") == 6
    assert encoders["qwen"].count("one two three four") == 4


#: an added token on which the normaliser's pattern gives up: the library panics, which is no Exception
PANIC = {
    "version": "1.0",
    "added_tokens": [
        {"id": 0, "content": "a" * 40 + "b", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True,
         "special": False}
    ],
    "normalizer": {"type": "Replace", "pattern": {"Regex": "(a|aa)+$"}, "content": "a"},
    "model": {"type": "BPE", "vocab": {"a": 1}, "merges": []},
}  # fmt: skip


@pytest.mark.parametrize("content", [None, "{", '{"model": {}}', json.dumps(PANIC)])
def test_a_folder_that_cannot_be_read_stops_the_start(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "clip").mkdir()
    if content is not None:
        (tmp_path / "clip" / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(StartError, match="ENCODERS_DIR: clip"):
        load(tmp_path, "qwen", words)
