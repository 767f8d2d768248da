"""JSON from and to the platform. A value that Python cannot parse or send breaks no other job than its own."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from pydantic import JsonValue

from handler.api.size import MAX_VALUES

JsonObject = dict[str, JsonValue]
#: levels of nesting that are kept of a value with more than Python can parse
LEVELS = 100
#: digits of an integer that are read; no field needs more than 19, and Python refuses 4,300
DIGITS = 400
#: commas and brackets of a job's field that are kept; a request that the door lets in has no more
MARKS = 2 * MAX_VALUES + 1
#: bytes of a job or a reply that are parsed at once, without a look at its values
SMALL_BYTES = 100_000
_MARK = re.compile(rb'["\[\]{},]')
#: Without brackets. Possessive: a long text takes neither memory nor a second look.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.){0,4096}+"', re.DOTALL)
_INSIDE = rb'(?:[^"\[\]{}]++|%b)' % _STRING.pattern
#: A run of these, or of brackets around such a run; bounded, because a match keeps all other threads waiting.
_FLAT = re.compile(rb"(?:%b|\[%b{0,4096}+\]|\{%b{0,4096}+\}){1,4096}+" % (_INSIDE, _INSIDE, _INSIDE), re.DOTALL)
_OPENING, _CLOSING = re.compile(rb"[\[{]++"), re.compile(rb"[\]}]++")
#: Escapes and what they escape, and text between; bounded as above.
_ESCAPED = re.compile(rb'(?:[^"\\]*+\\.){1,4096}+', re.DOTALL)
_SPACE = re.compile(rb"[ \t\n\r]*+")
#: a number, or true, false or null
_PLAIN = re.compile(rb'[^ \t\n\r,:"\[\]{}]++')


class NotJson(Exception):
    """A message holds a value that JSON cannot express: NaN, a lone surrogate, a Python object, a cycle."""


def encode(message: JsonObject) -> bytes:
    """The bytes of a message.

    Raises:
        NotJson: it cannot be sent.
    """
    try:
        return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise NotJson(type(error).__name__) from None


def decode(raw: bytes) -> Any:
    """The value of a job or of a reply.

    A caller can send a value on which Python's parser fails, or one whose parsing keeps all other threads waiting. Such
    a value is read as one that no field of a request accepts: a lone surrogate for bytes that are not UTF-8, NaN for
    the rest.

    Raises:
        ValueError: it is not JSON.
    """
    if len(raw) <= SMALL_BYTES:
        try:
            return _loads(raw)
        except RecursionError:
            pass
    return _loads(b"".join(_pruned(raw)))


def items(raw: bytes) -> Iterator[tuple[bytes, str | None]]:
    """Each item of a list as it stands, with its `id` where it is an object that has one; no item is decoded.

    A value that is no list is the one item.

    Raises:
        ValueError: it is not JSON, as far as that shows without decoding the items.
    """
    start = _space(raw, 0)
    if not raw.startswith(b"[", start):
        end, id_ = _end_of_value(raw, start)
        if _space(raw, end) < len(raw):
            raise _unexpected(raw, end)
        yield raw[start:end], id_
        return
    start = _space(raw, start + 1)
    more = not raw.startswith(b"]", start)
    while more:
        end, id_ = _end_of_value(raw, start)
        behind = _space(raw, end)
        more = raw.startswith(b",", behind)
        if not more and not raw.startswith(b"]", behind):
            raise _unexpected(raw, behind)
        yield raw[start:end], id_
        start = _space(raw, behind + 1) if more else behind
    if _space(raw, start + 1) < len(raw):
        raise _unexpected(raw, start + 1)


def _loads(raw: bytes) -> Any:
    return json.loads(raw.decode("utf-8", "surrogateescape"), parse_int=_integer)


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= DIGITS else math.nan


def _space(raw: bytes, position: int) -> int:
    """Where the white space at a position ends."""
    return _SPACE.match(raw, position).end()  # type: ignore[union-attr]  # it matches everywhere


def _unexpected(raw: bytes, position: int) -> ValueError:
    return ValueError(f"not JSON: char {position} of {len(raw)}")


def _end_of_value(raw: bytes, start: int) -> tuple[int, str | None]:
    """Where the value at `start` ends, and its `id` where it is an object that has one."""
    if not raw.startswith(b"{", start):
        return _end_of_other(raw, start), None
    id_: str | None = None
    position = _space(raw, start + 1)
    if raw.startswith(b"}", position):
        return position + 1, None
    while True:
        if not raw.startswith(b'"', position):
            raise _unexpected(raw, position)
        name_ends = _end_of_string(raw, position + 1)
        colon = _space(raw, name_ends)
        if not raw.startswith(b":", colon):
            raise _unexpected(raw, colon)
        value = _space(raw, colon + 1)
        end = _end_of_other(raw, value)
        if raw[position:name_ends] == b'"id"' and raw.startswith(b'"', value):
            id_ = _loads(raw[value:end])
        behind = _space(raw, end)
        if raw.startswith(b"}", behind):
            return behind + 1, id_
        if not raw.startswith(b",", behind):
            raise _unexpected(raw, behind)
        position = _space(raw, behind + 1)


def _end_of_other(raw: bytes, start: int) -> int:
    """Where a value ends; the end of all where it is not closed."""
    if raw.startswith((b"[", b"{"), start):
        return _end_of(raw, start + 1, 1)
    if raw.startswith(b'"', start):
        return _end_of_string(raw, start + 1)
    if plain := _PLAIN.match(raw, start):
        return plain.end()
    raise _unexpected(raw, start)


def _pruned(text: bytes) -> Iterator[bytes]:
    """The text, with NaN in place of values that are nested too deep, or are too many in one field of a job."""
    closers: list[bytes] = []
    job = 2 if text.startswith(b"[", _space(text, 0)) else 1  # brackets around the fields of a job
    kept = position = marks = slowly = 0
    while found := _MARK.search(text, position):
        depth = len(closers)
        if position >= slowly and job < depth < LEVELS and (run := _FLAT.match(text, position)):
            outside = _STRING.sub(b"", run[0])
            within = sum(map(outside.count, (b",", b"[", b"{")))
            if marks + within <= MARKS:
                position, marks = run.end(), marks + within
                continue
            slowly = run.end()
        position, mark = found.end(), found[0]
        if mark == b'"':
            position = _end_of_string(text, position)
        elif mark in b"[{":
            marks += 1
            if depth == LEVELS or (depth > job and marks > MARKS):
                yield text[kept : found.start()] + b"NaN"
                position = kept = _end_of(text, position, 1)
            else:
                closers.append(b"]" if mark == b"[" else b"}")
        elif mark in b"]}":
            del closers[-1:]
            if depth - 1 <= job:
                marks = 0
        elif depth > job:  # a comma
            marks += 1
            if marks > MARKS:
                # The rest of one field of `input`; where `input` itself has too many, the rest of all.
                outer = job + 1 if depth > job + 1 else job
                nan = b',"":NaN' if closers[-1] == b"}" else b",NaN"
                yield text[kept : found.start()] + nan + b"".join(reversed(closers[outer:]))
                position = kept = _end_of(text, position, depth - outer)
                del closers[outer:]
                if outer == job:
                    marks = 0
    yield text[kept:]


def _end_of(text: bytes, position: int, levels: int) -> int:
    """Where so many open brackets are closed; the end of the text where they are not. `position` is in no string."""
    while levels and position < len(text):
        if run := _FLAT.match(text, position):
            position = run.end()
        elif run := _OPENING.match(text, position):
            position, levels = run.end(), levels + len(run[0])
        elif run := _CLOSING.match(text, position):
            closed = min(levels, len(run[0]))
            position, levels = position + closed, levels - closed
        else:
            position = _end_of_string(text, position + 1)
    return position


def _end_of_string(text: bytes, position: int) -> int:
    """Where the string ends that `position` is in; the end of the text where it does not."""
    while run := _ESCAPED.match(text, position):
        position = run.end()
    quote = text.find(b'"', position)
    return len(text) if quote < 0 else quote + 1
