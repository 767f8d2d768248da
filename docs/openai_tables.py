"""The tables of docs/openai.md, from the rules by which bodies are read."""

import json
from collections.abc import Iterator

from pydantic import JsonValue

from handler.openai.errors import STATUS
from handler.openai.fields import BOTH, MESSAGE, RULES, Rule, Verdict
from handler.openai.requests import ROUTES

_VERDICTS: tuple[Verdict, ...] = ("honour", "note", "refuse")
_ROUTE_OF = {"chat": "chat", "completions": "completions"}
#: what a route becomes, in words
_BECOMES = {
    "chat": "a `chat` with `messages`",
    "completions": "a `generate` with `prompt`, which no template touches",
    "models": "an `info`; a GET, also `/v1/models/NAME`",
}


def openai_rows(name: str) -> tuple[str, Iterator[tuple[str, ...]]]:
    """The columns and rows of one table.

    Raises:
        KeyError: there is no table of this name.
    """
    match name:
        case "openai routes":
            return "route,becomes", ((f"`{path}`", _BECOMES[route]) for path, route in ROUTES.items())
        case "openai fields":
            ordered = (rule for verdict in _VERDICTS for rule in RULES if rule.verdict == verdict)
            return "field,of,,counts as not sent,", map(_row, ordered)
        case "openai messages":
            return "in a message,,", ((f"`{key}`" if " " not in key else key, verdict, words)
                                      for key, verdict, words in MESSAGE)  # fmt: skip
        case "openai errors":
            return "`code`,HTTP,`type`", (
                (f"`{code}`", str(status), "`invalid_request_error`" if status < 500 else "`server_error`")
                for code, status in STATUS.items()
            )
        case _:
            raise KeyError(name)


def _row(rule: Rule) -> tuple[str, ...]:
    words = rule.words
    if rule.noted:
        words += f"; {_values(rule.noted)} is noted"
    routes = "both" if rule.kinds == BOTH else ", ".join(_ROUTE_OF[kind] for kind in rule.kinds)
    return f"`{rule.name}`", routes, rule.verdict, _values(rule.neutral), words


def _values(values: tuple[JsonValue, ...]) -> str:
    return ", ".join(f"`{json.dumps(value)}`" for value in values)
