"""A job's `input` becomes one request, or is refused with the path of the field at fault.

What is let in is trusted from here on: nothing behind this module checks it again.
"""

import re
from difflib import get_close_matches
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from handler.api.requests import REQUESTS, Request
from handler.api.size import check_size
from handler.api.text import TextRequest
from handler.engine.values import Value
from handler.errors import InvalidRequest

OPERATIONS = ", ".join(REQUESTS)
#: fields of earlier versions that were removed on purpose
REMOVED = ("unrestricted_mode", "nsfw_optimization", "enhancement_request")

_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="operation")])


def parse(payload: object) -> Request:
    """Turn a job's `input` into one request.

    Raises:
        InvalidRequest: naming the field at fault.
    """
    if not isinstance(payload, dict):
        raise InvalidRequest("a job's input is a JSON object", field="input")
    check_size(payload)
    for name in REMOVED:
        if name in payload:
            raise InvalidRequest(
                f"{name} was removed: all chat goes through the operation chat, and what may be said is the caller's "
                "decision",
                field=name,
            )
    if "openai_route" in payload:  # RunPod's form of a call to an endpoint's /openai/v1
        raise InvalidRequest(
            f"openai_route: only a job of RunPod's queue has it; send an operation here: {OPERATIONS}",
            field="openai_route",
        )
    try:
        return _REQUEST.validate_python(payload)
    except ValidationError as error:
        raise _refusal(error) from None


#: pydantic's kinds of errors in the caller's terms, where its own words speak of Python
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "unknown field",
    "tuple_type": "should be a list",
    "dict_type": "should be an object",
    "model_type": "should be an object",
}


def _refusal(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"].startswith("union_tag"):
        return InvalidRequest(f"operation is one of {OPERATIONS}", field="operation")
    return refusal(error, REQUESTS[str(first["loc"][0])], outside=1)


def refusal(error: ValidationError, kind: type[Value], *, outside: int = 0) -> InvalidRequest:
    """What is wrong with the fields of a request, in the caller's terms.

    Args:
        kind: the request's class.
        outside: parts of an error's path that lie outside of the request.
    """
    # The first error alone: a list that is refused for one item is also reported as too short.
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = first["loc"][outside:]
    # Pydantic says `[key]` after a name of an object that is wrong itself.
    path = ".".join(str(part)[:100] for part in place if part != "[key]")[:200] or "input"
    words = _WORDS.get(first["type"]) or _in_json(first["msg"])
    if first["type"] == "extra_forbidden" and len(place) == 1:
        # 0.9: one letter in ten is wrong
        name = str(place[0])[:100]
        known = kind.MEANT.get(name) if issubclass(kind, TextRequest) else None
        meant = [known] if known else get_close_matches(name, kind.model_fields, n=1, cutoff=0.9)
        words += "".join(f"; did you mean {one}?" for one in meant)
    return InvalidRequest(f"{path}: {words}", field=path)


def _in_json(words: str) -> str:
    """Pydantic's words on a bound without Python's types; its `Value` is a text, whose items are characters."""
    words = words.partition(" after validation")[0]
    if words.startswith("Value"):
        words = words.replace(" item", " character")
    return re.sub("^(Input|String|Tuple|Value) should", "should", words)
