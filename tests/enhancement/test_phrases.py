"""Phrases are found as a regular expression would find them, without one; regions as a loop over all would."""

import gc
import re
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.enhancement import brief as briefs
from handler.enhancement.pack import Lexicon
from handler.enhancement.phrases import Phrases, folded
from handler.enhancement.regions import Regions
from handler.errors import InvalidRequest
from handler.operations.operations import Operations
from tests.support.enhancing import a_brief, pack_json
from tests.support.rewriting import PROMPT, Line, run, wide

TEXTS = st.text("aAbB1_-'. \nß\u017f\u4e00", max_size=30)
LISTS = st.lists(st.text("aAb1-' \u4e00", min_size=1, max_size=4), max_size=8)


#: a character of a word; a character of Chinese is a word of its own
IN_WORD = r"[^\W\u4e00]"


def pattern_of(phrases: Iterable[str]) -> re.Pattern[str]:
    """The longest phrase first; none begins or ends inside of a word."""
    listed = sorted(phrases, key=len, reverse=True)
    whole = rf"(?<!{IN_WORD})(?:{'|'.join(map(re.escape, listed))})(?!(?<={IN_WORD}){IN_WORD})"
    return re.compile(whole if listed else r"(?!)", re.I)


@given(TEXTS, LISTS)
def test_phrases_are_found_as_by_a_pattern(text: str, phrases: list[str]) -> None:
    found, pattern = Phrases(phrases), pattern_of(phrases)
    assert list(found.find(text)) == [match.span() for match in pattern.finditer(text)]
    assert found.are_in(text) == bool(pattern.search(text))
    beginning = pattern.match(text)
    assert found.beginning(text) == (beginning and beginning.group())


@given(TEXTS, LISTS)
def test_every_phrase_of_a_place_is_found(text: str, phrases: list[str]) -> None:
    each = {
        (start, end)
        for phrase in phrases
        for start in range(len(text))
        if (match := pattern_of([phrase]).match(text, start)) and (end := match.end())
    }
    found = Phrases(phrases)
    assert {(start, end) for start, ends in found.places(text) for end in ends} == each


@given(st.text())
def test_folding_keeps_every_character_in_its_place(text: str) -> None:
    assert len(folded(text)) == len(text)


REGION = st.tuples(st.integers(0, 20), st.integers(1, 8)).map(lambda given: (given[0], sum(given)))


@given(st.lists(REGION, max_size=8), REGION)
def test_regions_are_found_as_by_a_loop(regions: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    start, end = asked
    found = Regions(regions)
    assert found.contain(start) == any(low <= start < high for low, high in regions)
    assert found.overlap(asked) == any(low < end and start < high for low, high in regions)
    assert found.join(start, end) == any(low < start and end < high for low, high in regions)


def test_a_copy_of_a_list_with_other_phrases_finds_those() -> None:
    lexicon = Lexicon(style=("oil painting",))
    assert lexicon.words("style").are_in("an oil painting")
    other = lexicon.model_copy(update={"style": ("ink",)})
    assert not other.words("style").are_in("an oil painting")
    assert lexicon.words("style").are_in("an oil painting")


def with_phrases(bytes_: int) -> dict[str, Any]:
    """The default pack with word lists of so many bytes in all."""
    pack = pack_json()
    for entry in pack["entries"].values():
        entry["compose"] = []
    left = bytes_ - a_size(pack)
    pack["words"]["closings"] += ["é" * 50] * (left // 100) + ["x" * (left % 100)]
    return pack


def a_size(pack: dict[str, Any]) -> int:
    found = a_brief("a", pack=pack).found
    assert found is not None
    return found.loaded.pack.phrase_bytes


def test_a_requests_own_pack_has_a_limited_number_of_bytes_of_phrases() -> None:
    assert a_size(with_phrases(briefs.MAX_PHRASE_BYTES)) == briefs.MAX_PHRASE_BYTES
    with pytest.raises(InvalidRequest, match="its phrases take 24577 bytes") as refused:
        a_brief("a", pack=with_phrases(briefs.MAX_PHRASE_BYTES + 1))
    assert refused.value.field == "pack"


def test_nothing_of_a_requests_own_pack_stays(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[object]] = []
    build: Callable[..., None] = Phrases.__init__

    def remember(self: Phrases, phrases: Iterable[str]) -> None:
        build(self, phrases)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Phrases, "__init__", remember)
    operations: Operations = line(wide())
    run(operations, prompt=PROMPT, job_type="sdxl_image_fast", pack=pack_json(), seed=1)
    gc.collect()
    assert len(made) > 5
    assert [one() for one in made if one() is not None] == []
