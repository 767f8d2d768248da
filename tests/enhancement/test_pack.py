"""Packs: what is wrong in one is told with file and field; what is put into a prompt is never read again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.api.enhance import MAX_PROMPT
from handler.enhancement.pack import PackMessage, fill
from handler.enhancement.packs import Loaded, load
from handler.errors import InvalidRequest, StartError
from tests.support.enhancing import PACK, pack_json, packs

JOB_TYPES = {
    "sdxl_image_fast": 75,
    "sdxl_image_high": 120,
    "video_fast": 175,
    "video_high": 250,
    "wan_7b_enhanced": 250,
    "wan_video_fast": 175,
    "wan_video_high": 250,
    "universal": 75,
}


def test_the_default_pack_has_every_job_type_with_its_budget() -> None:
    (default,) = packs().loaded
    assert {name: entry.budget.max_tokens for name, entry in default.pack.entries.items()} == JOB_TYPES
    assert default.pack.entries["sdxl_image_high"].budget.min_tokens == 100
    assert set(default.pack.targets) == {"sdxl", "wan", "universal"}


def test_the_default_pack_drops_style_first_and_quality_tags_last() -> None:
    order = packs().loaded[0].pack.rules["image"].drop_order
    named = [kind for kind in order if kind in {"quality", "subject", "lighting", "technical", "style"}]
    assert named == ["quality", "subject", "lighting", "technical", "style"]


def test_the_default_packs_list_of_anatomy_has_no_say_in_trimming_and_scoring() -> None:
    pack = packs().loaded[0].pack
    assert pack.words.lexicon.anatomy
    assert not [rules for rules in pack.rules.values() if "anatomy" in (*rules.drop_order, *rules.coverage)]


def test_the_hash_is_of_the_content_and_not_of_the_layout() -> None:
    value = pack_json()
    turned = dict(reversed(value.items()))
    assert Loaded.of(value).sha256 == Loaded.of(turned).sha256
    value["version"] = "1.0.1"
    assert Loaded.of(value).sha256 != Loaded.of(turned).sha256


def change(path: str, new: object) -> Callable[[dict[str, Any]], None]:
    def apply(value: dict[str, Any]) -> None:
        *steps, last = path.split(".")
        place: Any = value
        for step in steps:
            place = place[step]
        place[last] = new

    return apply


@pytest.mark.parametrize(
    ("path", "new", "field"),
    [
        ("surprise", 1, "pack.surprise"),
        ("schema", "enhance-pack/1", "pack.schema"),
        ("entries.universal.surprise", 1, "pack.entries.universal.surprise"),
        ("entries.universal.encoder", "bert", "pack.entries.universal.encoder"),
        ("entries.universal.budget.max_tokens", 0, "pack.entries.universal.budget.max_tokens"),
        ("entries.universal.sampling", {"max_tokens": 5}, "pack.entries.universal.sampling.temperature"),
        ("entries.universal.messages", [{"role": "user", "content": "x"}], "pack.entries.universal"),
        ("entries.universal.messages", [{"role": "assistant", "content": "{{prompt}}"}], "pack.entries.universal"),
        (
            "entries.universal.messages",
            [{"role": "system", "content": "In {{langauge}}."}, {"role": "user", "content": "{{prompt}}"}],
            "pack.entries.universal",
        ),
        ("entries.universal.extend_messages", [{"role": "user", "content": "x"}], "pack.entries.universal"),
        ("entries.universal.extend_messages", [], "pack.entries.universal.extend_messages"),
        ("entries.universal.mode", "append", "pack.entries.universal.mode"),
        ("rules.image.retry_on", ["refusal"], "pack.rules.image.retry_on"),
        ("entries.universal.budget", {"min_tokens": 90, "max_tokens": 75}, "pack.entries.universal.budget"),
        ("entries.universal.rules", "none", "pack"),
        ("entries.universal.language", "tlh", "pack.entries.universal.language"),
        ("targets.sdxl.fast", "none", "pack"),
        ("rules.image.drop_order", ["quality"], "pack.rules.image"),
        ("rules.image.drop_order", ["subject", "subject"], "pack.rules.image"),
        ("rules.image.lexicon", {}, "pack.rules.image.lexicon"),
        ("words.lexicon.smell", [], "pack.words.lexicon.smell"),
        ("rules.image.score.length", -1, "pack.rules.image.score.length"),
        ("entries", {}, "pack.entries"),
    ],
)
def test_what_is_wrong_in_a_pack_is_told_by_its_path(path: str, new: object, field: str) -> None:
    value = pack_json()
    change(path, new)(value)
    with pytest.raises(InvalidRequest) as caught:
        Loaded.of(value)
    assert caught.value.field == field


def test_a_bad_pack_stops_the_start_with_file_and_field(tmp_path: Path) -> None:
    value = pack_json()
    value["entries"]["universal"]["surprise"] = 1
    (tmp_path / "mine.json").write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(StartError, match=r"mine\.json: pack\.entries\.universal\.surprise"):
        load(tmp_path)
    (tmp_path / "mine.json").write_text("{", encoding="utf-8")
    with pytest.raises(StartError, match=r"mine\.json is not readable JSON"):
        load(tmp_path)
    (tmp_path / "mine.json").write_text('{"id": "a", "version": "1", "id": "b"}', encoding="utf-8")
    with pytest.raises(StartError, match=r"mine\.json is not readable JSON: the key 'id' is in one object twice"):
        load(tmp_path)
    with pytest.raises(StartError, match=r"the directory of packs .* does not exist: set PACKS_DIR"):
        load(tmp_path / "nowhere")


def test_two_packs_must_not_have_the_same_entry(tmp_path: Path) -> None:
    value = pack_json()
    for name in ("a", "b"):
        value["id"] = name
        (tmp_path / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(StartError, match=r"entry .* is in a\.json and in b\.json"):
        load(tmp_path)


def test_an_empty_directory_is_a_worker_without_packs(tmp_path: Path) -> None:
    assert load(tmp_path).loaded == ()


@given(st.text(), st.text())
def test_what_is_put_in_is_never_read_again(prompt: str, words: str) -> None:
    message = PackMessage.model_construct(role="user", content="<{{prompt}}|{{words}}|{{other}}>")
    (filled,) = fill([message], {"prompt": prompt, "words": words})
    assert filled.content == f"<{prompt}|{words}|{{{{other}}}}>"


def test_a_prompt_as_long_as_they_come_fits_a_message_with_words_around_it() -> None:
    (filled,) = fill([PackMessage(role="user", content="Rewrite: {{prompt}}")], {"prompt": "x" * MAX_PROMPT})
    assert len(filled.content) == len("Rewrite: ") + MAX_PROMPT


def test_a_pack_that_repeats_the_prompt_beyond_all_bounds_is_refused_before_it_is_filled() -> None:
    messages = [PackMessage(role="user", content="{{prompt}}" * 2000)] * 2
    with pytest.raises(InvalidRequest, match=r"have 80000000 characters .* may have 200000") as caught:
        fill(messages, {"prompt": "x" * MAX_PROMPT})
    assert caught.value.field == "prompt"
    assert len(fill([PackMessage(role="user", content="{{prompt}}" * 9)], {"prompt": "x" * MAX_PROMPT})) == 1


def test_a_pack_that_memory_cannot_hold_stops_the_start_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise MemoryError

    (tmp_path / "mine.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(json, "loads", too_large)
    with pytest.raises(StartError, match=r"mine\.json is not readable JSON"):
        load(tmp_path)


def test_no_prompt_stands_in_the_code() -> None:
    contents = [
        one["content"]
        for entry in pack_json()["entries"].values()
        for name in ("messages", "extend_messages")
        for one in entry[name]
    ]
    sentences = {sentence for content in contents for sentence in content.split(". ") if len(sentence) > 20}
    code = "".join(path.read_text(encoding="utf-8") for path in (PACK.parents[1] / "handler").rglob("*.py"))
    assert len(sentences) > 5
    assert not [sentence for sentence in sentences if sentence in code]
