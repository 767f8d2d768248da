"""What an answer may say next, guessed from what was said before: prompt lookup. Knows token ids alone.

Answers that quote, as rewritten prompts, corrected text and code do, repeat stretches of their prompt to the token
(https://github.com/apoorvumang/prompt-lookup-decoding). A guess costs a row of one step, and saves a step where it is
right; whether it is, the engine finds out by drawing.
"""

from collections.abc import Sequence

#: tokens that must have occurred before, for what followed them to be worth a guess
CONTEXT = 3


class Lookup:
    """The guesses of one sequence, at most `most` at a time: fewer after wrong ones, more after right ones."""

    def __init__(self, most: int) -> None:
        self._most = self._ahead = most
        #: by the tokens before it, the last place that followed them
        self._places: dict[tuple[int, ...], int] = {}
        self._indexed = CONTEXT

    def guess(self, tokens: Sequence[int], room: int) -> Sequence[int]:
        """At most `room` tokens that may follow these; `tokens` are those of the last call, and more."""
        first, size = self._indexed, len(tokens)
        contexts = zip(*(tokens[first - back : size] for back in range(CONTEXT, 0, -1)), strict=False)
        self._places.update(zip(contexts, range(first, size), strict=False))
        self._indexed = max(first, size)
        place = self._places.get((*tokens[-CONTEXT:],))
        return () if place is None else tokens[place : place + min(self._ahead, room)]

    def learn(self, guessed: int, right: int) -> None:
        """How a guess turned out: so many tokens, of which the first so many were drawn."""
        self._ahead = min(self._most, 2 * guessed) if right == guessed else max(1, right)
