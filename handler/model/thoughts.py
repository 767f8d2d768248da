"""Tells from a rendered prompt whether its answer begins inside a think block. Pure."""

import re
from typing import Literal

from handler.engine.thinking import Thinking

#: whether the answers to a template's prompts begin with thoughts: never, where `enable_thinking` asks for them, always
Thinks = Literal["never", "choice", "always"]
#: what closes a thought that has as many tokens as it may, as Qwen3's template writes it
CLOSING = f"\n{Thinking.CLOSE}\n\n"
_OPENED = re.compile(rf"\s*{Thinking.OPEN}")


def ends_inside_thought(prompt: str) -> bool:
    """True where the last turn begins with a think block that is still open, or the prompt ends with an opening tag.

    A tag elsewhere is a word of the text: callers write about tags too.
    """
    _, begun, turn = prompt.rpartition("<|im_start|>")
    at = turn.find("\n") + 1 if begun else 0
    while _OPENED.match(turn, at):
        closed = turn.find(Thinking.CLOSE, at)
        if closed < 0:
            return True
        at = closed + len(Thinking.CLOSE)
    return turn.rstrip().endswith(Thinking.OPEN)
