"""Replies and pieces of text in OpenAI's shape: one object, or the chunks of a stream. Knows no transport."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from pydantic import JsonValue

from handler.api.failure import Failure
from handler.api.info import InfoReply
from handler.api.reply import Reply, to_wire
from handler.engine.fold import Piece
from handler.openai import errors, events
from handler.openai.requests import Asked
from handler.openai.served import Served

Object = dict[str, JsonValue]
#: our reasons to end that OpenAI has no word for; clients take an unknown one for an error, or for `stop`
_REASONS = {"deadline": "length"}
#: the keys of our reply that stand below `worker`, where they have a value
_WORKER = ("finish_reason", "sampling", "prompt_sha256", "timing", "truncated_turns", "reasoning_cut")
#: keys of a choice of ours that have a place of their own in OpenAI's
_PLACED = ("response", "text", "reasoning", "logprobs")


@dataclass(frozen=True, slots=True)
class Head:
    """What every object of one call begins with."""

    #: `chatcmpl-…` or `cmpl-…`
    id: str
    #: Unix time, in seconds
    created: int
    served: Served

    def of(self, kind: str) -> Object:
        """The head of an object of this kind."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
        }


def whole(asked: Asked, reply: Reply, head: Head) -> Object:
    """The reply as one object."""
    wire = to_wire(reply)
    if asked.route == "models" or asked.route == "model":
        one = _model(reply, head.served)
        return one if asked.route == "model" else {"object": "list", "data": [one]}
    choices: list[JsonValue] = []
    for index, choice in enumerate(_choices(wire)):
        told: Object = {"index": index}
        if asked.route == "chat":
            message: Object = {"role": "assistant", "content": _text(choice), "refusal": None}
            if choice.get("reasoning"):
                message["reasoning_content"] = choice["reasoning"]
            told["message"] = message
        else:
            told["text"] = _text(choice)
        choices.append(told | {"logprobs": _logprobs(choice), "finish_reason": _reason(choice)})
    kind = "chat.completion" if asked.route == "chat" else "text_completion"
    return head.of(kind) | {"choices": choices, "usage": _usage(wire), "worker": _worker(asked, wire)}


@dataclass(slots=True)
class Chunks:
    """The stream of one call: the text of server-sent events, for each event of its job."""

    asked: Asked
    head: Head
    #: choices whose first chunk was made
    _begun: set[int] = field(default_factory=set)

    def of(self, event: Piece | Reply | Failure) -> str:
        """The events that follow; with a reply or a failure the stream ends."""
        match event:
            case Piece():
                return "".join(map(events.event, self._piece(event)))
            case Failure():
                return failed(event)
            case _:
                return "".join(map(events.event, self._end(to_wire(event)))) + events.DONE

    def _piece(self, piece: Piece) -> Iterator[Object]:
        # Where there is one choice alone, a piece does not say of which it is.
        index = int(getattr(piece, "variant", None) or 0)
        yield from self._begin(index)
        if self.asked.route == "completions":
            yield self._chunk([{"index": index, "text": piece.text, "logprobs": None, "finish_reason": None}])
        else:
            name = "reasoning_content" if piece.reasoning else "content"
            yield self._chunk([self._choice(index, {name: piece.text})])

    def _begin(self, index: int) -> Iterator[Object]:
        if index not in self._begun and self.asked.route == "chat":
            yield self._chunk([self._choice(index, {"role": "assistant", "content": ""})])
        self._begun.add(index)

    def _end(self, wire: Mapping[str, JsonValue]) -> Iterator[Object]:
        choices, ends = _choices(wire), list[Object]()
        for index, choice in enumerate(choices):
            yield from self._begin(index)
            logprobs, reason = _logprobs(choice), _reason(choice)
            if self.asked.route == "completions":
                end: Object = {"index": index, "text": "", "logprobs": logprobs, "finish_reason": reason}
            else:
                end = self._choice(index, {}) | {"logprobs": logprobs, "finish_reason": reason}
            ends.append(self._chunk([end]))
        if self.asked.include_usage:
            ends.append(self._chunk([]) | {"usage": _usage(wire)})
        ends[-1]["worker"] = _worker(self.asked, wire)
        yield from ends

    def _choice(self, index: int, delta: Object) -> Object:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _chunk(self, choices: list[JsonValue]) -> Object:
        kind = "chat.completion.chunk" if self.asked.route == "chat" else "text_completion"
        chunk = self.head.of(kind) | {"choices": choices}
        return chunk | {"usage": None} if self.asked.include_usage else chunk


def failed(failure: Failure) -> str:
    """The events that end a stream with an error: without one, clients take what came for the whole answer."""
    return events.event(errors.body(failure)[1]) + events.DONE


def _choices(wire: Mapping[str, JsonValue]) -> list[Mapping[str, JsonValue]]:
    """The answers of our reply: its variants, or itself."""
    variants = wire.get("variants")
    return cast(list[Mapping[str, JsonValue]], variants) if isinstance(variants, list) else [wire]


def _text(choice: Mapping[str, JsonValue]) -> JsonValue:
    return choice["response"] if "response" in choice else choice["text"]


def _reason(choice: Mapping[str, JsonValue]) -> str:
    reason = str(choice["finish_reason"])
    return _REASONS.get(reason, reason)


def _logprobs(choice: Mapping[str, JsonValue]) -> JsonValue:
    entries = choice.get("logprobs")
    if not isinstance(entries, list):
        return None
    content: list[JsonValue] = []
    for entry in cast(list[Object], entries):
        top: list[JsonValue] = [_likely(one) for one in cast(list[Object], entry["top"])]
        content.append({**_likely(entry), "top_logprobs": top})
    return {"content": content, "refusal": None}


def _likely(entry: Object) -> Object:
    return {name: entry[name] for name in ("token", "logprob", "bytes")}


def _usage(wire: Mapping[str, JsonValue]) -> JsonValue:
    usage = dict(cast(Object, wire["usage"]))
    cached = usage.pop("cached_tokens")
    return {**usage, "prompt_tokens_details": {"cached_tokens": cached}}


def _worker(asked: Asked, wire: Mapping[str, JsonValue]) -> JsonValue:
    """Our own facts of the run, and the fields that had no effect."""
    told: Object = {"ignored": [*asked.ignored]}
    told |= {name: wire[name] for name in _WORKER if name in wire}
    if isinstance(variants := wire.get("variants"), list):
        own = (cast(Object, variant) for variant in variants)
        told["variants"] = [{name: one for name, one in each.items() if name not in _PLACED} for each in own]
    return told


def _model(reply: Reply, served: Served) -> Object:
    assert isinstance(reply, InfoReply)
    assert reply.model is not None
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "runpod-qwen-worker",
        "max_model_len": reply.model.max_model_len,
    }
