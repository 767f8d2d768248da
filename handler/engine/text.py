"""Turns token ids into text as they come: splits no character, ends at a stop string. Knows no model."""

import codecs
from collections.abc import Callable

from handler.engine.stops import StopStrings


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
