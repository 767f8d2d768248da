"""Finds the prompt in a model's answer: text around it is cut off, lines become clauses. Pure; judges nothing."""

import re
from collections.abc import Iterator

from handler.enhancement.clauses import one_line
from handler.enhancement.content import content
from handler.enhancement.pack import Words
from handler.enhancement.phrases import Phrases, folded
from handler.enhancement.unwrap import unwrapped
from handler.enhancement.vocabulary import tokens
from handler.pool import check_stop

_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)|\A.*</think>", re.DOTALL | re.IGNORECASE)
_CONTROL = re.compile(r"<\|im_start\|>(?:assistant|user|system)?+|<\|[\w ]*+\|>")
_LIST = re.compile(r"^[ \t]*+(?:[-*•]|\d++[.)])\s++", re.MULTILINE)
#: the second item of a list in one line
_SECOND = re.compile(r"[^\S\n]2[.)]\s")
_MARKDOWN = re.compile(r"^[ \t]*+#{1,6}+\s++|\*\*", re.MULTILINE)
#: what an opening ends with: a colon, but not one in a ratio, a line end, or the mark of a sentence
_COLON = re.compile(r"[:：](?!\d)[ \t*]*+|\n")
_STOP = re.compile(r"[.!?](?=[\s\"”»*])|[。！？]|\n")
#: `[Prompt]`, `(Prompt):`, `【提示词】`
_BRACKETED = re.compile(r"\A[\[(【]([^\[\](){}【】\n]{1,40}+)[\])】][ \t]*+[:：]?+")
#: where a sentence or a remark begins
_START = re.compile(r"(?:[.!?…][\"”’)\]]*+\s|[。！？\n]|\s[(\[*\u2013\u2014])[\s*_#>(\[\u2013\u2014-]*+")
_QUOTES = (('"', '"'), ("“", "”"), ("'", "'"), ("`", "`"), ("«", "»"), ("「", "」"))
_AROUND = " \t\n*#\"'“`_>-\u2013\u2014"
#: characters from an opening to its end, at most
_OPENING_CHARACTERS = 160
#: openings and wrappings around each other, at most
_LAYERS = 8


def clean(answer: str, prompt: str, words: Words) -> str:
    """The prompt in an answer, on one line. An answer without one, or with several to choose from, stays as it is."""
    text = _CONTROL.sub("", _THINKING.sub("", answer)).strip()
    for _ in range(_LAYERS):
        check_stop()
        inner = unwrapped(text, prompt, words)
        if inner == text:
            inner = _without_opening(text, prompt, words)
        if inner == text:
            break
        text = inner
    text = _without_closing(text, prompt, words)
    text = _without_markdown(text, prompt, words)
    lines = _lines(text)
    # Where the user wrote one prompt a line, each line of as many is one.
    kept = "\n".join(lines) if len(lines) > 1 and len(lines) == len(_lines(prompt)) else one_line(text)
    return _without_quotes(kept.strip())


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def _without_opening(text: str, prompt: str, words: Words) -> str:
    """The text behind its first remark; the whole text where less of the prompt is behind it than in it."""
    bracketed = _BRACKETED.match(text)
    if bracketed is not None and words.label.are_in(bracketed.group(1)) and bracketed.group(1) not in prompt:
        return _rest(text, bracketed.end(), prompt, words)
    skipped = len(text) - len(text.lstrip(_AROUND))
    beginning = _beginning(text[skipped:], prompt, words.opening)
    colon, stop = (one.search(text, skipped, skipped + _OPENING_CHARACTERS) for one in (_COLON, _STOP))
    if beginning is not None:
        end = skipped + len(beginning)
        if beginning[-1].isalnum():
            ends = [found.end() for found in (colon, stop) if found is not None and found.start() >= end]
            if not ends:
                return text
            end = min(ends)
        return _rest(text, end, prompt, words)
    if colon is None or (stop is not None and stop.start() < colon.start()):
        return text
    lead = text[skipped : colon.start()]
    named = {folded(lead[start:end]) for start, end in words.label.find(lead)}
    own = folded(prompt)
    return _rest(text, colon.end(), prompt, words) if any(one not in own for one in named) else text


def _rest(text: str, end: int, prompt: str, words: Words) -> str:
    rest = text[end:].lstrip(" \t\n*_")
    if not tokens(rest):
        return text
    asked = content(prompt, words.small)
    lead = asked.kept_by(content(text[:end], words.small))
    return text if asked.words and lead > asked.kept_by(content(rest, words.small)) else rest


def _beginning(text: str, prompt: str, phrases: Phrases) -> str | None:
    """The phrase that a text begins with; None where the user's prompt begins with it, too."""
    found = phrases.beginning(text.replace("’", "'"))
    if found is None or folded(prompt.lstrip().replace("’", "'")).startswith(folded(found)):
        return None
    return found


def _without_closing(text: str, prompt: str, words: Words) -> str:
    """The text before its first remark behind the prompt."""
    for end in sorted(_closings(text, prompt, words)):
        kept = text[:end].rstrip(" \t\n([*_\u2013\u2014-#>,;:")
        if tokens(kept):
            asked = content(prompt, words.small)
            whole = asked.kept_by(content(text, words.small))
            return kept if asked.kept_by(content(kept, words.small)) >= whole / 2 else text
    return text


def _closings(text: str, prompt: str, words: Words) -> Iterator[int]:
    """Where remarks begin that the prompt has not."""
    plain, own = text.replace("’", "'"), folded(prompt.replace("’", "'"))
    for start, end in words.ending.find(plain):
        if folded(plain[start:end]) not in own:
            yield start
    begins = {found.end() for found in _START.finditer(plain) if found.end() < len(plain)}
    for start, ends in words.closing.places(plain, begins):
        if any(folded(plain[start:end]) not in own for end in ends):
            yield start


def _without_markdown(text: str, prompt: str, words: Words) -> str:
    """The text without its marks; those of a list stay where the user wrote one, or its items are whole prompts."""
    items = [line for line in text.splitlines() if _LIST.match(line)]
    asked = content(prompt if items else "", words.small)
    wholes = sum(bool(asked.words) and asked.kept_by(content(item, words.small)) > 0.5 for item in items)
    text = _MARKDOWN.sub("", text)
    return text if wholes > 1 or _SECOND.search(text) or _LIST.search(prompt) else _LIST.sub("", text)


def _without_quotes(text: str) -> str:
    """The text inside one pair of quotation marks around all of it."""
    for opened, closed in _QUOTES:
        inner = text[1:-1]
        if len(text) > 1 and text[0] == opened and text[-1] == closed and opened not in inner and closed not in inner:
            return inner.strip()
    return text
