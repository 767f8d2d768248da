"""What every reply has, and how one becomes JSON. Knows no operation."""

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
    wire: dict[str, JsonValue] = reply.model_dump(mode="json")
    for name in reply.FLAT:
        inner = wire.pop(name)
        assert isinstance(inner, dict)
        wire |= inner
    return wire
