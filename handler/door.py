"""The door: a job's `input` comes in as one request, or is refused by the path of its field.

What is let in is trusted behind it: nothing there checks again.
"""

import re
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from handler.contracts import Request
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
    try:
        return REQUEST.validate_python(payload)
    except ValidationError as error:
        raise _refusal(error) from None


#: in the caller's words, where pydantic's speak of Python
_TOLD = {
    "extra_forbidden": "unknown field",
    "tuple_type": "should be a list",
    "dict_type": "should be an object",
    "model_type": "should be an object",
}


def _refusal(error: ValidationError) -> InvalidRequest:
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    first = errors[0]
    if first["type"].startswith("union_tag"):
        return InvalidRequest("operation is one of chat, generate, enhance, info", field="operation")
    path = ".".join(str(part)[:100] for part in first["loc"][1:])[:200] or "input"
    told = _TOLD.get(first["type"]) or re.sub("^(Input|String|Tuple) should", "should", first["msg"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return InvalidRequest(f"{path}: {told}{more}", field=path)
