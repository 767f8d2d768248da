"""The messages of a chat completion become those that the model reads. Knows no other field of a body."""

from collections.abc import Mapping
from typing import Any

from handler.api.size import MAX_FIELDS
from handler.errors import InvalidRequest, Unsupported

#: roles of OpenAI's that are read as one of ours
ROLES = {"developer": "system"}
#: roles whose turns are results of calls, which no model here made
_OF_TOOLS = ("tool", "function")
#: keys of a turn that stand for a call, and so for a part of the conversation that would be missing
_CALLS = ("tool_calls", "function_call")


class Noted:
    """Names of fields that have no effect, each once."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they came."""
        return tuple(self._names)

    def add(self, name: str) -> None:
        """Add a name.

        Raises:
            InvalidRequest: there are too many: a reply would list them all.
        """
        # A name is a caller's text, and may hold what is no character.
        self._names[name[:100].encode(errors="replace").decode()] = None
        if len(self._names) > MAX_FIELDS:
            raise InvalidRequest(f"messages: more than {MAX_FIELDS} unknown names; send fewer", field="messages")


def read_messages(value: Any, noted: Noted) -> Any:
    """The messages with what the model reads alone; a value that is no list of objects comes back as it is.

    Raises:
        InvalidRequest: a turn has another shape.
        Unsupported: a turn has a part that the model does not read.
    """
    if not isinstance(value, list):
        return value
    return [
        _message(f"messages.{index}", one, noted) if isinstance(one, dict) else one for index, one in enumerate(value)
    ]


def _message(path: str, message: Mapping[str, Any], noted: Noted) -> dict[str, Any]:
    role = message.get("role")
    if role in _OF_TOOLS:
        raise Unsupported(
            f"{path}.role: turns of the role {role} are not read; put a tool's result into a user's turn",
            field=f"{path}.role",
        )
    for name in _CALLS:
        if message.get(name):
            raise Unsupported(f"{path}.{name}: calls are not read; put them into the text", field=f"{path}.{name}")
    read = {name: message[name] for name in ("role", "content") if name in message}
    if isinstance(role, str) and role in ROLES:
        read["role"] = ROLES[role]
        noted.add("messages[].role")
    if role == "assistant" and message.get("content") is None:
        read["content"] = ""
    elif isinstance(content := message.get("content"), list):
        read["content"] = [_part(f"{path}.content.{index}", part, noted) for index, part in enumerate(content)]
    for name, one in message.items():
        if name not in ("role", "content") and one not in (None, [], {}, ""):
            noted.add(f"messages[].{name}")
    return read


def _part(path: str, part: Any, noted: Noted) -> Any:
    """A part with its text alone; one that is no text part is refused."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise InvalidRequest(f"{path}: should be an object with a type", field=path)
    if part["type"] != "text":
        raise Unsupported(f"{path}: is no text part; the model reads text alone", field=path)
    for name, one in part.items():
        if name not in ("type", "text") and one is not None:
            noted.add(f"messages[].content[].{name}")
    if not isinstance(part.get("text"), str):
        raise InvalidRequest(f"{path}.text: should be a string", field=f"{path}.text")
    return {"type": "text", "text": part["text"]}
