"""The base of every reply, and its JSON form. Knows no operation."""

from typing import ClassVar

from pydantic import Field, JsonValue

from handler.api.fields import Part


class Reply(Part):
    """The answer to one job."""

    #: fields whose own fields stand at the reply's top level
    FLAT: ClassVar[tuple[str, ...]] = ()

    success: bool = Field(default=True, description="False only where an enhance gives the original prompt back.")


def to_wire(reply: Reply) -> dict[str, JsonValue]:
    """The reply as JSON values; a field without a value is absent."""
    dumped: dict[str, JsonValue] = reply.model_dump(mode="json")
    wire: dict[str, JsonValue] = {}
    # The facts of the run come last, though a base class declares them first.
    for name in sorted(dumped, key=lambda name: name == "run"):
        value = dumped[name]
        wire |= value if name in reply.FLAT and isinstance(value, dict) else {name: value}
    return wire
