"""Finds an assistant's talk in a text: a refusal, a question, an offer, a remark on its own work. Pure; cuts nothing.

The user's own words are no talk: a phrase of the prompt is not looked for, nor is the first person where the prompt
speaks in it, nor a question where the prompt asks one.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Literal

from handler.enhancement.pack import Words
from handler.enhancement.phrases import Phrases, folded
from handler.enhancement.speech import said, sentences
from handler.pool import check_stop

_QUESTION = "?？"
_COLON = ":："


@dataclass(frozen=True, slots=True)
class _Listener:
    """What of a text is talk, for one prompt."""

    words: Words
    #: the prompt without quotes, and all of it
    prompt: str

    def of(self, phrases: Phrases, text: str) -> Set[str]:
        """The phrases that a text has and the prompt has not."""
        found = _found(phrases, text)
        return found - _found(phrases, self.prompt) if found else found

    def begins(self, phrases: Phrases, text: str) -> bool:
        """Whether a text begins with a phrase that the prompt has not."""
        check_stop()
        beginning = phrases.beginning(text)
        return beginning is not None and folded(beginning) not in _found(phrases, self.prompt)

    def is_addressed(self, text: str) -> bool:
        """Whether a text speaks of itself or to its reader, in whatever sentence."""
        words = self.words
        speaks = words.speaking.are_in(text) and not words.speaking.are_in(self.prompt)
        asks = _has(text, _QUESTION) and not _has(self.prompt, _QUESTION)
        announces = text.rstrip(" *\n").endswith(tuple(_COLON))
        return (
            speaks or asks or announces or bool(self.of(words.addressing_reader, text) or self.of(words.on_work, text))
        )


def talk(text: str, prompt: str, words: Words) -> Literal["refusal", "question"] | None:
    """What a text says as an assistant would: that it refuses, or anything else; None where it only describes."""
    listener = _Listener(words, prompt.replace("’", "'"))
    spoken = said(text)
    begun = [spoken[start:end] for start, end in sentences(spoken)]
    if any(listener.begins(words.refusing, sentence) for sentence in begun):
        return "refusal"
    if listener.is_addressed(spoken):
        return "refusal" if listener.of(words.refusing, spoken) else "question"
    return "question" if any(listener.begins(words.remark, sentence) for sentence in begun) else None


def _found(phrases: Phrases, text: str) -> Set[str]:
    return {folded(text[start:end]) for start, end in phrases.find(text)}


def _has(text: str, marks: str) -> bool:
    return any(mark in text for mark in marks)
