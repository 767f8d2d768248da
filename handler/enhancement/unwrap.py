"""Takes the one text out of what a reply wraps it in: a fence, JSON, tags, sections. Pure."""

import json
import re
from collections.abc import Iterator, Sequence

from handler.enhancement.content import content
from handler.enhancement.pack import Words
from handler.enhancement.vocabulary import tokens
from handler.pool import check_stop

# All of one line: white space that may begin at every line of a run of blank ones would take quadratic time.
_FENCE = re.compile(r"^[^\S\n]*+```\w*+[^\S\n]*+$", re.MULTILINE)
_INLINE_FENCE = re.compile(r"\A```(?:\w++\s)?+([^`]*+)```\s*+\Z")
_OBJECT = re.compile(r"[{\[]")
#: an object of one text that was cut off before its end, or has line breaks in it
_CUT_OBJECT = re.compile(r"\A\{\s*+[\"']([\w -]{1,40}+)[\"']\s*+:\s*+[\"']")
#: the name of a text at the beginning of its line
_LABEL = re.compile(r"^[ \t*_]*+([^\W\d_][\w ]{0,40}+)\*{0,2}+[ \t]*+[:：]", re.MULTILINE)
_KEY = re.compile(r"[\"']\s*+:\s*+[\"'\[{]")
_CUT_END = re.compile(r"[\"']?[\s,]*+\}?[\s}]*+\Z")
_TAG = re.compile(r"<(/?)([A-Za-z][\w-]*+)>")
#: a heading, a rule, or a line that is nothing but bold
_BORDER = re.compile(
    r"^[ \t]*+(?:#{1,6}+[ \t][^\n]*+|([-*_=])(?:[ \t]*+\1){2,}+[ \t]*+|\*\*[^*\n]{1,80}+\*\*:?+[ \t]*+)$", re.MULTILINE
)


def unwrapped(text: str, prompt: str, words: Words) -> str:
    """The one text in a wrapping, that which has most of the user's words; the whole text where that is none."""
    for found in (_fenced(text), _of_json(text, prompt), _tagged(text, prompt), _labelled(text, prompt, words)):
        check_stop()
        inner = [one.strip() for one in found if tokens(one)]
        if (one := _the_one(inner, prompt, words)) is not None:
            return one
    sections = [] if _BORDER.search(prompt) else _sections(text)
    return _the_one(sections, prompt, words) or "\n".join(sections) if sections else text


def _the_one(texts: Sequence[str], prompt: str, words: Words) -> str | None:
    """The only one of several texts, or the only one that has most of the user's words."""
    if len(texts) < 2:
        return texts[0] if texts else None
    asked = content(prompt, words.small)
    shares = [(asked.kept_by(content(text, words.small)), index) for index, text in enumerate(texts)]
    shares.sort(reverse=True)
    (best, index), (second, _) = shares[:2]
    return texts[index] if best > 0 and second < best and second <= 0.5 else None


def _fenced(text: str) -> list[str]:
    if (inline := _INLINE_FENCE.match(text)) is not None:
        return [inline.group(1)]
    fences = [found.span() for found in _FENCE.finditer(text)]
    if len(fences) == 1:
        start, end = fences[0]
        return [text[:start] + text[end:]]
    opened, closed = fences[::2], [*fences[1::2], (len(text), len(text))]
    return [text[end:start] for (_, end), (start, _) in zip(opened, closed, strict=False)]


def _of_json(text: str, prompt: str) -> list[str]:
    """The texts of a JSON value, without their names; none where the user's prompt is JSON, too."""
    if not _OBJECT.match(text) or _OBJECT.match(prompt.lstrip()):
        return []
    end = max(text.rfind("}"), text.rfind("]")) + 1
    try:
        return list(_texts(json.loads(text[:end], strict=False)))
    except (ValueError, RecursionError):
        cut = _CUT_OBJECT.match(text)
        if cut is None or len(_KEY.findall(text)) > 1:
            return []
        return [_CUT_END.sub("", text[cut.end() :], count=1)]


def _texts(value: object) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _tagged(text: str, prompt: str) -> list[str]:
    """The texts in the outermost pairs of tags that the prompt has not; one that is not closed ends with the text."""
    own = {found.group(2) for found in _TAG.finditer(prompt)}
    inner: list[str] = []
    name, start = None, 0
    for found in _TAG.finditer(text):
        closes, tag = found.groups()
        if tag in own:
            continue
        if name is None and not closes:
            name, start = tag, found.end()
        elif closes and tag == name:
            inner.append(text[start : found.start()])
            name = None
        elif closes and name is None and not inner:
            inner.append(text[: found.start()])
    return [*inner, text[start:]] if name is not None and not inner else inner


def _labelled(text: str, prompt: str, words: Words) -> list[str]:
    """The texts that are named as prompts, of several that begin a line with their names."""
    labels = [] if _LABEL.search(prompt) else list(_LABEL.finditer(text))
    if len(labels) < 2:
        return []
    ends = [*(found.start() for found in labels[1:]), len(text)]
    return [
        text[found.end() : end].strip(" \t\n*")
        for found, end in zip(labels, ends, strict=True)
        if words.label.are_in(found.group(1))
    ]


def _sections(text: str) -> list[str]:
    """The texts between headings and rules; none where there is neither."""
    borders = [found.span() for found in _BORDER.finditer(text)]
    if not borders:
        return []
    ends = [0, *(end for _, end in borders)]
    starts = [*(start for start, _ in borders), len(text)]
    parts = [text[end:start].strip() for end, start in zip(ends, starts, strict=True)]
    return [part for part in parts if tokens(part)]
