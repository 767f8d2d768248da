"""Turns token ids into text as they come: splits no character, tells thoughts apart, ends at a stop string.

Knows no model.
"""

import codecs
from collections.abc import Callable

from handler.engine.stops import StopStrings
from handler.engine.thinking import Thinking


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

    def drop(self) -> None:
        """Forget the bytes that do not make a character yet: their other half will not come."""
        self._decoder.reset()


class TextStream:
    """The text of one answer while it is generated: (reasoning, answer) of each token, the answer cut at stop strings.

    Stop strings are looked for in the answer alone: a thought may hold them.
    """

    def __init__(
        self, token_bytes: Callable[[int], bytes], stops: tuple[str, ...], thinking: Thinking | None = None
    ) -> None:
        """`thinking` is None where no think block is looked for."""
        self._detokenizer = Detokenizer(token_bytes)
        self._stops = StopStrings(stops)
        self._thinking = thinking

    @property
    def stopped(self) -> bool:
        """True once a stop string completed."""
        return self._stops.found

    @property
    def splits(self) -> bool:
        """True where a think block is looked for."""
        return self._thinking is not None

    @property
    def inside_thought(self) -> bool:
        """True while a think block is open."""
        return self._thinking is not None and self._thinking.inside

    def push(self, token_id: int) -> tuple[str, str]:
        """Add a token; returns the text that is safe to send, often ("", "") for a while."""
        reasoning, answer = self._split(self._detokenizer.push(token_id))
        return reasoning, self._stops.push(answer)

    def drop_half_character(self) -> None:
        """Forget a character whose last bytes will not come, because tokens are put in or no more are drawn."""
        self._detokenizer.drop()

    def flush(self, *, cut: bool = False) -> tuple[str, str]:
        """The rest of the text, once no token follows; no answer after a stop string.

        `cut`: the answer was ended from outside, and half a character is dropped. Else it becomes U+FFFD.
        """
        if cut:
            self.drop_half_character()
        reasoning, answer = self._split(self._detokenizer.flush())
        if self._thinking is not None:
            held_reasoning, held_answer = self._thinking.flush()
            reasoning, answer = reasoning + held_reasoning, answer + held_answer
        return reasoning, self._stops.push(answer) + self._stops.flush()

    def _split(self, text: str) -> tuple[str, str]:
        return ("", text) if self._thinking is None else self._thinking.push(text)
