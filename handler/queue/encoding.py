"""JSON from and to the platform. A value that Python cannot parse or send breaks no other job than its own."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from pydantic import JsonValue

JsonObject = dict[str, JsonValue]
#: levels of nesting that are kept of a value with more than Python can parse
LEVELS = 100
#: digits of an integer that are read; no field needs more than 19, and Python refuses 4,300
DIGITS = 400
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]', re.DOTALL)


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
    """The value of a reply, which may hold jobs of several callers.

    A caller can send a value on which Python's parser fails, and with it the jobs of all others. Such a value is read
    as one that no field of a request accepts: a lone surrogate for bytes that are not UTF-8, NaN for the rest.

    Raises:
        ValueError: it is not JSON.
    """
    text = raw.decode("utf-8", "surrogateescape")
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError:
        return json.loads("".join(_pruned(text)), parse_int=_integer)


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= DIGITS else math.nan


def _pruned(text: str) -> Iterator[str]:
    """The text, with NaN in place of each value that is nested too deep."""
    depth = kept = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        match found[0]:
            case "[" | "{":
                depth += 1
                if depth == LEVELS + 1:
                    yield text[kept : found.start()] + "NaN"
            case "]" | "}":
                depth -= 1
                if depth == LEVELS:
                    kept = found.end()
    yield text[kept:]
