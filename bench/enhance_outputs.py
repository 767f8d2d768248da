"""What the worker makes of stored outputs of other enhancers: good ones refused or cut, and what the fit leaves out.

`measure` reads a checkout of Vchitect/VBench@45e79ec (`prompts` and `VBench-2.0/prompts` of it); nothing of it is kept
here but line numbers, with labels that were given by hand before any of the lines was judged. What an output speaks of
is counted with the word lists of pack 1.0.0, so that a pack cannot better its own figures with words.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.harness import Bench
from handler.enhancement.brief import Brief, TokenBudget
from handler.enhancement.draft import Draft, draft
from handler.enhancement.rewrite import finished

DATA = Path(__file__).parent / "data"
LABELS, WORDS = DATA / "outputs_labels.json", DATA / "words_of_pack_1_0_0.json"
#: by name: the file of prompts and that of outputs, aligned by line
SETS: Mapping[str, tuple[str, str]] = {
    "wan": ("all_dimension.txt", "augmented_prompts/Wan2.1-T2V-1.3B/all_dimension_aug_wanx_seed42.txt"),
    "gpt": ("all_dimension.txt", "augmented_prompts/gpt_enhanced_prompts/all_dimension_longer.txt"),
    "hunyuan": ("all_dimension.txt", "augmented_prompts/hunyuan_all_dimension.txt"),
    "wan2": ("VBench2_full_text.txt", "prompt_aug/Wanx_full_text_aug.txt"),
}
#: every output fits
ROOMY = 10_000
SPOKEN_OF = ("light", "lens or composition")
#: most lines of each kind that are listed
LISTED = 12

MakeBrief = Callable[[str, str], Brief]


@dataclass(frozen=True)
class Output:
    """One line of a set."""

    set: str
    #: from 1
    line: int
    prompt: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.set}:{self.line}"


@dataclass(frozen=True)
class Fits:
    """What fitting made of one output: of which subjects it spoke before and after, and what was left out."""

    before: frozenset[str]
    after: frozenset[str]
    #: clauses about light, lens or composition that are not in the result and would have fitted
    left_out: tuple[str, ...]
    tokens: int


def outputs(directory: Path) -> list[Output]:
    """Every output of every set.

    Raises:
        FileNotFoundError: the directory is no checkout of the repository.
    """
    found = []
    for name, files in SETS.items():
        folder = directory / ("VBench-2.0/prompts" if name == "wan2" else "prompts")
        prompts, texts = ((folder / file).read_text(encoding="utf-8").splitlines() for file in files)
        pairs = zip(prompts, texts, strict=True)
        found += [Output(name, line, prompt, text) for line, (prompt, text) in enumerate(pairs, 1)]
    return found


def measure(bench: Bench, directory: Path, brief_of: MakeBrief) -> None:
    """Add the tables; `brief_of` makes the brief of a prompt for a job type, in mode rewrite."""
    every = outputs(directory)
    labels = json.loads(LABELS.read_text(encoding="utf-8"))["sets"]
    good = [one for one in every if one.line in labels[one.set]["good"]]
    bad = [one for one in every if str(one.line) in labels[one.set]["bad"]]
    english = [one for one in every if not re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", one.text)]
    table = bench.table(
        "Outputs of other enhancers, refused or cut without need",
        ["outputs", "entry", "number", "refused", "cut", "together %"],
        labels=2,
    )
    listed = []
    for job_type in ("sdxl_image_fast", "wan_video_high"):
        for name, some in (("good, by hand", good), ("bad, by hand", bad), ("every fourth in English", english[::4])):
            refused = {one.name: fault for one in some if (fault := _refused(one, brief_of(one.prompt, job_type)))}
            cut = {one.name: lost for one in some if (lost := _cut(one, brief_of(one.prompt, job_type)))}
            wrong = refused.keys() | cut.keys()
            table.add(name, job_type, len(some), len(refused), len(cut), 100 * len(wrong) / len(some))
            listed += [f"{job_type}, {name}: {who}: {why}" for who, why in list({**cut, **refused}.items())[:LISTED]]
    print("\n".join(listed))
    table = bench.table(
        "Fitted to 75 tokens of CLIP",
        ["outputs", "over before", *(f"{of}, {when}" for of in SPOKEN_OF for when in ("before", "after", "kept %")),
         "left out, though it fits", "over after"],
    )  # fmt: skip
    for name in SETS:
        fits = list(_fits([one for one in english if one.set == name], brief_of))
        if fits:
            table.add(name, len(fits), *_kept(fits), sum(bool(one.left_out) for one in fits),
                      sum(one.tokens > 75 for one in fits))  # fmt: skip


def _refused(one: Output, brief: Brief) -> str:
    """The fault of an output as an answer of the model; empty where it has none."""
    made = draft(brief, one.text, "stop")
    result = finished(brief, made, None, retries=0) if isinstance(made, Draft) else made
    return result if isinstance(result, str) else ""


def _cut(one: Output, brief: Brief) -> str:
    """The words of an output that are not in the prompt that is made of it, where there is room for all."""
    budget = brief.budget
    assert budget is not None
    roomy = replace(brief, budget=TokenBudget(budget.encoder, budget.min_tokens, ROOMY, fit=True))
    made = draft(roomy, one.text, "stop")
    if not isinstance(made, Draft):
        return ""
    there = _words(made.text)
    lost = []
    for word in _words(one.text):
        if word in there:
            there.remove(word)
        else:
            lost.append(word)
    return " ".join(lost)


def _fits(some: Sequence[Output], brief_of: MakeBrief) -> Iterator[Fits]:
    """What fitting makes of each output that is over the budget and has no fault."""
    words = {of: _finder(json.loads(WORDS.read_text(encoding="utf-8"))[of]) for of in SPOKEN_OF}
    for one in some:
        brief = brief_of(one.prompt, "sdxl_image_fast")
        assert brief.budget is not None
        count = brief.budget.encoder.count
        made = draft(brief, one.text, "stop")
        if count(one.text) <= brief.budget.max_tokens or not isinstance(made, Draft):
            continue
        before, after = (frozenset(of for of, finds in words.items() if finds(text)) for text in (one.text, made.text))
        dropped = (clause.text for clause in made.trimmed)
        wanted = (text for text in dropped if any(finds(text) for finds in words.values()))
        # With the mark that ends it, as the clauses before it have theirs.
        fitting = (text for text in wanted if count(f"{made.text} {text}.") <= brief.budget.max_tokens)
        yield Fits(before, after, tuple(fitting), count(made.text))


def _kept(fits: Sequence[Fits]) -> Iterator[int | float]:
    for of in SPOKEN_OF:
        before = [one for one in fits if of in one.before]
        after = [one for one in before if of in one.after]
        yield from (len(before), len(after), 100 * len(after) / max(1, len(before)))


def _finder(phrases: Sequence[str]) -> Callable[[str], bool]:
    """Whether a text has one of the phrases, as whole words in whatever case."""
    longest_first = sorted(phrases, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
    return lambda text: pattern.search(text) is not None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
