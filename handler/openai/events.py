"""Server-sent events: one object, one event. Knows no content."""

import json

from pydantic import JsonValue

DONE = "data: [DONE]\n\n"
#: Line ends of Unicode, which JSON leaves as they are: clients that cut lines with Python's `splitlines` cut there.
_LINE_ENDS = str.maketrans({"\u0085": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def event(value: dict[str, JsonValue]) -> str:
    """The text of one event."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate is no character, but a caller's own name of a field may hold one; JSON writes it as an escape.
    text = text.translate(_LINE_ENDS).encode(errors="backslashreplace").decode()
    return f"data: {text}\n\n"
