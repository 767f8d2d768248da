"""Every operation's request: the one list that dispatch, messages and documents are derived from."""

from typing import get_args

from handler.api.chat import ChatRequest
from handler.api.enhance import EnhanceRequest
from handler.api.generate import GenerateRequest
from handler.api.info import InfoRequest
from handler.engine.values import Value

Request = ChatRequest | GenerateRequest | EnhanceRequest | InfoRequest


def operation_of(kind: type[Value]) -> str:
    """The name that a request's class has on the wire."""
    name: str = get_args(kind.model_fields["operation"].annotation)[0]
    return name


#: the classes by their name on the wire
REQUESTS: dict[str, type[Value]] = {operation_of(kind): kind for kind in get_args(Request)}
