"""The kinds of fields that callers send, each checked in one place; knows no request."""

import json
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from handler.api.size import MAX_FIELDS
from handler.engine.values import Value


def few_fields(given: object) -> object:
    """Refuse an object with more fields than any has: each unknown one would cost an error of its own."""
    if isinstance(given, dict) and len(given) > MAX_FIELDS:
        raise PydanticCustomError(
            "fields", "has {count} fields; no object has more than {limit}", {"count": len(given), "limit": MAX_FIELDS}
        )
    return given


#: text parts of one message, at most
MAX_PARTS = 1_000
#: marks a field that comes back as it was sent, null included
PASSED_BACK = object()


class Sent(Value):
    """A value that a caller sends: `model_fields_set` names the fields that came. Null counts as not sent.

    Null is kept in a field that is marked PASSED_BACK.
    """

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_sent(cls, given: object) -> object:
        few_fields(given)
        if not isinstance(given, dict):
            return given
        fields = cls.model_fields
        null = {name for name, value in given.items() if value is None and name in fields}
        dropped = {name for name in null if PASSED_BACK not in fields[name].metadata}
        return {name: value for name, value in given.items() if name not in dropped}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        for name, facts in schema.get("properties", {}).items():
            nullable = {"type": "null"} in facts.get("anyOf", ()) or "$ref" in facts
            if name not in schema.get("required", ()) and not nullable:
                notes = {key: facts.pop(key) for key in ("default", "description", "examples", "title") if key in facts}
                schema["properties"][name] = {"anyOf": [facts, {"type": "null"}], **notes}
        return schema


class Echo(Sent):
    """Fields that the worker passes back as they came: those that were sent, null included."""

    @classmethod
    def of(cls, request: Sent) -> Self:
        """The fields of this class that the request brought."""
        return cls(**{name: getattr(request, name) for name in cls.model_fields if name in request.model_fields_set})

    @model_serializer(mode="wrap")
    def _sent(self, dump: SerializerFunctionWrapHandler) -> Any:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


class Part(Value):
    """A part of a reply. A field whose default is None is absent where it has no value; null is never a filler."""

    @model_serializer(mode="wrap")
    def _present(self, dump: SerializerFunctionWrapHandler) -> Any:
        fields = type(self).model_fields
        return {name: value for name, value in dump(self).items() if value is not None or fields[name].is_required()}


def json_within(limit: int) -> AfterValidator:
    """JSON of at most `limit` bytes."""

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


def _joined(content: object) -> object:
    """The text of a list of text parts, with nothing between them; anything else as it is."""
    if not isinstance(content, list):
        return content
    if not 0 < len(content) <= MAX_PARTS:
        raise PydanticCustomError("parts", "must have 1 to {limit} parts, or be a string", {"limit": MAX_PARTS})
    for index, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise PydanticCustomError(
                "parts", "part {index} is no text part; the model reads text alone", {"index": index}
            )
        if part.keys() != {"type", "text"} or not isinstance(part["text"], str):
            raise PydanticCustomError(
                "parts", "part {index} must have a type and a text, and nothing else", {"index": index}
            )
    return "".join(part["text"] for part in content)


def _not_blank(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "must hold more than white space")
    return value


#: bytes of JSON of a field that is only passed back, at most
MAX_ECHO_BYTES = 65_536

#: a list on the wire, a tuple here, so that it cannot change
LIST = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Text = Annotated[str, AfterValidator(_unicode)]
_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
_PARTS = {"type": "array", "minItems": 1, "maxItems": MAX_PARTS, "items": _PART}
#: a text, or a list of text parts; text here
Content = Annotated[
    Text,
    BeforeValidator(_joined),
    WithJsonSchema({"anyOf": [{"type": "string"}, _PARTS]}, mode="validation"),
]
NonBlank = Annotated[Text, AfterValidator(_not_blank)]
#: any JSON of the caller's, passed back as it came
AnyJson = Annotated[JsonValue, json_within(MAX_ECHO_BYTES), PASSED_BACK]
#: text that is never passed back, logged or part of an error
CacheSalt = Annotated[Text, Field(min_length=1, max_length=128)]


def _one_or_more(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple):
        return tuple(value)
    raise PydanticCustomError("stop", "should be a string or a list of strings")


StopString = Annotated[Text, Field(min_length=1, max_length=200)]
_ONE_STOP = {"type": "string", "minLength": 1, "maxLength": 200}
#: one stop string, or a list of them
StopStrings = Annotated[
    tuple[StopString, ...],
    Field(max_length=16, fail_fast=True),
    BeforeValidator(_one_or_more),
    WithJsonSchema({"anyOf": [_ONE_STOP, {"type": "array", "maxItems": 16, "items": _ONE_STOP}]}),
]
