"""Finds the format of a reply in a text that should be a prompt alone. Pure; takes nothing off."""

import re

from handler.enhancement.content import Content, content
from handler.enhancement.pack import Words

#: marks that no prompt has of its own, unless the user wrote them
_MARKS = ("```", "**", "<think>", "</think>", "<|")
#: the beginning of a JSON object or list
_JSON = re.compile(r"\s*+(?:\{\s*+[\"']|\[\s*+[{\"'])")
_TAG = re.compile(r"<(/?)([A-Za-z][\w-]*+)>")
_HEADING = re.compile(r"\s*+#{1,6}+ ")
_PAIRS = {'"': '"', "“": "”", "'": "'", "`": "`", "«": "»", "「": "」"}
#: 1. or 2) as a word, or a bullet
_ITEM = re.compile(r"(?<!\S)(?:(?P<number>\d{1,2})[.)]|[-•*])(?=\s)")
#: a word with a letter or number and a mark behind it: Option B:
_LABEL = re.compile(r"(?<!\w)([^\W\d_]{2,20})\s?([A-Da-d]|\d{1,2}|[IVX]{1,4}|[一二三四五])\*{0,2}[.):：]")
#: the share of the user's content that an item has where it is a whole prompt
_WHOLE = 0.6


def is_wrapped(text: str, prompt: str, words: Words) -> bool:
    """Whether a text has marks, tags or quotation marks around it, is JSON, or offers several prompts."""
    marks = any(mark in text and mark not in prompt for mark in _MARKS)
    beginnings = any(one.match(text) and not one.match(prompt) for one in (_JSON, _HEADING))
    return marks or beginnings or _is_quoted(text, prompt) or _is_tagged(text, prompt) or _offers(text, prompt, words)


def _is_quoted(text: str, prompt: str) -> bool:
    """Whether one pair of quotation marks is around all of it."""
    text, prompt = text.strip(), prompt.strip()
    closing = _PAIRS.get(text[:1])
    if closing is None or len(text) < 2 or not text.endswith(closing) or prompt[:1] == text[:1]:
        return False
    return text[0] not in text[1:-1] and closing not in text[1:-1]


def _is_tagged(text: str, prompt: str) -> bool:
    """Whether a tag that the prompt has not is opened and closed."""
    own = {found.group(2) for found in _TAG.finditer(prompt)}
    ends: dict[str, set[str]] = {"": set(), "/": set()}
    for found in _TAG.finditer(text):
        ends[found.group(1)].add(found.group(2))
    return bool((ends[""] & ends["/"]) - own)


def _offers(text: str, prompt: str, words: Words) -> bool:
    """Whether two items of a list hold the user's prompt, each most of it."""
    asked = content(prompt, words.small)
    starts = _items(text)
    if not asked.words or len(starts) < 2 or _items(prompt):
        return False
    parts = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    return sum(_holds(part, asked, words) for part in parts) > 1


def _items(text: str) -> list[int]:
    """Where the items of a list begin: numbers from 1 on, bullets, or one word with several letters or numbers."""
    numbers: list[int] = []
    bullets: list[int] = []
    labels: dict[str, dict[str, int]] = {}
    for found in _ITEM.finditer(text):
        if found.group("number") is None:
            bullets.append(found.start())
        elif int(found.group("number")) == len(numbers) + 1:
            numbers.append(found.start())
    for found in _LABEL.finditer(text):
        labels.setdefault(found.group(1).casefold(), {}).setdefault(found.group(2), found.start())
    most = max((list(places.values()) for places in labels.values()), key=len, default=[])
    return max((one for one in (numbers, bullets, most) if len(one) > 1), key=len, default=[])


def _holds(part: str, asked: Content, words: Words) -> bool:
    return asked.kept_by(content(part, words.small)) >= _WHOLE
