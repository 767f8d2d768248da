"""A draw follows the request's own terms and nothing else: transformers' processors are the reference for each."""

import math
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from handler.engine.sampling import Sampling
from handler.inference.sampler import Sampler
from handler.ops import sampling_torch
from handler.ops.sampling_torch import gumbel, threshold
from tests.support.draws import random_sampling
from tests.support.models import changed

NEUTRAL = Sampling(max_tokens=1, seed=0)


def sampling(**fields: object) -> Sampling:
    return changed(NEUTRAL, **fields)


def reference(scores: Tensor, s: Sampling, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    """Scores [vocab] as `generate` processes them; presence and frequency as OpenAI's documentation defines them."""
    ids = torch.tensor([[*prompt, *completion]])
    scores = scores[None].float()
    if s.biases:
        scores = SequenceBiasLogitsProcessor([[[token], bias] for token, bias in s.biases])(ids, scores)
    if s.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(s.repetition_penalty)(ids, scores)
    for token in set(completion):
        scores[0, token] = scores[0, token] - torch.tensor(s.frequency_penalty) * completion.count(token)
        scores[0, token] = scores[0, token] - s.presence_penalty
    if s.temperature == 0:
        return scores[0]
    warpers = LogitsProcessorList()
    if s.temperature != 1:
        warpers.append(TemperatureLogitsWarper(s.temperature))
    if s.top_k:
        warpers.append(TopKLogitsWarper(s.top_k))
    if s.top_p < 1:
        warpers.append(TopPLogitsWarper(s.top_p))
    if s.min_p:
        warpers.append(MinPLogitsWarper(s.min_p))
    processed: Tensor = warpers(ids, scores)[0]  # type: ignore[arg-type]
    return processed


def draws(
    s: Sampling, logits: Tensor, count: int, prompt: Sequence[int] = (), completion: Sequence[int] = ()
) -> Tensor:
    """`count` draws from the same logits [vocab], each the first of a request of its own seed."""
    drawer = Sampler(count, len(logits), len(logits), "cpu")
    for row in range(count):
        drawer.assign(row, s.with_seed(s.seed + row), prompt, completion)
    rows = torch.arange(count)
    return drawer.sample(logits.expand(count, -1), rows, torch.full((count,), len(prompt) + len(completion)))


def p_value(observed: Tensor, expected: Tensor) -> float:
    """Of Pearson's chi-square test; bins that expect fewer than 5 are joined, and what expects nothing has nothing."""
    assert not observed[expected == 0].any()
    small = expected < 5
    observed = torch.cat((observed[~small], observed[small].sum()[None])).double()
    expected = torch.cat((expected[~small], expected[small].sum()[None])).double()
    observed, expected = observed[expected > 0], expected[expected > 0]
    statistic = ((observed - expected) ** 2 / expected).sum()
    freedom = torch.tensor((len(expected) - 1) / 2).double()
    return float(torch.special.gammaincc(freedom, statistic / 2)) if len(expected) > 1 else 1.0


OPTIONS: list[dict[str, float]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_k": 7},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"repetition_penalty": 1.3},
    {"presence_penalty": 0.9},
    {"frequency_penalty": 0.4},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.1, "frequency_penalty": 0.2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_draws_follow_the_distribution_that_generate_would_draw_from(options: dict[str, float]) -> None:
    count = 20_000
    logits = torch.randn(60, generator=torch.Generator().manual_seed(5)) * 2
    s, prompt, completion = sampling(seed=2**40, **options), [3, 9, 9, 30], [4, 9, 4, 17]
    got = draws(s, logits, count, prompt, completion)
    expected = reference(logits, s, prompt, completion).softmax(-1) * count
    assert p_value(torch.bincount(got, minlength=60), expected) > 0.001


def test_draws_of_one_request_follow_it_too_and_know_nothing_of_each_other() -> None:
    count = 40_000
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    drawer = Sampler(1, 4, 4, "cpu")
    drawer.assign(0, sampling(seed=11), [0])
    rows, positions = torch.zeros(count, dtype=torch.int64), torch.arange(1, count + 1)
    got = drawer.sample(logits.expand(count, -1), rows, positions)
    pairs = torch.bincount(got[:-1] * 4 + got[1:], minlength=16)
    share = logits.softmax(-1)
    assert p_value(pairs, (share[:, None] * share).flatten() * (count - 1)) > 0.001


def test_neighbouring_seeds_draw_independently() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    got = draws(sampling(seed=0), logits, 40_000, [0])
    share = logits.softmax(-1)
    pairs = torch.bincount(got[:-1] * 4 + got[1:], minlength=16)
    assert p_value(pairs, (share[:, None] * share).flatten() * (len(got) - 1)) > 0.001


@pytest.mark.parametrize(
    ("seed", "tokens"),
    [
        (0, [33, 24, 40, 28, 28, 27, 26, 17]),
        (7, [42, 41, 1, 41, 1, 28, 22, 21]),
        (2**40 + 3, [27, 13, 10, 26, 43, 10, 41, 13]),
        (2**62 + 5, [45, 23, 21, 34, 59, 24, 5, 40]),
        (2**63 - 1, [60, 41, 10, 56, 27, 12, 28, 27]),
    ],
)
def test_a_seed_draws_today_what_it_drew_in_earlier_releases(seed: int, tokens: list[int]) -> None:
    logits = torch.linspace(-2, 2, 64)[torch.randperm(64, generator=torch.Generator().manual_seed(12))]
    drawer, positions = Sampler(1, 64, 64, "cpu"), torch.arange(1, 9)
    drawer.assign(0, sampling(seed=seed), [0])
    assert drawer.sample(logits.expand(8, -1), torch.zeros(8, dtype=torch.int64), positions).tolist() == tokens


def test_each_of_the_64_bits_of_a_seed_changes_the_draws() -> None:
    seeds = [2**64 - 1, *(2**64 - 1 - 2**bit for bit in range(64))]
    drawer, count = Sampler(len(seeds), 64, 64, "cpu"), 20
    for row, seed in enumerate(seeds):
        drawer.assign(row, sampling(seed=seed), [0])
    rows, positions = torch.arange(len(seeds)).repeat_interleave(count), torch.arange(count).repeat(len(seeds))
    drawn = drawer.sample(torch.zeros(len(rows), 64), rows, positions).view(-1, count).tolist()
    assert len({tuple(one) for one in drawn}) == len(seeds)


def test_noise_of_a_large_vocabulary_is_gumbel_noise() -> None:
    noise = gumbel(torch.tensor([[123456789]]), torch.arange(10**6)).flatten().double()
    assert noise.isfinite().all()
    assert abs(noise.mean() - 0.577216) < 0.006
    assert abs(noise.var() - math.pi**2 / 6) < 0.02
    edges = torch.tensor([-1.0, 0.0, 1.0, 3.0, 6.0, 9.0, 12.0]).double()
    share = torch.exp(-torch.exp(-edges)).diff(prepend=torch.zeros(1).double(), append=torch.ones(1).double())
    assert p_value(torch.bincount(torch.bucketize(noise, edges), minlength=8), share * 1e6) > 0.001


@pytest.mark.parametrize("bits", [0, -1, 2**63 - 1, -(2**63)])
def test_noise_is_finite_whatever_the_hash(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_torch, "_mix", lambda z: torch.full_like(z, bits))
    assert gumbel(torch.tensor([1]), torch.tensor([1])).isfinite().all()


@pytest.mark.parametrize("vocab", [50, 1500, 30_000])
def test_scores_are_exactly_those_of_generate(vocab: int) -> None:
    """Random options alone and combined, over peaked and flat scores, candidates that suffice and that do not."""
    chance, g = random.Random(vocab), torch.Generator().manual_seed(vocab)
    drawer, kept = Sampler(40, vocab, vocab, "cpu"), []
    for scale in (0.1, 1.0, 4.0):
        logits = torch.randn(40, vocab, generator=g) * scale
        expected = torch.empty_like(logits)
        for row in range(40):
            s = random_sampling(chance, vocab)
            prompt, completion = ([chance.randrange(vocab) for _ in range(n)] for n in (30, 20))
            drawer.assign(row, s, prompt, completion)
            expected[row] = reference(logits[row].clone(), s, prompt, completion)
        got = drawer.processed(logits, torch.arange(40))
        assert torch.equal(got, expected)
        kept += got.isfinite().sum(1).tolist()
    assert min(kept) == 1
    assert max(kept) == vocab
    assert len(set(kept)) > 15


def test_a_banned_token_is_never_drawn_and_the_others_as_if_it_were_not_there() -> None:
    drawer, logits = Sampler(2, 4, 4, "cpu"), torch.tensor([[9.0, 5.0, 4.0, 3.0]] * 2)
    drawer.assign(0, sampling(temperature=0.0, logit_bias={"0": -100, "2": 1.5}), [1])
    drawer.assign(1, sampling(temperature=2.0, logit_bias={"0": -99.5}), [1])
    assert drawer.sample(logits, torch.tensor([0]), torch.tensor([3])).tolist() == [2]
    assert drawer.processed(logits, torch.arange(2)).tolist() == [[-math.inf, 5.0, 5.5, 3.0], [-45.25, 2.5, 2.0, 1.5]]
    assert logits[0].tolist() == [9.0, 5.0, 4.0, 3.0]


def test_a_row_has_the_biases_of_its_own_request_and_none_of_the_one_before() -> None:
    drawer, logits, rows = Sampler(2, 4, 4, "cpu"), torch.tensor([[9.0, 5.0, 4.0, 3.0]]), torch.tensor([1])

    def kept(**fields: object) -> list[list[float]]:
        drawer.assign(1, sampling(**fields), [1])
        return drawer.processed(logits, rows).tolist()

    assert kept(logit_bias={"0": -100, "1": 2, "3": 1}) == [[-math.inf, 7.0, 4.0, 4.0]]
    assert kept(logit_bias={"3": 2}) == [[9.0, 5.0, 4.0, 5.0]]
    drawer.release(1)
    assert kept() == [[9.0, 5.0, 4.0, 3.0]]


def test_rows_without_biases_pay_nothing_for_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their groups need no pass for biases, and no write where they are set up."""
    passes, process = list[tuple[list[int], bool]](), sampling_torch.process

    def spy(logits: Tensor, rows: Tensor, *rest: object) -> Tensor:
        passes.append((rows.tolist(), rest[-1].bias))  # type: ignore[attr-defined]
        return process(logits, rows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(sampling_torch, "process", spy)
    drawer = Sampler(3, 4, 4, "cpu")
    written = [drawer._biases.ids._version]
    for row, biases in enumerate(({}, {"1": 1.0}, {})):
        drawer.assign(row, sampling(logit_bias=biases), [1])
        written.append(drawer._biases.ids._version)
    drawer.sample(torch.zeros(3, 4), torch.arange(3), torch.arange(3))
    assert sorted(passes) == [([0, 2], False), ([1], True)]
    assert written[0] == written[1] < written[2] == written[3]


@pytest.mark.parametrize("options", [{"top_k": 40}, {"top_p": 0.9}, {"top_k": 700, "top_p": 0.95}, {"min_p": 0.3}])
def test_few_candidates_or_all_give_the_same_cut(options: dict[str, float]) -> None:
    drawer = Sampler(30, 2000, 2000, "cpu")
    for row in range(30):
        drawer.assign(row, sampling(**options), [1])
    scores = torch.randn(30, 2000, generator=torch.Generator().manual_seed(1)).bfloat16().float() * 3  # many ties
    whole = threshold(scores, drawer._options, 2000)
    for width in (1, 8, 64, 512):
        assert torch.equal(threshold(scores, drawer._options, width), whole)


def test_tokens_tied_with_the_last_one_kept_stay() -> None:
    drawer = Sampler(3, 6, 6, "cpu")
    drawer.assign(0, sampling(top_k=2), [1])
    drawer.assign(1, sampling(top_p=0.4), [1])
    drawer.assign(2, sampling(min_p=1.0), [1])
    logits = torch.tensor(
        [[3.0, 2.0, 2.0, 2.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.9, 0.0, 0.0, 0.0]]
    )
    assert drawer.processed(logits, torch.arange(3)).isfinite().sum(1).tolist() == [4, 3, 2]


def test_a_draw_depends_on_nothing_but_the_request() -> None:
    """32 requests with random options, five draws each: together, alone, in another order and in other rows."""
    vocab, chance = 3000, random.Random(3)
    logits = torch.randn(5, 32, vocab, generator=torch.Generator().manual_seed(3)) * 3
    requests = [(random_sampling(chance, vocab), [chance.randrange(vocab) for _ in range(9)]) for _ in range(32)]

    def run(members: list[int], rows: list[int]) -> dict[int, list[int]]:
        drawer, at = Sampler(64, vocab, vocab, "cpu"), torch.tensor(rows)
        for member, row in zip(members, rows, strict=True):
            drawer.assign(row, *requests[member])
        steps = [drawer.sample(logits[i, members], at, torch.full((len(rows),), 9 + i)).tolist() for i in range(5)]
        return {member: [step[i] for step in steps] for i, member in enumerate(members)}

    together = run(list(range(32)), list(range(32)))
    shuffled = chance.sample(range(32), 32)
    assert run(shuffled, chance.sample(range(64), 32)) == together
    for member in range(32):
        assert run([member], [member + 7]) == {member: together[member]}
    assert len({tuple(tokens) for tokens in together.values()}) == 32


def test_a_request_goes_on_after_preemption_as_if_nothing_had_been() -> None:
    vocab, s = 200, sampling(seed=5, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.5, top_p=0.9)
    logits = torch.randn(12, 1, vocab, generator=torch.Generator().manual_seed(4))
    drawer, other = Sampler(2, vocab, vocab, "cpu"), sampling(repetition_penalty=1.9)

    def run(steps: range, row: int) -> list[int]:
        return [int(drawer.sample(logits[i], torch.tensor([row]), torch.tensor([2 + i]))) for i in steps]

    drawer.assign(0, s, [7, 8])
    whole = run(range(12), 0)
    drawer.assign(0, s, [7, 8])
    before = run(range(5), 0)
    drawer.release(0)
    drawer.assign(0, other, list(range(100)))
    drawer.assign(1, other, list(range(100)))
    drawer.assign(1, s, [7, 8], before)
    assert before + run(range(5, 12), 1) == whole


def test_greedy_takes_the_first_of_the_most_likely_and_ignores_the_seed() -> None:
    logits = torch.tensor([[0.0, 5.0, 5.0, 1.0]])
    drawer = Sampler(1, 4, 4, "cpu")
    for seed in range(20):
        drawer.assign(0, sampling(temperature=0.0, seed=seed, top_k=3, top_p=0.1, min_p=0.9), [0])
        assert drawer.sample(logits, torch.tensor([0]), torch.tensor([1])).tolist() == [1]


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-10])
def test_a_temperature_close_to_zero_is_close_to_greedy(temperature: float) -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(2)) * 10
    assert set(draws(sampling(temperature=temperature, top_p=0.9), logits, 50).tolist()) == {int(logits.argmax())}


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.9}, {"frequency_penalty": 1.0}]
)
def test_rows_of_the_vocabulary_without_a_token_are_never_drawn(options: dict[str, float]) -> None:
    logits = torch.zeros(300, 40)
    logits[:, 30:] = 100.0
    drawer, rows = Sampler(300, 40, 30, "cpu"), torch.arange(300)
    for row in range(300):
        drawer.assign(row, sampling(seed=row, **options), [1])
    assert drawer.sample(logits, rows, torch.ones_like(rows)).max() < 30


def test_neutral_values_do_nothing_at_all() -> None:
    logits = torch.randn(2, 500, generator=torch.Generator().manual_seed(6))
    drawer = Sampler(2, 500, 500, "cpu")
    drawer.assign(0, NEUTRAL, [1, 2], [3])
    drawer.assign(1, sampling(temperature=0.3, top_k=2, repetition_penalty=1.5, presence_penalty=1.0), [1, 2], [3])
    got = drawer.processed(logits, torch.tensor([0, 1]))  # one batch, so that every pass is run over both
    assert torch.equal(got[0], logits[0])
    assert got[1].isfinite().sum() == 2


def test_rows_pay_only_for_their_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    cut = sampling_torch.threshold

    def spy(scores: Tensor, options: Tensor) -> Tensor:
        seen.append(len(scores))
        return cut(scores, options)

    monkeypatch.setattr(sampling_torch, "threshold", spy)
    drawer = Sampler(20, 100, 100, "cpu")
    for row in range(20):
        drawer.assign(row, sampling(top_p=0.5) if row == 13 else sampling(temperature=row % 2), [1])
    rows = torch.arange(20)
    drawer.sample(torch.zeros(20, 100), rows, rows + 1)
    assert seen == [1]
    drawer.release(13)
    drawer.sample(torch.zeros(20, 100), rows, rows + 1)
    assert seen == [1]


def test_the_full_search_is_for_rows_with_both_top_k_and_top_p() -> None:
    drawer = Sampler(4, 100, 100, "cpu")
    drawer.assign(0, sampling(top_k=5), [1])
    drawer.assign(1, sampling(top_p=0.5, min_p=0.1), [1])
    drawer.assign(2, sampling(temperature=0.0, top_k=5, top_p=0.5), [1])  # greedy: nothing is cut
    assert not drawer.needs_full_search
    drawer.assign(3, sampling(top_k=5, top_p=0.5), [1])
    assert drawer.needs_full_search
    drawer.assign(3, sampling(top_p=0.5), [1])
    assert not drawer.needs_full_search
    drawer.assign(0, sampling(top_k=5, top_p=0.5), [1])
    drawer.release(0)
    assert not drawer.needs_full_search


def test_a_row_never_assigned_is_greedy() -> None:
    drawer = Sampler(3, 10, 10, "cpu")
    drawer.assign(0, sampling(frequency_penalty=1.0, top_k=2), [1])
    logits = torch.arange(10.0).expand(4, -1)
    assert drawer.sample(logits, torch.tensor([0, 2, 2, 2]), torch.zeros(4, dtype=torch.int64))[1:].tolist() == [9] * 3


def test_logits_stay_as_they_are_in_any_dtype() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        logits = torch.randn(2, 100, generator=torch.Generator().manual_seed(8)).to(dtype)
        before, drawer = logits.clone(), Sampler(2, 100, 100, "cpu")
        drawer.assign(0, sampling(temperature=0.5, top_k=5, top_p=0.8, min_p=0.1, repetition_penalty=1.3), [1])
        drawer.assign(1, NEUTRAL, [1])
        drawer.sample(logits, torch.tensor([0, 1]), torch.tensor([1, 1]))
        drawer.processed(logits, torch.tensor([0, 1]))
        assert torch.equal(logits, before)


def test_broken_logits_of_one_row_stay_its_own_trouble() -> None:
    for options in ({}, {"top_p": 0.9}, {"temperature": 0.0}, {"frequency_penalty": 1.0, "top_k": 5}):
        logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(9))
        drawer, at = Sampler(3, 50, 50, "cpu"), torch.arange(3)
        fine = []
        for broken in (False, True):
            for row in range(3):
                drawer.assign(row, sampling(seed=row, **options), [1])
            if broken:
                logits[1] = float("nan")
            got = drawer.sample(logits, at, at + 1)
            assert ((got >= 0) & (got < 50)).all()
            fine.append(got[[0, 2]].tolist())
        assert fine[0] == fine[1]
