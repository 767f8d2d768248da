"""Measures the time of enhancement without the model, and of variants with it.

    python -m bench.enhance [--encoders DIR] [--repeat 400] [--model DIR] [--outputs DIR] [--save]

First: the milliseconds of the processor that cleaning, repairing, fitting, checking and scoring an answer of about 120
words take; with the tokenizers of `--encoders` (folders `clip`, `umt5`, `t5`), else with the model's. Then: the seconds
that one job of `n` variants takes on the model, which draws their tokens at the same time.

With `--outputs`, a checkout of Vchitect/VBench@45e79ec: what is refused, cut and left out of the stored outputs of
other enhancers (`bench/enhance_outputs.py`), and no times.
"""

import argparse
import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

from bench import enhance_outputs
from bench.harness import Bench, percentile
from handler.api.enhance import EnhanceRequest
from handler.api.parse import parse
from handler.enhancement.brief import Brief
from handler.enhancement.draft import Draft, draft
from handler.enhancement.judge import judged
from handler.job import Jobs
from handler.report import Report
from handler.settings import Settings
from handler.start import start

PROMPT = "two red foxes in the snow near Pont Neuf, no people"
ANSWER = (
    "two red foxes in the snow near Pont Neuf, no people, one fox turned towards the river while the other sniffs "
    "at a low stone wall, thick winter fur with single hairs catching the light, soft natural light from an "
    "overcast sky, long pale shadows over fresh snow, the arches of the bridge out of focus in the background, "
    "bare branches at the edges of the frame, sharp focus on the eyes, shallow depth of field, balanced "
    "composition with open space on the left, fine texture of frost on the railings, breath hanging in the cold "
    "air, muted blue and grey tones around the warm fur, high quality, highly detailed, crisp detail down to the "
    "whiskers"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", default="")
    parser.add_argument("--repeat", type=int, default=400)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--outputs", type=Path)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    settings = Settings.from_environment({"MODEL_PATH": arguments.model, "ENCODERS_DIR": arguments.encoders})
    worker = start(settings, Report())
    bench = Bench("enhance")
    if arguments.outputs is not None:
        enhance_outputs.measure(bench, arguments.outputs, lambda prompt, entry: brief_of(worker.jobs, entry, prompt))
        worker.engine.close()
        bench.finish(save=False)
        return
    table = bench.table(
        f"An answer of {len(ANSWER.split())} words, milliseconds of the processor (p95)",
        ["entry", "counted by", "clean, repair, fit", "check, score", "together"],
        labels=2,
    )
    for job_type in ("sdxl_image_fast", "sdxl_image_high", "wan_video_high"):
        brief = brief_of(worker.jobs, job_type)
        assert brief.budget is not None
        table.add(job_type, brief.budget.encoder.measured_with, *milliseconds(brief, arguments.repeat))
    table = bench.table("Seconds for one job of n variants", ["n", "seconds"])
    for count in (1, 4, 8):
        table.add(count, asyncio.run(seconds(worker.jobs, count)))
    worker.engine.close()
    bench.finish(arguments.save)


def brief_of(jobs: Jobs, job_type: str, prompt: str = PROMPT) -> Brief:
    request = parse({"operation": "enhance", "prompt": prompt, "job_type": job_type, "mode": "rewrite"})
    assert isinstance(request, EnhanceRequest)
    return asyncio.run(jobs.operations.core.enhancer.brief(request, None))


def milliseconds(brief: Brief, repeat: int) -> list[str]:
    """Medians and 95th percentiles of making and judging a draft, and of both."""
    making, judging = [], []
    for _ in range(repeat):
        began = time.process_time()
        made = draft(brief, ANSWER, "stop")
        halfway = time.process_time()
        assert isinstance(made, Draft)
        judged(brief, made)
        making.append((halfway - began) * 1000)
        judging.append((time.process_time() - halfway) * 1000)
    both = [sum(pair) for pair in zip(making, judging, strict=True)]
    return [f"{statistics.median(spent):.2f} ({percentile(spent, 95):.2f})" for spent in (making, judging, both)]


async def seconds(jobs: Jobs, count: int) -> float:
    """The median of five jobs, each with a seed of its own."""
    spent = []
    for seed in range(6):
        job: dict[str, Any] = {"operation": "enhance", "prompt": PROMPT, "job_type": "sdxl_image_fast"}
        began = time.perf_counter()
        await jobs.answer({"id": "bench", "input": {**job, "seed": 100 * seed, "n": count, "cache": "off"}})
        spent.append(time.perf_counter() - began)
    return statistics.median(spent[1:])


if __name__ == "__main__":
    main()
