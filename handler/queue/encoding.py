"""The JSON that the platform sends and is sent: nothing in it may break more than the job that it belongs to."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from handler.errors import WorkerError

#: Levels of nesting that are kept where there are more than Python can parse
LEVELS = 100
#: Digits of an integer that are read; no field needs more than 19, and Python refuses 4,300
DIGITS = 400
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]', re.DOTALL)


class NotJson(Exception):
    """A message holds what JSON does not have: NaN, a lone surrogate, a type of Python's, or no end."""


def encode(message: dict[str, Any]) -> bytes:
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

    A caller can send what Python's parser gives up on, and would take the others down with it. Such a value is read as
    one that no field of a request lets in: a lone surrogate for bytes that are no text, NaN for the rest.

    Raises:
        ValueError: it is not JSON.
    """
    text = raw.decode("utf-8", "surrogateescape")
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError:
        return json.loads("".join(_pruned(text)), parse_int=_integer)


def failure(error: WorkerError) -> dict[str, Any]:
    """The message that marks a job FAILED; the platform keeps an error whole only as text."""
    return {"error": json.dumps(error.to_wire())}


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= DIGITS else math.nan


def _pruned(text: str) -> Iterator[str]:
    """The text with NaN for what is nested too deep."""
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
