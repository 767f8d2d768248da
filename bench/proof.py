"""What a GPU has to show first, as one command: are the kernels right, and does each prediction of speed hold?

    make gpu-proof            # or python -m bench.proof [--only NAME,NAME] [--results DIRECTORY]

Runs in any Python that has torch with CUDA and the worker's libraries, installs nothing, and downloads no weights:
they are random, in Qwen2.5-7B's shape. Each step is a process with a time limit, all of them together end in less than
ten minutes, and one that fails or hangs does not stop the others. Writes one JSON file and prints its table.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[1]
#: seconds for everything
LIMIT_S = 590.0
#: less is not worth a start of torch
LEAST_S = 15.0
#: lines of a step's output that are kept
TAIL = 30

State = Literal["passed", "failed", "out of time", "skipped"]


@dataclass(frozen=True)
class Step:
    """One process."""

    name: str
    #: what its result says
    question: str
    #: arguments of Python
    arguments: tuple[str, ...]
    limit_s: float
    #: modules without which it cannot run
    needs: tuple[str, ...] = ("pydantic", "transformers", "triton")
    #: why it does not run here at all
    skip: str | None = None


STEPS = (
    Step("self-check", "do all kernels agree with plain torch?", ("-m", "bench.proof_steps", "self-check"), 45),
    Step(
        "tests",
        "do the kernels' tests pass?",
        ("-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/ops"),
        150,
        ("pydantic", "transformers", "triton", "pytest", "hypothesis"),
    ),
    Step(
        "image",
        "does a start from the image compile nothing?",
        (),
        0,
        (),
        "needs the image: start it and ask `info` for `startup`, where `compiled` of `warm-up` must be []",
    ),
    Step("profile", "where does a step of 64 rows spend its time?", ("-m", "bench.proof_steps", "profile"), 70),
    Step("attention", "what does one long row cost the others?", ("-m", "bench.attention", "--seconds", "0.05"), 60),
    Step("captures", "may another thread synchronise meanwhile?", ("-m", "bench.proof_steps", "captures"), 45),
    Step("decode", "how near is decoding to the prediction?", ("-m", "bench.proof_steps", "decode"), 100),
    Step("identical", "how many answers depend on the batch?", ("-m", "bench.proof_steps", "identical"), 80),
    Step("scoring", "is a text's score that of drawing it?", ("-m", "bench.proof_steps", "scoring"), 40),
)


@dataclass
class Result:
    """The result of one step."""

    name: str
    question: str
    state: State
    seconds: float = 0.0
    #: one line: why it did not pass, or what it found
    finding: str = ""
    #: the tables that it printed
    tables: list[dict[str, object]] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)


def run(step: Step, limit_s: float) -> Result:
    """Run one step for at most `limit_s` seconds; never raises for what the step does."""
    if step.skip is not None:
        return Result(step.name, step.question, "skipped", finding=step.skip)
    if lacking := [module for module in step.needs if find_spec(module) is None]:
        return Result(step.name, step.question, "skipped", finding=f"this Python lacks {', '.join(lacking)}")
    if limit_s < min(LEAST_S, step.limit_s):
        return Result(step.name, step.question, "skipped", finding="no time was left")
    began, state = time.monotonic(), "passed"
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            [sys.executable, *step.arguments],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its own children end with it
        )
        try:
            state = "failed" if process.wait(limit_s) else "passed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            state = "out of time"
        output.seek(0)
        lines = output.read().splitlines()
    result = Result(step.name, step.question, state, round(time.monotonic() - began, 1))  # type: ignore[arg-type]
    result.tables, result.tail = tables(lines), lines[-TAIL:]
    result.finding = finding(result, lines, limit_s)
    return result


def finding(result: Result, lines: Sequence[str], limit_s: float) -> str:
    """One line for the table."""
    if result.state == "out of time":
        return f"ended after {limit_s:.0f} s"
    told = [line.removeprefix("finding: ") for line in lines if line.startswith("finding: ")]
    said = [line for line in lines if line.strip()]
    return (told or said or ["no output"])[-1].strip()[:160]


def tables(lines: Sequence[str]) -> list[dict[str, object]]:
    """The tables that the benches print in Markdown, under their titles."""
    found: list[dict[str, object]] = []
    title = ""
    rows: list[list[str]] = []
    for line in [*lines, ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif rows:
            found.append({"title": title, "columns": rows[0], "rows": rows[2:]})
            rows = []
        if line.startswith("**") and line.endswith("**"):
            title = line.strip("*")
    return found


def without_gpu() -> str | None:
    """Why this Python cannot run the proof; None where it can."""
    if find_spec("torch") is None:
        return "it has no torch"
    import torch

    if torch.version.cuda is None:
        return f"its torch {torch.__version__} is built without CUDA"
    return None if torch.cuda.is_available() else f"its torch {torch.__version__} finds no CUDA device"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of steps, with commas between them")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="directory of the JSON file")
    wishes = parser.parse_args(arguments)
    names = [step.name for step in STEPS] if wishes.only is None else wishes.only.split(",")
    if unknown := {*names} - {step.name for step in STEPS}:
        parser.error(f"no such step: {', '.join(sorted(unknown))}; there are {', '.join(step.name for step in STEPS)}")
    if (obstacle := without_gpu()) is not None:
        print(f"the proof needs a GPU that torch can use, but {obstacle} ({sys.executable})", file=sys.stderr)
        return 1
    from bench.harness import Table, machine

    facts = machine("cuda")
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    end, results = time.monotonic() + LIMIT_S, list[Result]()
    for step in STEPS:
        if step.name in names:
            print(f"\n== {step.name}: {step.question} (at most {step.limit_s:.0f} s)", flush=True)
            results.append(result := run(step, min(step.limit_s, end - time.monotonic())))
            print("\n".join(result.tail), f"\n== {step.name}: {result.state}, {result.seconds} s", flush=True)
    table = Table("The proof on this GPU", ["step", "result", "seconds", "finding"])
    table.rows = [(result.name, result.state, result.seconds, result.finding) for result in results]
    print(f"\n{table.markdown()}")
    wishes.results.mkdir(exist_ok=True)
    path = wishes.results / "proof-cuda.json"
    content = {**facts, "command": "make gpu-proof", "steps": [asdict(result) for result in results]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")
    return 1 if any(result.state in ("failed", "out of time") for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
