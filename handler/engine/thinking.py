"""Splits an answer that may begin with a think block, while it grows. Knows no model."""

from typing import Literal


class Thinking:
    """Splits an answer that may begin with a think block, while it grows, into reasoning and answer.

    The tags belong to neither, nor do the line breaks after them. A block that is never closed is all reasoning.
    """

    OPEN, CLOSE = "<think>", "</think>"

    def __init__(self, opened: bool) -> None:
        """`opened`: the prompt ends inside a think block already."""
        self._state: Literal["before", "reasoning", "answer"] = "reasoning" if opened else "before"
        self._fresh = True  # nothing of the present part was sent yet
        self._held = ""

    @property
    def inside(self) -> bool:
        """True while the think block is open."""
        return self._state == "reasoning"

    def push(self, text: str) -> tuple[str, str]:
        """Add text; returns (reasoning, answer) as far as both are certain."""
        text = self._held + text
        self._held = ""
        if self._state == "before":
            begun = text.lstrip()
            if len(begun) < len(self.OPEN) and self.OPEN.startswith(begun):
                self._held = text
                return "", ""
            self._state = "reasoning" if begun.startswith(self.OPEN) else "answer"
            text = begun.removeprefix(self.OPEN) if self._state == "reasoning" else text
            self._fresh = self._state == "reasoning"
        if self._state == "answer":
            return "", self._part(text)
        reasoning, closed, answer = text.partition(self.CLOSE)
        if not closed:
            held = _overlap(text, self.CLOSE)
            self._held = text[len(text) - held :]
            return self._part(text[: len(text) - held]), ""
        reasoning = self._part(reasoning)
        self._state, self._fresh = "answer", True
        return reasoning, self._part(answer)

    def flush(self) -> tuple[str, str]:
        """(reasoning, answer): the text that is still held back, at the end of the answer."""
        held, self._held = self._held, ""
        return (held, "") if self._state == "reasoning" else ("", held)

    def _part(self, text: str) -> str:
        if self._fresh:
            text = text.lstrip("\n")
            self._fresh = not text
        return text


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    for size in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-size:]):
            return size
    return 0
