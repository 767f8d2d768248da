"""Finds the prompt in a model's answer, checks it against the rules, and scores it. Pure."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import get_args

from handler.api.enhance import Check, Language, SdxlOptimizations, WanOptimizations
from handler.enhancement.clauses import one_line
from handler.enhancement.pack import Fault, Kind, Lexicon, Rules, Words
from handler.enhancement.spans import Span, any_of, missing, reversed_in

_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)|\A.*</think>", re.DOTALL | re.IGNORECASE)
_CONTROL = re.compile(r"<\|[\w ]*\|>")
_FENCE = re.compile(r"^\s*```\w*\s*$", re.MULTILINE)
_MARKDOWN = re.compile(r"^[ \t]*+(?:#{1,6}|[-*•]|\d+[.)])\s+|\*\*", re.MULTILINE)
_COLON = re.compile(r":\**\s*|\n")
_QUOTES = (('"', '"'), ("“", "”"), ("'", "'"), ("`", "`"), ("«", "»"), ("「", "」"))
#: characters from an opening to its colon, at most
_OPENING_CHARACTERS = 100
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")

#: script of a language as the names of Unicode's characters begin; the others that can be asked for are Latin
_SCRIPTS: Mapping[str, frozenset[str]] = {
    "zh": frozenset({"CJK"}),
    "ja": frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}),
    "ko": frozenset({"HANGUL"}),
    "ru": frozenset({"CYRILLIC"}),
    "uk": frozenset({"CYRILLIC"}),
    "el": frozenset({"GREEK"}),
    "ar": frozenset({"ARABIC"}),
    "he": frozenset({"HEBREW"}),
    "hi": frozenset({"DEVANAGARI"}),
    "th": frozenset({"THAI"}),
}
_LATIN = frozenset({"LATIN"})
#: the score of a text that failed a hard check, at most
CAP = 0.49


def clean(answer: str, prompt: str, lists: Words) -> tuple[str, Fault | None]:
    """The prompt within an answer, on one line; with the fault where there is none."""
    text = _CONTROL.sub("", _THINKING.sub("", answer)).strip()
    if _begins(text, prompt, lists.refusals):
        return text, "refusal"
    if _begins(text, prompt, lists.openings):
        end = _COLON.search(text, 0, _OPENING_CHARACTERS)
        if end is None or not text[end.end() :].strip():
            return text, "meta"
        text = text[end.end() :]
    lines = _MARKDOWN.sub("", _FENCE.sub("", text)).strip().splitlines()
    for index, line in enumerate(lines):
        if index and _begins(line, prompt, lists.closings):
            lines = lines[:index]
            break
    text = one_line("\n".join(lines))
    for opened, closed in _QUOTES:
        inner = text[1:-1]
        if len(text) > 1 and text[0] == opened and text[-1] == closed and opened not in inner and closed not in inner:
            text = inner.strip()
            break
    if not _TOKEN.search(text):
        return text, "empty"
    return text, "refusal" if _begins(text, prompt, lists.refusals) else None


def _begins(text: str, prompt: str, phrases: tuple[str, ...]) -> bool:
    """Whether a text begins with one of the phrases, and the user's prompt does not."""
    found = any_of(phrases).match(text.lstrip(" \t\n*#\"'“`").replace("’", "'"))
    return found is not None and not prompt.strip().casefold().startswith(found.group().casefold())


def stems(text: str, stopwords: tuple[str, ...] = ()) -> dict[str, str]:
    """The content words of a text by their stem: the first five letters, or one character of an unspaced script."""
    stops = _folded(stopwords)
    found = (match.group() for match in _TOKEN.finditer(text))
    words = ((word, word.casefold()) for word in found)
    content = ((word, folded) for word, folded in words if len(folded) > 2 or folded > "\u3000")
    return {folded[:5]: word for word, folded in content if folded not in stops}


@lru_cache(maxsize=64)
def _folded(words: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word.casefold() for word in words)


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0]


def scripts(text: str) -> dict[str, int]:
    """Letters by script."""
    if text.isascii():
        return {"LATIN": letters} if (letters := sum(map(str.isalpha, text))) else {}
    return Counter(_script(character) for character in text if character.isalpha())


def translated(prompt: str, language: Language) -> bool:
    """True where the result is to be in another script than the prompt."""
    found = scripts(prompt)
    return language != "same" and bool(found) and max(found, key=found.__getitem__) not in _scripts_of(language)


def _scripts_of(language: Language) -> frozenset[str]:
    return _SCRIPTS.get(language, _LATIN)


def foreign(text: str, prompt: str, language: Language) -> tuple[str, ...]:
    """Scripts of a text that the language does not have; those of the prompt may occur, but not lead."""
    found, own = scripts(text), scripts(prompt)
    if not found:
        return ()
    if language == "same":
        return tuple(sorted(set(found) - set(own))) if own else ()
    expected = _scripts_of(language)
    strays = set(found) - expected - set(own)
    leading = max(found, key=found.__getitem__)
    return tuple(sorted(strays if leading in expected else strays | {leading}))


def kind_of(text: str, lexicon: Lexicon, order: tuple[Kind, ...]) -> Kind:
    """The topic of a clause: the list with most of its words; at a tie the one that comes first in the order."""
    pattern, kinds = _vocabulary(lexicon, order)
    hits = Counter(kind for found in pattern.findall(text) for kind in kinds[found.casefold()])
    return max(hits, key=lambda kind: (hits[kind], -order.index(kind))) if hits else "subject"


@lru_cache(maxsize=64)
def _vocabulary(lexicon: Lexicon, order: tuple[Kind, ...]) -> tuple[re.Pattern[str], Mapping[str, list[Kind]]]:
    """Every phrase of a lexicon in one pattern, and the lists that each stands in."""
    kinds: dict[str, list[Kind]] = {}
    for kind in order:
        for phrase in lexicon.phrases(kind):
            kinds.setdefault(phrase.casefold(), []).append(kind)
    return any_of(tuple(kinds)), kinds


def speaks_of(text: str, kind: Kind, lexicon: Lexicon) -> bool:
    """True where a text has a word of a list."""
    return any_of(lexicon.phrases(kind)).search(text) is not None


@dataclass(frozen=True, slots=True)
class Subject:
    """A text to check, and what to check it against."""

    text: str
    prompt: str
    spans: tuple[Span, ...]
    rules: Rules
    lists: Words
    language: Language | None
    #: None where nothing was measured
    tokens: int | None
    min_tokens: int
    max_tokens: int | None
    #: the text ends where a clause does
    whole: bool


def check(subject: Subject) -> dict[str, Check]:
    """Every check by name, the hard ones first."""
    text, prompt, rules, lists = subject.text, subject.prompt, subject.rules, subject.lists
    lost = missing(text, subject.spans)
    turned = reversed_in(text, subject.spans, prompt)
    cleaned, fault = clean(text, prompt, lists)
    language = () if subject.language is None else foreign(text, prompt, subject.language)
    over = subject.tokens is not None and subject.max_tokens is not None and subject.tokens > subject.max_tokens
    own, there = stems(prompt, lists.stopwords), stems(text, lists.stopwords)
    covered = [kind for kind in rules.coverage if not speaks_of(text, kind, lists.lexicon)]
    styles = any_of(lists.lexicon.style)
    added = {style.casefold() for style in styles.findall(text)} - {own.casefold() for own in styles.findall(prompt)}
    lost_words = [word for stem, word in own.items() if stem not in there]
    return {
        "budget": _hard([f"{subject.tokens} tokens"] if over else ()),
        "protected": _hard(span.text for span in lost if span.kind != "negation"),
        "negation": _hard(
            [*(span.text for span in lost if span.kind == "negation"), *(text[start:end] for start, end in turned)]
        ),
        "clean": _hard([fault] if fault else ["text around the prompt"] if cleaned != one_line(text) else ()),
        "language": _hard(language),
        "complete": _hard(() if subject.whole else ("cut inside a clause",)),
        "words_kept": _soft(lost_words),
        "coverage": _soft(covered),
        "repetition": _soft(_repeated(text)),
        "added_style": _soft(sorted(added)),
    }


def score(subject: Subject, checks: Mapping[str, Check]) -> tuple[float, dict[str, float]]:
    """How well the rules are kept, 0 to 1, and the parts it is the weighted mean of."""
    rules = subject.rules
    own = stems(subject.prompt, subject.lists.stopwords)
    words = [match.group().casefold() for match in _TOKEN.finditer(subject.text)]
    pairs = list(pairwise(words))
    parts = {
        "words_kept": 1 - len(checks["words_kept"].found) / len(own) if own else 1.0,
        "coverage": 1 - len(checks["coverage"].found) / len(rules.coverage) if rules.coverage else 1.0,
        "repetition": len(set(pairs)) / len(pairs) if pairs else 1.0,
        "added_style": 1 / (1 + len(checks["added_style"].found)),
        "length": min(1.0, (subject.tokens or 0) / subject.min_tokens) if subject.min_tokens else 1.0,
    }
    weights: dict[str, float] = rules.score.model_dump()
    value = sum(parts[name] * weight for name, weight in weights.items()) / sum(weights.values())
    if any(one.hard and not one.passed for one in checks.values()):
        value = min(value, CAP)
    return round(value, 4), {name: round(part, 4) for name, part in parts.items()}


def sdxl(text: str, tokens: int, lexicon: Lexicon) -> SdxlOptimizations:
    """The summary for an image model."""
    return SdxlOptimizations(
        has_quality_tags=speaks_of(text, "quality", lexicon),
        has_lighting=speaks_of(text, "lighting", lexicon),
        has_technical_terms=speaks_of(text, "technical", lexicon),
        has_resolution=speaks_of(text, "resolution", lexicon),
        has_anatomical_accuracy=speaks_of(text, "anatomy", lexicon) if lexicon.anatomy else None,
        token_count=tokens,
    )


def wan(text: str, tokens: int, lexicon: Lexicon) -> WanOptimizations:
    """The summary for a video model."""
    return WanOptimizations(
        has_motion=speaks_of(text, "motion", lexicon),
        has_cinematography=speaks_of(text, "camera", lexicon),
        has_temporal_consistency=speaks_of(text, "temporal", lexicon),
        has_quality=speaks_of(text, "quality", lexicon),
        token_count=tokens,
    )


def _hard(found: Iterable[str]) -> Check:
    return Check(hard=True, found=tuple(found))


def _soft(found: Iterable[str]) -> Check:
    return Check(hard=False, found=tuple(found))


def _repeated(text: str) -> Sequence[str]:
    """Runs of four words that come twice."""
    words = [match.group().casefold() for match in _TOKEN.finditer(text)]
    seen: set[tuple[str, ...]] = set()
    twice: dict[str, None] = {}
    for run in zip(words, words[1:], words[2:], words[3:], strict=False):
        if run in seen:
            twice[" ".join(run)] = None
        seen.add(run)
    return list(twice)


assert set(_SCRIPTS) <= set(get_args(Language))
