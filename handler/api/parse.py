"""The door: a job's `input` comes in as one request, or is refused by the path of its field.

What is let in is trusted behind it: nothing there checks again.
"""

import re
from difflib import get_close_matches
from typing import Annotated, get_args

from pydantic import Field, TypeAdapter, ValidationError

from handler.api.contracts import Request
from handler.errors import InvalidRequest

#: fields of one request; none has as many
MAX_FIELDS = 100

REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="operation")])


def parse(payload: object) -> Request:
    """Turn a job's `input` into one request.

    Raises:
        InvalidRequest: naming the field at fault.
    """
    if not isinstance(payload, dict):
        raise InvalidRequest("a job's input is a JSON object", field="input")
    if len(payload) > MAX_FIELDS:
        raise InvalidRequest(f"input has {len(payload)} fields; no request has more than {MAX_FIELDS}", field="input")
    if "openai_route" in payload:  # what RunPod makes of a call to an endpoint's /openai/v1
        raise InvalidRequest(
            "openai_route: OpenAI's API is not served; send an operation: chat, generate, enhance, info",
            field="openai_route",
        )
    try:
        return REQUEST.validate_python(payload)
    except ValidationError as error:
        raise _refusal(error) from None


#: fields by operation, for names that are nearly one of them
_FIELDS = {
    get_args(kind.model_fields["operation"].annotation)[0]: list(kind.model_fields) for kind in get_args(Request)
}
#: in the caller's words, where pydantic's speak of Python
_TOLD = {
    "missing": "is missing",
    "extra_forbidden": "unknown field",
    "tuple_type": "should be a list",
    "dict_type": "should be an object",
    "model_type": "should be an object",
}


def _refusal(error: ValidationError) -> InvalidRequest:
    # The first alone: a list that is refused for one item is told to be too short as well.
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    kind, place = first["type"], first["loc"]
    if kind.startswith("union_tag"):
        return InvalidRequest("operation is one of chat, generate, enhance, info", field="operation")
    path = ".".join(str(part)[:100] for part in place[1:])[:200] or "input"
    told = _TOLD.get(kind) or _in_json(first["msg"])
    if kind == "extra_forbidden" and len(place) == 2:
        # 0.9: one letter in ten is wrong
        meant = get_close_matches(str(place[1])[:100], _FIELDS[str(place[0])], n=1, cutoff=0.9)
        told += "".join(f"; did you mean {name}?" for name in meant)
    return InvalidRequest(f"{path}: {told}", field=path)


def _in_json(told: str) -> str:
    """Pydantic's words on a bound without what is Python's in them; a `Value` is a text, which it cannot see."""
    told = told.partition(" after validation")[0]
    if told.startswith("Value"):
        told = told.replace(" item", " character")
    return re.sub("^(Input|String|Tuple|Value) should", "should", told)
