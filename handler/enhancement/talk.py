"""Finds an assistant's talk in a text: a refusal, a question, an offer, a remark on its own work. Pure; cuts nothing.

The user's own words are no talk: a phrase of the prompt is not looked for, nor is the first person where the prompt
speaks in it, nor a question where the prompt asks one.
"""

from collections.abc import Collection, Iterator
from typing import Literal

from handler.enhancement.pack import TalkKind, Words
from handler.enhancement.phrases import folded
from handler.enhancement.speech import said, sentences
from handler.pool import check_stop

#: kinds of phrases that are talk wherever they stand, and those that are where a sentence begins with them
_ANYWHERE: Collection[TalkKind] = ("first_person", "addressing", "exchange")
_AT_THE_BEGINNING: Collection[TalkKind] = ("refusals", "remarks")
_QUESTION = "?？"
_COLON = (":", "：")


def talk(text: str, prompt: str, words: Words) -> Literal["refusal", "question"] | None:
    """What a text says as an assistant would: that it refuses, or anything else; None where it only describes."""
    spoken, own = said(text), prompt.replace("’", "'")
    users = {phrase for _, phrase, _ in _phrases(own, words)}
    speaks = any("first_person" in kinds for _, _, kinds in _phrases(own, words))
    begins = {start for start, _ in sentences(spoken)}
    found: set[TalkKind] = set()
    refuses = False
    for start, phrase, kinds in _phrases(spoken, words):
        if phrase in users:
            continue
        found.update(kind for kind in kinds if kind in _ANYWHERE and not (kind == "first_person" and speaks))
        found.update(kind for kind in kinds if kind in _AT_THE_BEGINNING and start in begins)
        refuses = refuses or "refusals" in kinds
    asks = _has(spoken, _QUESTION) and not _has(own, _QUESTION)
    if not (found or asks or spoken.rstrip(" *\n").endswith(_COLON)):
        return None
    return "refusal" if refuses else "question"


def _phrases(text: str, words: Words) -> Iterator[tuple[int, str, Collection[TalkKind]]]:
    """The place of each phrase of talk in a text, the phrase, and its kinds."""
    phrases, kinds = words.talk
    for start, ends in phrases.places(text):
        check_stop()
        for end in ends:
            phrase = folded(text[start:end])
            yield start, phrase, kinds[phrase]


def _has(text: str, marks: str) -> bool:
    return any(mark in text for mark in marks)
