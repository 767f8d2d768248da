"""Failures in OpenAI's shape: the body, the HTTP status and the headers that its clients act on."""

from pydantic import JsonValue

from handler.api.failure import Failure
from handler.errors import InvalidRequest

#: The statuses of our codes. OpenAI's clients send 408, 409, 429 and everything from 500 on again, and nothing else.
STATUS = {
    "invalid_request": 400,
    "context_length_exceeded": 400,
    "unsupported": 400,
    "model_not_found": 404,
    "unknown_url": 404,
    "request_too_large": 413,
    "overloaded": 503,
    "out_of_memory": 503,
    "engine_failed": 503,
    "deadline_exceeded": 504,
    "internal": 500,
}


class ModelNotFound(InvalidRequest):
    """The request names a model that this worker does not serve."""

    code = "model_not_found"


class UnknownUrl(InvalidRequest):
    """There is no such route."""

    code = "unknown_url"


class RequestTooLarge(InvalidRequest):
    """The body is larger than the worker reads."""

    code = "request_too_large"


def body(failure: Failure) -> tuple[int, dict[str, JsonValue]]:
    """The HTTP status of a failure, and the object that says why."""
    status = STATUS.get(failure.code, 500)
    error: dict[str, JsonValue] = {
        "message": failure.message,
        # Clients choose their exception by this word, some before they look at the status: the two must agree.
        "type": "invalid_request_error" if status < 500 else "server_error",
        "param": failure.field,
        "code": failure.code,
    }
    if failure.retry_after_s is not None:
        error["retry_after_s"] = failure.retry_after_s
    return status, {"error": error}


def headers(failure: Failure) -> dict[str, str]:
    """The HTTP headers that say whether, and when, the same request makes sense again."""
    found = {}
    if failure.retry_after_s is not None:
        found["Retry-After"] = str(max(1, round(failure.retry_after_s)))
    if not failure.retryable:
        found["x-should-retry"] = "false"  # OpenAI's own clients obey it; they would send a 500 again
    return found
