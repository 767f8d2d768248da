"""A body of OpenAI's API becomes one native request, or is refused with the path of the field in the caller's names.

Reads by the table in `fields`. Knows no engine and no HTTP.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, cast

from pydantic import JsonValue, ValidationError

from handler.api.chat import ChatRequest
from handler.api.failure import Failure
from handler.api.generate import GenerateRequest
from handler.api.info import InfoRequest
from handler.api.parse import refusal
from handler.api.size import check_size
from handler.engine.sampling import MaxTokens
from handler.errors import InvalidRequest, Unsupported
from handler.openai.errors import ModelNotFound, UnknownUrl
from handler.openai.fields import Kind, Rule, rules
from handler.openai.messages import Noted, read_messages
from handler.openai.served import Served

#: Completion tokens where none are sent: more than any context leaves, and the context bounds them.
MOST = 1_000_000


class Chat(ChatRequest):
    """A chat that may take what the context leaves."""

    max_tokens: MaxTokens = MOST


class Completion(GenerateRequest):
    """A raw prompt whose completion may take what the context leaves."""

    max_tokens: MaxTokens = MOST


@dataclass(frozen=True, slots=True)
class Asked:
    """One call, read."""

    route: "Route"
    request: Chat | Completion | InfoRequest
    stream: bool = False
    include_usage: bool = False
    #: fields that had no effect, in the order of the body
    ignored: tuple[str, ...] = ()
    #: the caller's name of a native field, where it sent another
    names: Mapping[str, str] = field(default_factory=dict)


#: what a route answers with
Route = Literal["chat", "completions", "models", "model"]
#: path -> what it answers with; `/v1/models/NAME` is the one with a name in it
ROUTES: Mapping[str, Route] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/models": "models",
}
_MODEL = "/v1/models/"
#: routes of OpenAI's that callers meet by their client's default, and the one to call instead
_INSTEAD = {
    "/v1/responses": "/v1/chat/completions, which the AI SDK calls with openai.chat(…), and n8n as chat model",
    "/v1/messages": "/v1/chat/completions",
}
T = TypeVar("T", Chat, Completion)


def route_of(path: str) -> Route:
    """The route of a path.

    Raises:
        UnknownUrl: there is none; it says what there is.
    """
    path = path.partition("?")[0].rstrip("/")
    if path in ROUTES:
        return ROUTES[path]
    if path.startswith(_MODEL):
        return "model"
    known = next((instead for start, instead in _INSTEAD.items() if f"{path}/".startswith(f"{start}/")), None)
    there = known or ", ".join(ROUTES)
    raise UnknownUrl(f"{path[:100]} is not served; use {there}")


def wants_stream(body: object) -> bool:
    """True where the caller reads server-sent events; known of a body that is refused, too."""
    return isinstance(body, dict) and body.get("stream") is True


def read(path: str, body: object, served: Served) -> Asked:
    """One native request.

    Args:
        path: with its `/v1`.
        body: JSON; that of a GET is not looked at.

    Raises:
        InvalidRequest: naming the field at fault by the caller's name.
        Unsupported: the same, where the request is well formed and this worker cannot do it.
        ModelNotFound: the request is for another model.
        UnknownUrl: there is no such route.
    """
    route = route_of(path)
    if route == "models" or route == "model":
        if route == "model":
            _check_model(path.partition("?")[0].rstrip("/")[len(_MODEL) :], served)
        return Asked(route, InfoRequest(operation="info", sections=("model",)))
    if not isinstance(body, dict):
        raise InvalidRequest("the body is a JSON object")
    check_size(body)
    return _Reading(route, body, served).asked()


def in_their_names(failure: Failure, names: Mapping[str, str]) -> Failure:
    """The same failure with the caller's names in place of native ones, where the two differ."""
    first, dot, rest = (failure.field or "").partition(".")
    if first not in names:
        return failure
    path = names[first] + dot + rest
    message = failure.message.replace(str(failure.field), path, 1)
    return failure.model_copy(update={"field": path, "message": message})


def _check_model(name: object, served: Served) -> None:
    if not isinstance(name, str) or name.lower() != served.name.lower():
        raise ModelNotFound(
            f"this worker serves {served.name} alone; send that as model, or leave model out", field="model"
        )


class _Reading:
    """One body on its way to a request."""

    def __init__(self, kind: Kind, body: dict[str, Any], served: Served) -> None:
        self._kind: Kind = kind
        self._body = body
        self._served = served
        self._rules = rules(kind)
        self._native: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        self._noted = Noted()
        self._usage = False

    def asked(self) -> Asked:
        for name, value in self._body.items():
            rule = self._rules.get(name)
            if rule is None:
                raise self._unknown(name)
            if not rule.is_neutral(value) and not self._is_implied(name, value):
                self._take(rule, value)
        stream = bool(self._native.get("stream"))
        if not stream and self._body.get("stream_options"):
            self._noted.add("stream_options")
        chat = self._kind == "chat"
        request = self._validated(Chat, "chat") if chat else self._validated(Completion, "generate")
        return Asked(self._kind, request, stream, self._usage, self._noted.names, self._names)

    def _validated(self, kind: type[T], operation: str) -> T:
        try:
            return kind.model_validate({"operation": operation, **self._native})
        except ValidationError as error:
            raise self._renamed(refusal(error, kind)) from None
        except InvalidRequest as error:
            raise self._renamed(error) from None

    def _renamed(self, error: InvalidRequest) -> InvalidRequest:
        """The error with the caller's names."""
        named = in_their_names(Failure.of(error), self._names)
        return type(error)(named.message, field=named.field)

    def _unknown(self, name: str) -> InvalidRequest:
        name = name[:100]
        meant = get_close_matches(name, self._rules, n=1, cutoff=0.8)
        return InvalidRequest(f"{name}: unknown field" + "".join(f"; did you mean {one}?" for one in meant), field=name)

    def _is_implied(self, name: str, value: JsonValue) -> bool:
        """True of vLLM's `add_generation_prompt: false` beside `continue_final_message`, which says the same."""
        return name == "add_generation_prompt" and self._body.get("continue_final_message") is True and value is False

    def _take(self, rule: Rule, value: Any) -> None:
        match rule.verdict_on(value):
            case "note":
                self._noted.add(rule.name)
            case "refuse":
                raise Unsupported(f"{rule.name}: {rule.words}", field=rule.name)
            case "honour":
                self._honour(rule, value)

    def _honour(self, rule: Rule, value: Any) -> None:
        match rule.name:
            case "model":
                _check_model(value, self._served)
            case "messages":
                self._native["messages"] = read_messages(value, self._noted)
            case "prompt":
                self._native["prompt"] = _one_prompt(value)
            case "stream_options":
                self._usage = _include_usage(value)
            case "chat_template_kwargs":
                self._put("enable_thinking", _thinking_of(value), "chat_template_kwargs.enable_thinking")
            case "reasoning_effort":
                if not isinstance(value, str):
                    raise InvalidRequest("reasoning_effort: should be a string", field="reasoning_effort")
                self._put("enable_thinking", value != "none", "reasoning_effort")
                if value != "none":
                    self._noted.add("reasoning_effort")
            case _:
                self._put(rule.native or rule.name, value, rule.name)

    def _put(self, native: str, value: Any, name: str) -> None:
        if value is None:
            return
        if native in self._native and self._native[native] != value:
            raise InvalidRequest(
                f"{name}: differs from {self._names.get(native, native)}; send one of them", field=name
            )
        self._native[native] = value
        if native != name:
            self._names[native] = name


def _one_prompt(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if any(isinstance(one, int | list) for one in value[:1]):
        raise Unsupported("prompt: token ids are not read; send the text", field="prompt")
    if len(value) != 1:
        raise Unsupported(f"prompt: has {len(value)} texts; send one in each request", field="prompt")
    return value[0]


def _include_usage(value: Any) -> bool:
    if not isinstance(value, dict):
        raise InvalidRequest("stream_options: should be an object", field="stream_options")
    for name, wanted in value.items():
        if name != "include_usage" and wanted not in (None, False):
            path = f"stream_options.{name[:100]}"
            raise Unsupported(f"{path}: there is include_usage alone; leave it out", field=path)
    wanted = value.get("include_usage")
    if wanted is not None and not isinstance(wanted, bool):
        path = "stream_options.include_usage"
        raise InvalidRequest(f"{path}: should be true or false", field=path)
    return wanted is True


def _thinking_of(value: Any) -> JsonValue:
    if not isinstance(value, dict):
        raise InvalidRequest("chat_template_kwargs: should be an object", field="chat_template_kwargs")
    for name, wanted in value.items():
        if name != "enable_thinking" and wanted is not None:
            path = f"chat_template_kwargs.{name[:100]}"
            raise Unsupported(f"{path}: there is enable_thinking alone; leave it out", field=path)
    return cast(JsonValue, value.get("enable_thinking"))
