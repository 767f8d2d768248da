"""Failures as HTTP answers: the status of each code, and the body that native callers read."""

import math
import re

from pydantic import JsonValue

from handler.api.failure import Failure

#: by code; of a request: what is wrong with it, or what the worker could not do
STATUS: dict[str, int] = {
    "invalid_request": 400,
    "context_length_exceeded": 400,
    "unsupported": 400,
    "no_pack": 400,
    "unauthorized": 401,
    "model_not_found": 404,
    "unknown_url": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "request_too_large": 413,
    "unsupported_encoding": 415,
    "internal": 500,
    "bad_answer": 502,
    "overloaded": 503,
    "out_of_memory": 503,
    "engine_failed": 503,
    "deadline_exceeded": 504,
}


_SURROGATE = re.compile("[\ud800-\udfff]")


class Refused(Exception):
    """A request that HTTP itself is refused for: no operation has seen it."""

    def __init__(self, code: str, message: str, *, retryable: bool = False, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.failure = Failure(code=code, message=message, retryable=retryable)
        self.headers = headers or {}


def status_of(failure: Failure) -> int:
    """The HTTP status."""
    return STATUS[failure.code]


def headers_of(failure: Failure) -> dict[str, str]:
    """The headers that say when to try again, or not to."""
    headers = {}
    if failure.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(failure.retry_after_s)))
    if failure.code == "internal":
        headers["x-should-retry"] = "false"  # OpenAI's clients obey it
    return headers


def body_of(failure: Failure, original: str | None = None) -> dict[str, JsonValue]:
    """The body; `original` is the prompt that an enhancement was asked for, which is given back."""
    wire = sendable(failure).to_wire()
    body = {"success": False, "error": wire.pop("message"), **wire}
    return body if original is None else {**body, "enhanced_prompt": _characters(original)}


def sendable(failure: Failure) -> Failure:
    """The failure without what is no character: the name of an unknown field may hold lone surrogates."""
    field = None if failure.field is None else _characters(failure.field)
    return failure.model_copy(update={"message": _characters(failure.message), "field": field})


def _characters(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)


def original_prompt(body: object) -> str | None:
    """The prompt that the body of an enhance wants to have rewritten; None where it has none."""
    if not isinstance(body, dict):
        return None
    for name in ("prompt", "original_prompt"):
        if isinstance(body.get(name), str):
            return str(body[name])
    messages = body.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user" and isinstance(message.get("content"), str):
            return str(message["content"])
    return None
