"""Twice the text takes twice the time, whatever the text and the words of a pack are."""

import gc
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from handler.api.enhance import EnhanceRequest, Mode, Target
from handler.api.text import Message
from handler.enhancement import clauses, clean
from handler.enhancement.brief import Brief
from handler.enhancement.draft import Draft, composed, draft, over_budget
from handler.enhancement.judge import judged
from handler.enhancement.packs import Loaded, Packs
from handler.enhancement.repair import repaired
from tests.support.enhancing import a_brief, pack_json, packs, word_encoders

#: Twice the input may take so many times the processor time: 2, and room for a machine that is busy. Quadratic is 4.
AT_MOST = 3.0
#: the larger input is measured where it takes at least so many seconds
MEASURABLE_S = 0.02

Work = Callable[[], object]
SERIAL = count()


def enhanced(prompt: str, answer: str, pack: dict[str, Any] | None = None, **fields: Any) -> Work:
    """Everything that is done with a prompt and its answer, beside asking the model."""
    mode: Mode = "extend" if fields.pop("extend", False) else "rewrite"
    fields = {"job_type": "sdxl_image_fast", "mode": mode, **fields}
    # Not through the door, which refuses such lengths.
    request = EnhanceRequest.model_construct(
        _fields_set={"prompt", *fields}, **{**defaults(), "operation": "enhance", "prompt": prompt, **fields}
    )

    def work() -> None:
        found = packs() if pack is None else Packs((Loaded.of(pack),))
        brief = Brief.of(request, found, word_encoders())
        made = draft(brief, answer, "length")
        for one in (made, composed(brief), over_budget(brief), Draft(answer)):
            if isinstance(one, Draft):
                judged(brief, one)

    return work


def mended(prompt: str, answer: str) -> Work:
    """The repair of an answer, which may have any fault."""
    brief = a_brief(prompt)
    return lambda: repaired(brief, answer)


def defaults() -> dict[str, Any]:
    return {name: field.default for name, field in EnhanceRequest.model_fields.items() if not field.is_required()}


def of_messages(text: str, **fields: Any) -> Work:
    """The caller's own messages, whose last user turn is searched."""
    return enhanced(text, text, messages=(Message(role="user", content=text),), job_type=None, **fields)


def with_words(**lists: list[Any]) -> dict[str, Any]:
    """The default pack with other word lists."""
    value = pack_json()
    value["words"]["closings"] = [f"serial {next(SERIAL)}"]  # so that nothing that was kept of another pack serves it
    for name, phrases in lists.items():
        owner = next(part for part in (value["words"], *value["words"].values()) if name in part)
        owner[name] = phrases
    return value


def moving() -> dict[str, Any]:
    """The default pack with an entry that moves negations."""
    value = with_words()
    value["entries"]["sdxl_image_fast"]["negations"] = "move"
    return value


#: by name: the work for an input that is so many times the smallest one
INPUTS: dict[str, Callable[[int], Work]] = {
    "quotes that the request protects": lambda n: of_messages('"1" ' * 150 * n, protect=("1",)),
    "lines of a fence": lambda n: lambda: clean.clean("a" + "\n" * 300 * n + "b", "a", packs().loaded[0].pack.words),
    "blank lines in prompt and answer": lambda n: enhanced("a" + "\n" * 300 * n + "b", "a" + "\n" * 300 * n + "b"),
    "clauses with protected parts": lambda n: enhanced(
        "abcdefghijkl, " * 80 * n,  # over the budget already where n is 1
        "abcdefghijkl, " * 80 * n,
        protect=tuple("abcdefghijkl"[i:j] for i in range(10) for j in range(i + 1, 13))[:50],
    ),
    "phrases with one beginning": lambda n: enhanced(
        "-" * 1000 * n,
        "-" * 1000 * n,
        with_words(lighting=["x", *(f"{'-' * 150}{next(SERIAL)}" for _ in range(100 * n))]),
    ),
    "phrases with one beginning, in words": lambda n: enhanced(
        "a b " * 1000 * n,
        "a b " * 1000 * n,
        with_words(lighting=["x", *(f"a b c{next(SERIAL)}" for _ in range(100 * n))]),
    ),
    "nested phrases": lambda n: enhanced(
        "a " * 100 * n, "a " * 100 * n, with_words(lighting=["a " * size + "b" for size in range(1, 99)])
    ),
    "negations of as many nouns": lambda n: enhanced(
        " ".join(f"nope w{index}" for index in range(30 * n)),
        " ".join(f"nope w{index}" for index in range(30 * n)),
        with_words(negations=["nope", *(f"x{next(SERIAL)}" for _ in range(240 * n))]),
    ),
    "a negation again and again": lambda n: enhanced("no fox, " * 60 * n, "a fox, no fox, " * 60 * n),
    "lists of negated nouns": lambda n: enhanced("no a, b, c or d, e " * 40 * n, "a or b, no a or " * 60 * n),
    "negations of one noun with many adjectives": lambda n: enhanced(
        ", ".join(f"no w{index % 120}x fox" for index in range(60 * n)), "a fox, w1x fox, " * 60 * n
    ),
    "negations behind nouns": lambda n: enhanced("猫も犬も" * 60 * n + "いない", "帽子なし" * 60 * n),
    "articles and fillers": lambda n: enhanced("no the a any " * 60 * n, "no any kind of the " * 60 * n),
    "compounds": lambda n: enhanced("crowd-free-" * 60 * n, "crowd-free " * 60 * n),
    "moved negations": lambda n: enhanced("a fox, no cat, " * 40 * n, "with no cat and " * 60 * n, moving()),
    "names that begin alike": lambda n: enhanced(
        "x, " + " x ".join(f"Ann B{index % 120}b" for index in range(60 * n)), "Ann Bob, x, " * 60 * n
    ),
    "words that are as many numbers": lambda n: enhanced("twenty one hundred " * 40 * n, "a hundred two " * 60 * n),
    "a name of many words": lambda n: enhanced("a " + "Ann " * 30 * n + "a b c d " * 40 * n, "x " + "Ann " * 60 * n),
    "glued numbers in parts": lambda n: enhanced("1a" * 30 * n + " b", "1 a " * 60 * n),
    "glued numbers": lambda n: enhanced("a1-" * 200 * n, "1a1a" * 200 * n),
    "groups with one beginning": lambda n: enhanced(
        "a " * 400 * n, "a " * 400 * n, with_words(alike=[["x", *(f"a a b{next(SERIAL)}" for _ in range(99))]] * n)
    ),
    "letters of two scripts": lambda n: enhanced("狐a" * 200 * n, "狐a " * 200 * n),
    "single quotation marks": lambda n: enhanced("'a'a ‘b’b ‚c " * 60 * n, " 'a's 'b ‘c’d" * 60 * n),
    "primes": lambda n: enhanced("5'10\" " * 60 * n, "1\" 2' " * 60 * n),
    "clauses that go with a contradiction": lambda n: enhanced(
        ", ".join(f"w{index}" for index in range(100 * n)) + ", no cat",
        " ".join(f"w{index}" for index in range(0, 100 * n, 2))
        + " cat, "
        + ", ".join(f"w{index}" for index in range(1, 100 * n, 2)),
    ),
    "lost colours": lambda n: enhanced("a red fox, " * 40 * n, "a blue fox, an owl, " * 40 * n),
    "quotation marks": lambda n: enhanced("\"a' “«「" * 60 * n, "\"a' “«「" * 60 * n),
    "lines of a prompt": lambda n: mended("a fox\n" * 60 * n, "a fox, an owl, " * 60 * n),
    "lines in a rewritten answer": lambda n: mended("a fox\n" * 60 * n, "a fox\n\n" * 60 * n),
    "marks between words": lambda n: mended("fox BREAK owl AND " * 40 * n, "an owl, a fox, " * 60 * n),
    "as many marks as get their places": lambda n: mended(
        "fox BREAK owl, " * 120 + "a hen, " * 40 * n, "an owl, a fox, a hen, " * 60 * n
    ),
    "brackets": lambda n: enhanced("(a:1 [b:2 <c:" * 40 * n, "(a:1 [b:2 <c:" * 40 * n),
    "open brackets": lambda n: enhanced("(" * 300 * n, "(" * 300 * n),
    "brackets in brackets": lambda n: enhanced("(" * 60 * n + "a" + ":1.1)" * 60 * n, "[" * 60 * n + "a|b]" * 60 * n),
    "brackets of other kinds": lambda n: enhanced("([a)" * 100 * n, "{a|(b:1.1) [c}" * 30 * n),
    "tags and marks": lambda n: enhanced("<lora:a:1> BREAK x " * 40 * n, "<a><random:b,c> [5s] AND y " * 40 * n),
    "tags that are not closed": lambda n: enhanced("<random:a, b|" * 60 * n, "<a></b" * 100 * n),
    "repetitions": lambda n: enhanced("<repeat[99]:" * 20 * n + "a" + ">" * 20 * n, "<repeat[99]:a b>" * 2 * n),
    "wildcards": lambda n: enhanced("__a__b __c(d" * 60 * n, "${a=" * 80 * n),
    "weights over the budget": lambda n: enhanced(
        "(a b:1.2) c " * 60 * n, "(a b:1.2) c, " * 60 * n, target=Target(encoder="qwen", max_tokens=5)
    ),
    "keywords over the budget": lambda n: enhanced(
        "a fox", "soft light, highly detailed, a stone, " * 40 * n, target=Target(encoder="qwen", max_tokens=40)
    ),
    "colons in a bracket": lambda n: enhanced("(" + "a: 1" * 100 * n, "(" + "a: 1" * 100 * n),
    "digits": lambda n: enhanced("1,1" * 100 * n + "a", "1" * 300 * n + "a"),
    "capitals": lambda n: enhanced("a, " + "AAAA" * 100 * n, "a, " + "AAAA" * 100 * n),
    "names": lambda n: enhanced("the Ann at home " * 40 * n, "x Ann Bea at home " * 40 * n),
    "marks": lambda n: enhanced(", ." * 150 * n, ", ." * 150 * n),
    "closings": lambda n: enhanced("let me know", "a\n" + "let me know\n" * 60 * n),
    "markdown": lambda n: enhanced("a fox", "- 1. # **\n" * 60 * n),
    "objects in objects": lambda n: enhanced("a fox", '{"a": [' * 100 * n),
    "an object that is cut off": lambda n: enhanced("a fox", '{"prompt": "a fox' + " }" * 300 * n + "x"),
    "tags": lambda n: enhanced("a fox", "<a><b></a>" * 80 * n),
    "tags that are never closed": lambda n: enhanced("a fox", "<a>" * 200 * n),
    "headings": lambda n: enhanced("a fox", "# a fox\n---\n**b**\n" * 40 * n),
    "rules": lambda n: enhanced("a fox", "- - " * 200 * n),
    "names of lines": lambda n: enhanced("a fox", "Prompt: a fox\n" * 60 * n),
    "items of a list": lambda n: enhanced("a fox", "Option A: a fox\n1. a fox\n" * 40 * n),
    "letters of one word": lambda n: enhanced("a fox", "a" * 3000 * n),
    "brackets and remarks": lambda n: enhanced("a fox", "a ([(*- " * 100 * n),
    "openings around openings": lambda n: enhanced("a fox", "Sure! Here is: " * 60 * n),
    "talk": lambda n: enhanced("I can't, could you?", "I can't. Could you please? " * 40 * n),
    "sentences": lambda n: enhanced("a? " * 100 * n, "b? c! " * 100 * n),
    "quotes that are not closed": lambda n: enhanced("a fox", "\u2018a “b „c " * 100 * n),
    "the pack's own messages": lambda n: enhanced(
        "a fox", "Do not add subjects, and do not choose an artistic style " * 10 * n
    ),
    "words that follow themselves": lambda n: enhanced("a b " * 100 * n, "a b c " * 100 * n),
    "characters without spaces": lambda n: enhanced("红狐在雪中" * 40 * n, "蓝狐在雪中的" * 40 * n),
    "characters without content": lambda n: enhanced("的一" * 100 * n, "的一" * 100 * n),
    "accents": lambda n: enhanced("é" * 400 * n, "e\u0301" * 400 * n),
    "thoughts": lambda n: enhanced("a fox", "<think></think" * 60 * n),
    "control tokens": lambda n: enhanced("a fox", "<|a " * 100 * n),
    "clauses of one letter, none of them the user's": lambda n: enhanced(
        "qq" * 20_000 * n,
        ", ".join(f"{index % 100}{chr(97 + index // 100 % 26)}" for index in range(400 * n)),
        extend=True,
    ),
    "words over the budget": lambda n: enhanced(
        "1 a " * 100 * n, "1 a " * 100 * n, protect=("1",), target=Target(encoder="qwen", max_tokens=5)
    ),
    "lines": lambda n: lambda: clauses.one_line("ab\n" * 20_000 * n),
}


def seconds(work: Work) -> float:
    """Processor seconds of this thread for a piece of work."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


@pytest.mark.parametrize("made", INPUTS.values(), ids=INPUTS)
def test_twice_the_input_takes_twice_the_time_at_most(made: Callable[[int], Work]) -> None:
    size = 1
    while seconds(made(2 * size)) < MEASURABLE_S and size < 2**12:
        size *= 2
    gc.collect()
    gc.disable()
    try:
        # The least of several: whatever else the machine does only adds to it.
        once, twice = (min(seconds(made(times * size)) for _ in range(3)) for times in (1, 2))
    finally:
        gc.enable()
    assert twice < AT_MOST * once, f"size {size}: {once:.4f} s, twice as much: {twice:.4f} s"
