"""What the platform sends: large or small it is read as it stands, and a value that is too much spoils no other job."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler.api.parse import parse
from handler.errors import InvalidRequest
from handler.queue import encoding
from handler.queue.encoding import decode
from tests.support.taking import taken

MONKEY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text('a"\\[]{},\n é', max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=30,
)
SOUND = {"id": "b", "input": {"text": ']}[{"\\', "n": [1, -2.5, [[]]]}}


@MONKEY
@given(JSON, st.sampled_from([None, 1]), st.booleans())
def test_a_large_reply_is_read_as_a_small_one_is(
    monkeypatch: pytest.MonkeyPatch, value: Any, indent: int | None, escaped: bool
) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=escaped).encode()
    monkeypatch.setattr(encoding, "SMALL_BYTES", 0)
    assert decode(raw) == json.loads(raw)


def values(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return len(inner) + sum(map(values, inner))


@MONKEY
@given(st.dictionaries(TEXT, JSON, max_size=6), st.booleans())
def test_a_job_with_too_many_values_gets_nan_in_their_place_and_its_neighbours_are_whole(
    monkeypatch: pytest.MonkeyPatch, given_: dict[str, Any], after: bool
) -> None:
    monkeypatch.setattr(encoding, "SMALL_BYTES", 0)
    monkeypatch.setattr(encoding, "MARKS", 2 * 10 + 1)
    hostile = {"id": "a", "input": given_, "webhook": 1}
    jobs = decode(json.dumps([hostile, SOUND] if after else [SOUND, hostile]).encode())
    read_hostile, sound = jobs if after else reversed(jobs)
    assert sound == SOUND
    assert (read_hostile["id"], read_hostile["webhook"]) == ("a", 1)
    if values(given_) <= 10:
        assert read_hostile == hostile
    elif read_hostile != hostile:
        assert "NaN" in json.dumps(read_hostile["input"])
    assert values(read_hostile["input"]) <= 2 * 21 + 2


@pytest.mark.parametrize(
    "many",
    [b"[" + b"1," * 300_000 + b"1]", b"[" + b"[]," * 300_000 + b"1]", b"{" + b'"":1,' * 300_000 + b'"":1}',
     b"[" + b"{}," * 300_000 + b'"]}\\""]', b"[" + b'"]\\"[",' * 300_000 + b"1]",
     b"[" + b"[[[[]]]]," * 300_000 + b"1]"],
    ids=["numbers", "lists", "one key", "objects", "texts", "nested"],
)  # fmt: skip
def test_a_field_with_far_too_many_values_is_refused_by_its_name_and_costs_its_own_job_alone(many: bytes) -> None:
    raw = b'[{"input":{"context":%s,"seed":7},"id":"a"},%s]' % (many, json.dumps(SOUND).encode())
    hostile, sound = asyncio.run(taken(raw))
    assert sound == SOUND
    assert hostile["id"] == "a"
    assert values(hostile) < 300_000
    with pytest.raises(InvalidRequest) as caught:
        parse({"operation": "enhance", "prompt": "a", "system_prompt": "b", **hostile["input"]})
    assert caught.value.field == "context"


@pytest.mark.parametrize("raw", [b"", b"[", b"[]]", b"[1,]", b"[1 2]", b'["', b'[{"a":"\\"', b"[" * 200_000, b"<html>"])
def test_what_is_no_json_is_refused_however_large(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(encoding, "SMALL_BYTES", -1)
    with pytest.raises(ValueError, match="char"):
        decode(raw)
