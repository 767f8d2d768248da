"""Finds the prompt in a model's answer: text around it is removed, line breaks become clause ends. Pure."""

import re

from handler.enhancement.clauses import one_line
from handler.enhancement.pack import Words
from handler.enhancement.phrases import Phrases
from handler.pool import check_stop

_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)|\A.*</think>", re.DOTALL | re.IGNORECASE)
_CONTROL = re.compile(r"<\|[\w ]*+\|>")
# Of one line: white space that may begin at every line of a run of blank ones would take quadratic time.
_FENCE = re.compile(r"^[^\S\n]*+```\w*+[^\S\n]*+$", re.MULTILINE)
_MARKDOWN = re.compile(r"^[ \t]*+(?:#{1,6}+|[-*•]|\d++[.)])\s++|\*\*", re.MULTILINE)
_COLON = re.compile(r":\**+\s*+|\n")
_QUOTES = (('"', '"'), ("“", "”"), ("'", "'"), ("`", "`"), ("«", "»"), ("「", "」"))
#: characters from an opening to its colon, at most
_OPENING_CHARACTERS = 100


def clean(answer: str, prompt: str, words: Words) -> str:
    """The prompt in an answer, on one line; empty where an opening announces a prompt that does not follow."""
    text = _CONTROL.sub("", _THINKING.sub("", answer)).strip()
    if _begins(text, prompt, words.opening):
        end = _COLON.search(text, 0, _OPENING_CHARACTERS)
        text = "" if end is None else text[end.end() :]
    return _without_quotes(one_line(_without_closing(text, prompt, words)))


def is_refusal(text: str, prompt: str, words: Words) -> bool:
    """Whether a cleaned text begins with one of the pack's refusals."""
    return _begins(text, prompt, words.refusing)


def _without_closing(text: str, prompt: str, words: Words) -> str:
    """The lines before the first one that is a closing, without markdown."""
    lines = _MARKDOWN.sub("", _FENCE.sub("", text)).strip().splitlines()
    closings = (index for index, line in enumerate(lines) if index and _begins(line, prompt, words.closing))
    return "\n".join(lines[: next(closings, len(lines))])


def _without_quotes(text: str) -> str:
    """The text inside one pair of quotation marks around all of it."""
    for opened, closed in _QUOTES:
        inner = text[1:-1]
        if len(text) > 1 and text[0] == opened and text[-1] == closed and opened not in inner and closed not in inner:
            return inner.strip()
    return text


def _begins(text: str, prompt: str, phrases: Phrases) -> bool:
    """Whether a text begins with one of the phrases, and the user's prompt does not."""
    check_stop()
    found = phrases.beginning(text.lstrip(" \t\n*#\"'“`").replace("’", "'"))
    if found is None:
        return False
    beginning = found.casefold()
    return not prompt.lstrip()[: len(beginning)].casefold().startswith(beginning)
