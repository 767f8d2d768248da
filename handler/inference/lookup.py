"""Prompt lookup: guesses the next tokens of an answer from earlier tokens of its sequence. Knows only token ids.

Answers that quote (rewritten prompts, corrected text, code) repeat parts of their prompt token by token
(https://github.com/apoorvumang/prompt-lookup-decoding). A guess takes one row of a step, and saves a step where it is
right. The engine draws the token in any case, and compares.
"""

from collections.abc import Sequence

#: so many last tokens must have occurred before; the tokens that followed them then are the guess
CONTEXT = 3


class Lookup:
    """Guesses for one sequence, at most `most` at a time: fewer after wrong ones, more after right ones."""

    def __init__(self, most: int) -> None:
        self._most = self._ahead = most
        #: CONTEXT tokens -> index of the token after their last occurrence
        self._places: dict[tuple[int, ...], int] = {}
        self._indexed = CONTEXT

    def guess(self, tokens: Sequence[int], room: int) -> Sequence[int]:
        """At most `room` tokens that may come next; `tokens` must begin with the tokens of the last call."""
        first, size = self._indexed, len(tokens)
        contexts = zip(*(tokens[first - back : size] for back in range(CONTEXT, 0, -1)), strict=False)
        self._places.update(zip(contexts, range(first, size), strict=False))
        self._indexed = max(first, size)
        place = self._places.get((*tokens[-CONTEXT:],))
        return () if place is None else tokens[place : place + min(self._ahead, room)]

    def learn(self, guessed: int, right: int) -> None:
        """Adapt the length of the next guess: of `guessed` tokens the first `right` were drawn."""
        self._ahead = min(self._most, 2 * guessed) if right == guessed else max(1, right)
