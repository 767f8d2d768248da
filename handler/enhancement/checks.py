"""Checks a text against the rules of a brief. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from handler.api.enhance import Check, Language
from handler.enhancement.pack import Fault, Rules, Words
from handler.enhancement.scripts import foreign
from handler.enhancement.searched import Spans
from handler.enhancement.spans import missing, reversed_in
from handler.enhancement.vocabulary import has_word_of, stems, tokens


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text to check, and what to check it against."""

    text: str
    prompt: str
    spans: Spans
    rules: Rules
    words: Words
    #: None where it is not checked
    language: Language | None
    #: None where nothing was measured
    tokens: int | None
    min_tokens: int
    max_tokens: int | None
    #: the text ends where a clause does
    whole: bool
    #: what `verdict` says of the text
    fault: Fault | None = None
    #: the text is to be in another language than the prompt, so that its words cannot be found again
    translated: bool = False


def check(candidate: Candidate) -> dict[str, Check]:
    """Every check by name, the hard ones first."""
    hard = {name: Check(hard=True, found=tuple(found)) for name, found in _hard(candidate).items()}
    soft = {name: Check(hard=False, found=tuple(found)) for name, found in _soft(candidate).items()}
    return hard | soft


def _hard(candidate: Candidate) -> dict[str, Iterable[str]]:
    text, prompt = candidate.text, candidate.prompt
    lost = missing(text, candidate.spans)
    affirmed = [text[start:end] for start, end in reversed_in(text, candidate.spans)]
    over = candidate.tokens is not None and candidate.max_tokens is not None and candidate.tokens > candidate.max_tokens
    return {
        "budget": [f"{candidate.tokens} tokens"] if over else (),
        "protected": [span.text for span in lost if span.kind != "negation"],
        "negation": [*(span.text for span in lost if span.kind == "negation"), *affirmed],
        "clean": [candidate.fault] if candidate.fault in ("refusal", "question", "echo", "loop") else (),
        "subject": [candidate.fault] if candidate.fault == "off_subject" else (),
        "language": () if candidate.language is None else foreign(text, prompt, candidate.language, candidate.words),
        "complete": () if candidate.whole else ("cut inside a clause",),
    }


def _soft(candidate: Candidate) -> dict[str, Iterable[str]]:
    text, prompt, words = candidate.text, candidate.prompt, candidate.words
    own, there = stems(prompt, words.without_content), stems(text, words.without_content)
    added = _styles(text, words) - _styles(prompt, words)
    return {
        "words_kept": [word for stem, word in own.items() if stem not in there],
        "coverage": [kind for kind in candidate.rules.coverage if not has_word_of(text, kind, words.lexicon)],
        "repetition": _repeated(text),
        "added_style": sorted(added),
    }


def _styles(text: str, words: Words) -> set[str]:
    return {text[start:end].casefold() for start, end in words.lexicon.words("style").find(text)}


def _repeated(text: str) -> list[str]:
    """Runs of four words that occur more than once."""
    words = [word.casefold() for word in tokens(text)]
    seen: set[tuple[str, ...]] = set()
    repeated: dict[str, None] = {}
    for run in zip(words, words[1:], words[2:], words[3:], strict=False):
        if run in seen:
            repeated[" ".join(run)] = None
        seen.add(run)
    return list(repeated)
