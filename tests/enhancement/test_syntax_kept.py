"""Fitting and repairing keep syntax: no bracket breaks, no tag is lost, no weight changes, nothing is doubled.

`make syntax` tries 20,000 prompts with each.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from handler.enhancement.draft import Draft, draft, over_budget
from handler.enhancement.repair import repaired
from handler.enhancement.syntax import encoded, parse
from tests.support.enhancing import a_brief

#: examples of each test; `make syntax` sets it
EXAMPLES = int(os.environ.get("SYNTAX_EXAMPLES", "150"))
#: words of no list of the pack; each is in a prompt once, so that its place is known
WORDS = [
    f"{first}{second}" for first in "bdfgklmnprstvz" for second in ("alom", "irun", "obek", "ufal", "enit", "oras")
]
LISTED = ["soft light", "highly detailed", "sharp focus", "oil painting", "best quality", "backlight"]
SCALE = re.compile(r":([-\d.]+)\)$")


@dataclass(frozen=True)
class Prompt:
    """A prompt with syntax; its first clause names the subject, the only word in capitals."""

    text: str
    clauses: tuple[str, ...]
    subject: str


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    """Clauses with weights, tags, alternations and marks between them."""
    words = iter(draw(st.permutations(WORDS)))
    names = count()

    def some(most: int) -> str:
        return " ".join(next(words) for _ in range(draw(st.integers(1, most))))

    def option() -> str:
        return draw(st.sampled_from(["{}", "({}:1.1)", "[{}|x]"])).format(some(2))

    def piece(depth: int = 0) -> str:
        match draw(st.integers(0, 13 if depth < 2 else 1)):
            case 2:
                return f"({piece(depth + 1)} {some(2)}:{draw(st.sampled_from(['1.2', '0.8', '1', '1.35']))})"
            case 3:
                return f"(({some(2)}))"
            case 4:
                return f"<lora:x{next(names)}:{draw(st.sampled_from(['1', '0.8']))}>"
            case 5:
                return f"[{some(2)}|{option()}]"
            case 6:
                return f"[{some(2)}:{option()}:0.5]"
            case 7:
                return f"{{{some(2)}|{option()}}}"
            case 8:
                return f"__{next(words)}__"
            case 9:
                return f"<random:{some(2)}, {some(1)}>"
            case 10:
                return f"({some(2)}, {some(2)})"
            case 11:
                return rf"{next(words)} \({some(1)}\)"
            case 12:
                return draw(st.sampled_from(LISTED))
            case 13:
                return draw(st.sampled_from(["3 red", "no", "“A, B”", "<trigger>", "16:9"])) + " " + next(words)
            case _:
                return some(4)

    subject = f"{next(words)}foxen"
    clauses = [f"a {subject} {piece()}"]
    for _ in range(draw(st.integers(0, 6))):
        clause = " ".join(piece() for _ in range(draw(st.integers(1, 2))))
        clauses.append(clause)
    text = clauses[0]
    for clause in clauses[1:]:
        text += draw(st.sampled_from([", ", ", ", ". ", " BREAK ", " <segment:face> ", "\n", " AND "])) + clause
    return Prompt(text, tuple(clauses), subject)


def is_whole(text: str) -> bool:
    """Whether each bracket of a text has its partner."""
    open_: list[str] = []
    for one in re.sub(r"\\[()]", "", text):
        if one in "([{<":
            open_.append(one)
        elif one in ")]}>" and (not open_ or open_.pop() != "([{<"[")]}>".index(one)]):
            return False
    return not open_


def tags(text: str) -> Counter[str]:
    return Counter(re.findall(r"<lora:[^<>]+>|<trigger>|<segment:face>|\bBREAK\b|\bAND\b", text))


def weights(text: str) -> dict[str, tuple[str, ...]]:
    """By word: the weights of all brackets around it, and the kinds of the others."""
    found: dict[str, tuple[str, ...]] = {}

    def search(part: str, around: tuple[str, ...]) -> None:
        behind = 0
        for one in parse(part).elements:
            found.update(dict.fromkeys(re.findall(r"[a-z]{4,}", part[behind : one.start]), around))
            behind = one.end
            inside = part[one.start : one.end]
            if one.kind == "weight":
                scale = SCALE.search(inside)
                search(inside[1 : scale.start() if scale else -1], (*around, scale[1] if scale else inside[0]))
            else:
                found.update(dict.fromkeys(re.findall(r"[a-z]{4,}", inside), (*around, one.kind)))
        found.update(dict.fromkeys(re.findall(r"[a-z]{4,}", part[behind:]), around))

    search(text, ())
    return found


def part_of(word: str, text: str) -> int:
    """How many marks that part texts are in front of a word."""
    before = text[: text.index(word)]
    return len(re.findall(r"\bBREAK\b|\bAND\b|<segment:face>", before))


def keeps(result: str, prompt: Prompt) -> None:
    """What is in a result is as it was in the prompt."""
    assert is_whole(result)
    assert tags(result) == tags(prompt.text)
    before, after = weights(prompt.text), weights(result)
    for word in WORDS:
        assert word not in after or after[word] == before[word], word
        if word in result and word in prompt.text:
            assert result.count(word) == 1, word
            assert part_of(word, result) == part_of(word, prompt.text), word


@settings(max_examples=EXAMPLES)
@given(prompts(), st.integers(1, 30))
def test_a_prompt_that_is_too_long_keeps_its_syntax_its_subject_and_its_budget(prompt: Prompt, tokens: int) -> None:
    brief = a_brief(prompt.text, target={"encoder": "qwen", "max_tokens": tokens})
    made = over_budget(brief).text
    assert brief.limit.fits(made)
    assert len(encoded(made).split()) <= tokens
    keeps(made, prompt)
    if tokens >= 9:
        assert prompt.subject in made


@settings(max_examples=EXAMPLES)
@given(prompts(), st.integers(9, 40), st.lists(st.sampled_from(LISTED), max_size=6, unique=True))
def test_an_answer_with_the_users_syntax_keeps_it_when_it_is_fitted(
    prompt: Prompt, tokens: int, added: list[str]
) -> None:
    brief = a_brief(prompt.text, target={"encoder": "qwen", "max_tokens": tokens})
    made = draft(brief, ", ".join([prompt.text, "herons over a lake", *added]), "stop")
    assert isinstance(made, Draft)
    assert brief.limit.fits(made.text)
    keeps(made.text, prompt)
    assert prompt.subject in made.text


@settings(max_examples=EXAMPLES)
@given(prompts())
def test_nothing_is_put_into_an_answer_that_has_all_of_the_users_syntax(prompt: Prompt) -> None:
    assert repaired(a_brief(prompt.text), prompt.text) == (prompt.text, ())


@settings(max_examples=EXAMPLES)
@given(prompts(), st.sampled_from(["without syntax", "whole", "of the subject", "of something else"]))
def test_an_answer_that_lost_syntax_gets_it_back_whole_and_once(prompt: Prompt, kind: str) -> None:
    answers = {
        "without syntax": encoded(prompt.text),
        "whole": prompt.text,
        "of the subject": f"a {prompt.subject} in soft light, highly detailed",
        "of something else": "a quiet harbour in soft light",
    }
    text, _ = repaired(a_brief(prompt.text), answers[kind])
    assert is_whole(text)
    assert tags(text) >= tags(prompt.text)
    assert text.count("\n") == prompt.text.count("\n")
    assert not text.startswith(("BREAK", "AND", "<segment:face>"))
    assert {one.words for one in parse(prompt.text).elements} <= {one.words for one in parse(text).elements}
    # Where all marks of a prompt are lost, its first part may come twice, and a word may get behind another mark.
    if kind != "without syntax":
        assert text.count(prompt.subject) == 1 or (kind == "of something else" and prompt.subject not in text)
