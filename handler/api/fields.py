"""The kinds of fields that callers send, each checked and named once. Knows no request."""

import json
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, WithJsonSchema
from pydantic_core import PydanticCustomError


class Contract(BaseModel):
    """Nothing unknown is let in, nothing is coerced, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def null_is(default: object) -> BeforeValidator:
    """Null counts as not sent."""
    return BeforeValidator(lambda value: default if value is None else value)


def json_within(limit: int) -> AfterValidator:
    """JSON of so many bytes, at most."""

    def check(value: JsonValue) -> JsonValue:
        try:
            size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
        except (ValueError, RecursionError):
            raise PydanticCustomError("json", "is not JSON, or nested too deeply") from None
        if size > limit:
            raise PydanticCustomError("json", "is too large: {limit} bytes at most", {"limit": limit})
        return value

    return AfterValidator(check)


def _unicode(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("unicode", "holds a lone surrogate, which is no character") from None
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "must hold more than white space")
    return value


#: bytes of JSON that a field which is only passed back may have
MAX_ECHO_BYTES = 65_536

#: a list on the wire, frozen as a tuple here
LIST = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Text = Annotated[str, AfterValidator(_unicode)]
NonBlank = Annotated[Text, AfterValidator(_not_blank)]
#: JSON of the caller's, passed back untouched
Echo = Annotated[JsonValue, json_within(MAX_ECHO_BYTES)]
#: off where it was not sent
Flag = Annotated[bool, null_is(False)]
StopString = Annotated[Text, Field(min_length=1, max_length=200)]
_ONE_STOP = {"type": "string", "minLength": 1, "maxLength": 200}
#: one, or a list
StopStrings = Annotated[
    tuple[StopString, ...],
    Field(max_length=16),
    LIST,
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [_ONE_STOP, {"type": "array", "maxItems": 16, "items": _ONE_STOP}]}),
]
