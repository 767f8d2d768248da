"""JSON from and to the platform. A value that Python cannot parse or send breaks no other job than its own."""

import asyncio
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
#: bytes of a reply that are parsed at once, without a look at its values
SMALL_BYTES = 100_000
_MARK = re.compile(r'["\[\]{},]')
#: Without brackets and escapes. Possessive: a long text takes neither memory nor a second look.
_INSIDE = r'(?:[^"\[\]{}]++|"[^"\\]*+")'
#: A run of these, or of brackets around such a run; bounded, because a match keeps all other threads waiting.
_FLAT = re.compile(rf"(?:{_INSIDE}|\[{_INSIDE}{{0,4096}}+\]|\{{{_INSIDE}{{0,4096}}+\}}){{1,4096}}+")
_OPENING, _CLOSING = re.compile(r"[\[{]++"), re.compile(r"[\]}]++")


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


async def read(raw: bytes) -> Any:
    """`decode`, in a thread where that takes a while: other jobs go on."""
    return decode(raw) if len(raw) <= SMALL_BYTES else await asyncio.to_thread(decode, raw)


def decode(raw: bytes) -> Any:
    """The value of a reply, which may hold jobs of several callers.

    A caller can send a value on which Python's parser fails, and with it the jobs of all others, or one whose parsing
    keeps all other threads waiting. Such a value is read as one that no field of a request accepts: a lone surrogate
    for bytes that are not UTF-8, NaN for the rest.

    Raises:
        ValueError: it is not JSON.
    """
    text = raw.decode("utf-8", "surrogateescape")
    if len(raw) <= SMALL_BYTES:
        try:
            return json.loads(text, parse_int=_integer)
        except RecursionError:
            pass
    return _by_items("".join(_pruned(text)))


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= DIGITS else math.nan


_DECODER = json.JSONDecoder(parse_int=_integer)
_SPACE = re.compile(r"[ \t\n\r]*+")


def _by_items(text: str) -> Any:
    """The value of a text; of a list one item at a time, because the parser keeps all other threads waiting."""
    items: list[Any] = []
    start = _SPACE.match(text).end()  # type: ignore[union-attr]  # it matches everywhere
    if not text.startswith("[", start):
        return json.loads(text, parse_int=_integer)
    while True:
        start = _SPACE.match(text, start + 1).end()  # type: ignore[union-attr]
        if not items and text.startswith("]", start):
            break
        item, end = _DECODER.raw_decode(text, start)
        items.append(item)
        start = _SPACE.match(text, end).end()  # type: ignore[union-attr]
        if not text.startswith(",", start):
            break
    if text[start:].rstrip() != "]":
        raise json.JSONDecodeError("Expecting ',' or ']'", text, start)
    return items


def _pruned(text: str) -> Iterator[str]:
    """The text, with NaN in place of values that are nested too deep, or are too many in one field of a job."""
    closers: list[str] = []
    job = 2 if text.lstrip().startswith("[") else 1  # brackets around the fields of a job
    kept = position = marks = 0
    while found := _MARK.search(text, position):
        position, mark = found.end(), found[0]
        depth = len(closers)
        if mark == '"':
            position = _end_of_string(text, position)
        elif mark in "[{":
            marks += 1
            if depth == LEVELS or (depth > job and marks > MARKS):
                yield text[kept : found.start()] + "NaN"
                position = kept = _end_of(text, position, 1)
            else:
                closers.append("]" if mark == "[" else "}")
        elif mark in "]}":
            del closers[-1:]
            if depth - 1 <= job:
                marks = 0
        elif depth > job:  # a comma
            marks += 1
            if marks > MARKS:
                # The rest of one field of `input`; where `input` itself has too many, the rest of all.
                outer = job + 1 if depth > job + 1 else job
                nan = ',"":NaN' if closers[-1] == "}" else ",NaN"
                yield text[kept : found.start()] + nan + "".join(reversed(closers[outer:]))
                position = kept = _end_of(text, position, depth - outer)
                del closers[outer:]
                if outer == job:
                    marks = 0
    yield text[kept:]


def _end_of(text: str, position: int, levels: int) -> int:
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


def _end_of_string(text: str, position: int) -> int:
    """Where the string ends that `position` is in; the end of the text where it does not."""
    while (quote := text.find('"', position)) >= 0:
        before = quote
        while before > position and text[before - 1] == "\\":
            before -= 1
        position = quote + 1
        if (quote - before) % 2 == 0:
            return position
    return len(text)
