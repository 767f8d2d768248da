"""`python -m tests.support.draws [--rows 1000]`: the sampler's kernels beside plain torch, on random rows.

Half of the batches have rows with both top_k and top_p and search in full, the others search in half of the launches.
"""

import argparse
import random
import sys

import torch

from handler.engine.sampling import Sampling
from handler.inference.sampler import Sampler
from tests.support.kernels import DEVICE, quick_interpreter
from tests.support.models import changed

#: rows of a batch; steps, so that penalty counts grow; and sizes of a vocabulary: part of a block, one, several
BATCH, STEPS, VOCABS = 12, 2, (40, 2000, 4105, 9000)


def random_sampling(chance: random.Random, tokens: int) -> Sampling:
    """Each option on half of the time, greedy one time in four; biases for ids of which some have no token."""

    def maybe(value: float, neutral: float) -> float:
        return value if chance.random() < 0.5 else neutral

    return Sampling(
        max_tokens=1,
        temperature=maybe(chance.choice([0.0, chance.uniform(0.2, 2)]), 1.0),
        top_p=maybe(chance.uniform(0.05, 0.99), 1.0),
        top_k=int(maybe(chance.choice([1, 5, 50, 900, 10**6]), 0)),
        min_p=maybe(chance.uniform(0.001, 0.5), 0.0),
        repetition_penalty=maybe(chance.uniform(0.5, 2), 1.0),
        presence_penalty=maybe(chance.uniform(-2, 2), 0.0),
        frequency_penalty=maybe(chance.uniform(-2, 2), 0.0),
        seed=chance.randrange(2**64),
        logit_bias=random_biases(chance, tokens) if chance.random() < 0.5 else {},
    )


def random_biases(chance: random.Random, tokens: int) -> dict[str, float]:
    """For a few tokens or as many as may have one, in any order: bans, small and large ones."""
    ids = chance.sample(range(tokens), min(chance.choice([1, 3, 300]), tokens // 2))
    return {str(token): chance.choice([-100.0, 100.0, 0.0, chance.uniform(-5, 5)]) for token in ids}


def cut_once(sampling: Sampling) -> Sampling:
    """The same without its top_p, where it has a top_k too."""
    return changed(sampling, top_p=1.0) if sampling.top_k else sampling


def samplers(vocab: int, tokens: int, options: list[Sampling]) -> tuple[Sampler, Sampler]:
    """One that draws with torch, one that draws by kernels, rows assigned alike."""
    pair = (
        Sampler(len(options), vocab, tokens, DEVICE, kernels=False),
        Sampler(len(options), vocab, tokens, DEVICE, kernels=True),
    )
    for row, option in enumerate(options):
        for sampler in pair:
            sampler.assign(row, option, [row % tokens, 7 % tokens, 3], [5, 5, row % tokens])
    return pair[0], pair[1]


def differing(vocab: int, dtype: torch.dtype, seed: int, *, full: bool) -> int:
    """Draw a batch of random rows, `full` with both top_k and top_p among them; how many tokens differ."""
    chance, g = random.Random(seed), torch.Generator().manual_seed(seed)
    options, tokens = [random_sampling(chance, vocab) for _ in range(BATCH)], vocab - 9
    if not full:
        options = [cut_once(option) for option in options]
    plain, fused = samplers(vocab, tokens, options)
    assert fused.capturable
    at, different = torch.randperm(BATCH, generator=g).to(DEVICE), 0
    for step in range(STEPS):
        logits = (torch.randn(BATCH, vocab, generator=g) * chance.choice([0.3, 1.0, 3.0])).to(dtype).to(DEVICE)
        logits[:, tokens:] = 1000.0  # ids without a token
        positions = torch.full((BATCH,), 6 + step, device=DEVICE)
        expected = plain.sample(logits, at, positions)
        got = fused.sample(logits, at, positions, full_search=full)
        different += int((got != expected).sum())
    return different


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    wishes = parser.parse_args()
    wrong = 0
    for dtype in (torch.float32, torch.bfloat16):
        with quick_interpreter():
            counts = [
                differing(VOCABS[batch // 2 % len(VOCABS)], dtype, wishes.seed + batch, full=batch % 2 == 0)
                for batch in range(-(-wishes.rows // BATCH))
            ]
        print(f"{dtype}: {len(counts) * BATCH} rows, {STEPS} tokens each, {sum(counts)} tokens differ", flush=True)
        wrong += sum(counts)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
