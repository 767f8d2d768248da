"""Turns token ids into text as they come: splits no character, finds stop strings across tokens. Knows no model."""

import codecs
from collections.abc import Callable


class Detokenizer:
    """Turns tokens into text one at a time, and holds back bytes that do not make a character yet.

    The pieces join to the text of all tokens decoded at once, with U+FFFD for bytes that never make a character.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        return self._decoder.decode(self._token_bytes(token_id))

    def flush(self) -> str:
        """The text that is still held back, at the end of the answer."""
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """Cuts a growing text before the stop string that completes first (the longest, where several complete at once).

    "Completes first", not "starts first": only that can be decided while the text still grows, under any chunking.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._firsts = frozenset(stop[:1] for stop in stops)
        self._held = ""
        #: True once a stop string completed; what is pushed later is dropped
        self.found = False

    def push(self, text: str) -> str:
        """Add text; returns what can no longer be part of a stop string."""
        if self.found:
            return ""
        if not self._held and self._firsts.isdisjoint(text):
            return text  # nothing of a stop string, as nearly always
        text = self._held + text
        hits = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if hits:
            self.found = True
            self._held = ""
            return text[: min(hits)[1]]
        held = max(overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """The text that is still held back, at the end of the answer."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0


class TextStream:
    """The text of one answer while it is generated: detokenised and cut at stop strings."""

    def __init__(self, token_bytes: Callable[[int], bytes], stops: tuple[str, ...]) -> None:
        self._detokenizer = Detokenizer(token_bytes)
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """True once a stop string completed."""
        return self._stops.found

    def push(self, token_id: int) -> str:
        """Add a token; returns the text that is safe to send, often "" for a while."""
        return self._stops.push(self._detokenizer.push(token_id))

    def flush(self) -> str:
        """The rest of the text, once no token follows; "" after a stop string."""
        tail = self._stops.push(self._detokenizer.flush())
        return tail + self._stops.flush()
