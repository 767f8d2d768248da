"""Writes a lost count or colour before its noun, where an answer has the noun. Pure; asks no model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from handler.api.enhance import Repair
from handler.enhancement.brief import Brief
from handler.enhancement.searched import Span
from handler.enhancement.spans import missing
from handler.enhancement.wording import Token
from handler.pool import check_stop

#: counts and colours that are written so, at most
MAX_AMENDMENTS = 8
#: words from a count or colour to its noun, at most
_REACH = 3
#: letters of a noun, at least
_LETTERS = 3


@dataclass(frozen=True, slots=True)
class _Edit:
    """A part of the answer, and what stands there instead."""

    start: int
    end: int
    text: str
    #: a count or colour that was against the user's words
    replaced: str = ""


def amended(brief: Brief, text: str) -> tuple[str, list[Repair]]:
    """The text with lost counts and colours before their nouns; another one that stands there is replaced."""
    lost = [span for span in missing(text, brief.spans) if span.kind in ("count", "colour")][:MAX_AMENDMENTS]
    if not lost:
        return text, []
    read = brief.words.protect.wording.read
    prompt, answer = read(brief.prompt), read(text)
    edits = [(span, edit) for span in lost for edit in _edits(brief, span, prompt, answer, text)]
    edits.sort(key=lambda pair: (pair[1].start, pair[1].end, pair[0].region or (0, 0)))
    parts: list[str] = []
    repairs: list[Repair] = []
    behind = 0
    for span, edit in edits:
        if edit.start < behind:
            continue
        if edit.replaced:
            repairs.append(Repair(kind="removed", text=edit.replaced))
        repairs.append(Repair(kind="inserted", text=span.text))
        parts += (text[behind : edit.start], edit.text)
        behind = edit.end
    return "".join((*parts, text[behind:])), repairs


def _edits(brief: Brief, span: Span, prompt: Sequence[Token], answer: Sequence[Token], text: str) -> Iterator[_Edit]:
    """The one edit that writes a span; none where the answer lacks its noun, or has it in another number."""
    noun = _noun(brief, span, prompt)
    index = None if noun is None else next((at for at, one in enumerate(answer) if one.key == noun.key), None)
    if index is None:
        return
    protect = brief.words.protect
    own = protect.count_keys if span.kind == "count" else protect.colour_keys
    first = index
    # Behind the count come colours; in front of them it is written.
    while first and _joined(text, answer[first - 1], answer[first]) and answer[first - 1].key in protect.colour_keys:
        if span.kind == "colour":
            break
        first -= 1
    before = answer[first - 1] if first and _joined(text, answer[first - 1], answer[first]) else None
    if before is not None and before.key in own:
        if all(before.key != token.key for token in prompt):
            yield _Edit(before.start, before.end, span.text, text[before.start : before.end])
    elif before is not None and text[before.start : before.end].casefold() in ("a", "an"):
        if span.kind == "colour":
            article = "an" if span.text[0].casefold() in "aeiou" else "a"
            capital = article.capitalize() if text[before.start].isupper() else article
            yield _Edit(before.start, answer[first].start, f"{capital} {span.text} ")
    else:
        yield _Edit(answer[first].start, answer[first].start, f"{span.text} ")


def _noun(brief: Brief, span: Span, prompt: Sequence[Token]) -> Token | None:
    """The noun of a count or colour: the first word behind it that is none itself."""
    if span.region is None:
        return None
    protect = brief.words.protect
    before: Token | None = None
    reached = 0
    for token in prompt:
        check_stop()
        if token.start < span.region[1]:
            before = token
            continue
        reached += 1
        if before is None or reached > _REACH or not _joined(brief.prompt, before, token):
            return None
        if token.key not in protect.count_keys and token.key not in protect.colour_keys:
            long = len(token.key) >= _LETTERS and token.key.isascii() and token.key not in brief.words.small
            return token if long else None
        before = token
    return None


def _joined(text: str, before: Token, token: Token) -> bool:
    """Whether one space is between two words."""
    return text[before.end : token.start] == " "
