"""What prompt lookup wins and what it costs: tokens a second with and without, by how much of an answer is quoted.

    python -m bench.speculation [--shape 50m] [--rows 1,8] [--tokens 6] [--save]
    python -m bench.speculation --gpu            # Qwen2.5-7B's shape on CUDA: 1, 8, 64 rows

The forward is genuine, with random weights; what it says is a script that the logits are bent to. The answer of 128
tokens quotes stretches of 6 to 20 tokens of its prompt of 256, for the share that the table names, and says something
new for the rest. So the share is what an endpoint's traffic decides, and the rest is measured.
"""

import argparse
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from bench.engines import Work, build, engine_on, random_ids, serve
from bench.harness import Bench, alternate
from handler.inference.loop import BatchingEngine
from handler.model.config import ModelConfig
from handler.model.qwen import Qwen
from handler.ops.pages import KVPages, Layout

PROMPT, NEW = 256, 128
SHARES = (0.0, 0.5, 0.9)


class Scripted(Qwen):
    """A model that computes what it computes, and says what is written for each position."""

    #: int64 [positions]
    script: Tensor

    def forward(
        self, ids: Tensor, positions: Tensor, keep: Tensor | None, layout: Layout, pages: KVPages,
        out: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        logits = super().forward(ids, positions, keep, layout, pages, out)
        says = self.script[(positions if keep is None else positions[keep]) + 1]
        return logits.scatter_(1, says[:, None], 1e4)


def script(share: float) -> list[int]:
    """Prompt and answer."""
    prompt, answer = random_ids(PROMPT), list[int]()
    while len(answer) < NEW:
        length = random.randint(6, 20)
        at = random.randrange(PROMPT - length)
        answer += prompt[at : at + length] if random.random() < share else random_ids(length)
    return prompt + answer[:NEW]


@contextmanager
def engine(model: Scripted, told: list[int], rows: int, guesses: int) -> Iterator[BatchingEngine]:
    # The engine's width is that of production: guesses take rows that are free.
    with engine_on(model, max(32, 2 * rows), 512, guesses=guesses) as serving:
        serve(serving, Work("warm", [(told[:PROMPT], 16)] * rows))
        yield serving


def rate(engine: BatchingEngine, work: Work) -> float:
    return work.new / serve(engine, work)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="50m")
    parser.add_argument("--rows", default="1,8")
    parser.add_argument("--tokens", type=int, default=6)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--save", action="store_true")
    wishes = parser.parse_args()
    device, shape, rows = ("cuda", "7b", "1,8,64") if wishes.gpu else ("cpu", wishes.shape, wishes.rows)
    random.seed(0)
    bench = Bench("speculation", device=device)
    theirs = build(shape, torch.bfloat16, device)
    model = Scripted.from_state(ModelConfig.model_validate(theirs.config.to_dict()), theirs.state_dict())
    table = bench.table(
        f"SPECULATIVE_TOKENS={wishes.tokens}, {shape} bfloat16, tokens a second",
        ["quoted %", "rows", "off", "on", "on : off", "guessed", "right %"],
        labels=2,
        ratio="on : off",
    )
    for share in SHARES:
        told = script(share)
        model.script = torch.tensor([*told, *([0] * 64)], device=device)
        for count in map(int, rows.split(",")):
            work = Work("quote", [(told[:PROMPT], NEW)] * count)
            with engine(model, told, count, 0) as off, engine(model, told, count, wishes.tokens) as on:
                sides = {"off": partial(rate, off, work), "on": partial(rate, on, work)}
                rates = alternate(sides, wishes.repeat)
                details = on.status().details
            guessed, right = (float(str(details[name])) for name in ("guessed_tokens", "guessed_right"))
            answers = wishes.repeat * count
            table.add(
                100 * share, count, rates["off"], rates["on"], rates["on"] / rates["off"], guessed / answers,
                100 * right / guessed if guessed else None,
            )  # fmt: skip
    bench.finish(wishes.save)


if __name__ == "__main__":
    main()
