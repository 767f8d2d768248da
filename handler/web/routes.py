"""The paths of the HTTP face, and the operation that each stands for. Data alone; knows no HTTP library."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from handler.api.info import Section
from handler.errors import InvalidRequest

Operation = Literal["chat", "generate", "enhance", "info"]


@dataclass(frozen=True, slots=True)
class Route:
    """The request that a POST to a path stands for."""

    operation: Operation
    #: fields that the path stands for, beside those of the body
    fields: dict[str, JsonValue] = field(default_factory=dict)

    def input(self, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """The input of a job with this body.

        Raises:
            InvalidRequest: the body says something else than its path.
        """
        own: dict[str, JsonValue] = {"operation": self.operation, **self.fields}
        for name, value in own.items():
            if body.get(name) not in (None, value):
                raise InvalidRequest(f"{name}: this path stands for {value!r}; leave the field out", field=name)
        return {**body, **own}


#: Paths of earlier versions of this worker are among them: their callers go on as before.
POSTS: dict[str, Route] = {
    "/chat": Route("chat"),
    "/chat/debug/system-prompt": Route("chat", {"dry_run": True}),
    "/generate": Route("generate"),
    "/enhance": Route("enhance"),
    "/enhance/intelligent": Route("enhance"),
    "/enhance/legacy": Route("enhance"),
    "/enhance/sdxl": Route("enhance", {"target_model": "sdxl"}),
    "/enhance/wan": Route("enhance", {"target_model": "wan"}),
    "/enhance/universal": Route("enhance", {"target_model": "universal"}),
    "/info": Route("info"),
    "/enhancement/cache/clear": Route("info", {"clear_cache": True}),
}

#: the section of `info` whose fields a GET answers with, at the top level
GETS: dict[str, Section] = {
    "/worker/info": "worker",
    "/model/info": "model",
    "/memory/status": "memory",
    "/health": "health",
    "/enhancement/info": "enhancement",
}

#: paths of earlier versions that were removed on purpose, and why
REMOVED: dict[str, str] = {
    "/chat/unrestricted": "/chat/unrestricted was removed: all chat goes through /chat, and what may be said is the "
    "caller's decision",
}
