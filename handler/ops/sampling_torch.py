"""Sampling in plain torch (bias to draw): on any device, the reference for the kernels.

Order and result of the options are those of transformers' `generate`: bias, penalties, temperature, top_k, top_p,
min_p. Knows only tensors, no request.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

#: best tokens that `threshold` looks at first; a row whose top_k or top_p needs more looks at 16 times as many
CANDIDATES = 1024
#: bit of a history entry that marks tokens of the prompt; the lower bits count occurrences in the completion
IN_PROMPT = 1 << 30
#: columns of the options of a row; DRAWN is 1 for a random draw and 0 for greedy
TEMPERATURE, TOP_K, TOP_P, MIN_P, REPETITION, PRESENCE, FREQUENCY, DRAWN = range(8)
#: options without effect, greedy
NEUTRAL = (1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0)
#: id in place of a token in the biases of a row that has fewer: larger than every id
NO_TOKEN = 2**31 - 1
#: SplitMix64's constants, as signed 64-bit integers
_GOLDEN, _MIX_1, _MIX_2 = (c - (1 << 64) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Biases:
    """The biases of every row, which are added to logits. A row without any has NO_TOKEN at its first place."""

    #: int32 [all rows, most + 1], of each row in ascending order, then NO_TOKEN, at the last place always
    ids: Tensor
    #: float32 [all rows, most + 1]; -inf bans the token
    values: Tensor


@dataclass(frozen=True, slots=True)
class Needs:
    """The passes over the vocabulary that a row needs beside an argmax."""

    bias: bool
    penalties: bool
    #: temperature and noise
    draw: bool
    #: top_k, top_p or min_p
    cut: bool


def draw(
    logits: Tensor, rows: Tensor, positions: Tensor, options: Tensor, seeds: Tensor, history: Tensor, biases: Biases,
    ids: Tensor, needs: Needs,
) -> Tensor:  # fmt: skip
    """Draw one token for each of n rows with the same `needs`.

    See `sampling_triton.draw` for the other arguments; it reads the needs from the options. ids is int64 [tokens], all
    ids that can be drawn. The caller makes it once, because allocating a large tensor takes longer than computing it.
    """
    scores = process(logits, rows, options, history, biases, len(ids), needs)
    if needs.draw:
        streams = _mix(_mix(seeds[rows] + _GOLDEN) + positions)
        if needs.cut:  # noise only for the tokens that are kept
            kept = (scores > float("-inf")).nonzero(as_tuple=True)
            scores[kept] += gumbel(streams[kept[0]], kept[1])
        else:
            scores += gumbel(streams[:, None], ids)
    drawn = scores.argmax(-1)
    if needs.penalties:
        history[rows, drawn] += 1
    return drawn


def process(
    logits: Tensor, rows: Tensor, options: Tensor, history: Tensor, biases: Biases, tokens: int, needs: Needs
) -> Tensor:
    """float32 [n, tokens]: scores as `generate`'s processors leave them, -inf for tokens that are never drawn."""
    scores, row_options = logits[:, :tokens].to(torch.float32, copy=True), options[rows]
    if needs.bias:
        ids = biases.ids[rows].long()
        at, place = (ids < tokens).nonzero(as_tuple=True)
        scores[at, ids[at, place]] += biases.values[rows[at], place]
    if needs.penalties:
        past = history[rows, :tokens]
        seen = past.nonzero(as_tuple=True)
        scores[seen] = _penalised(scores[seen], past[seen], row_options[seen[0]])
    if needs.draw:
        scores /= row_options[:, TEMPERATURE, None]
    if needs.cut:
        scores.masked_fill_(scores < threshold(scores, row_options), float("-inf"))
    return scores


def _penalised(scores: Tensor, history: Tensor, options: Tensor) -> Tensor:
    """Penalise the scores [k] of tokens that occurred before; history [k], options [k, 8].

    Repetition counts prompt and completion; frequency and presence count the completion only, as OpenAI define them.
    """
    repetition = options[:, REPETITION]
    scores = torch.where(scores < 0, scores * repetition, scores / repetition)
    count = history & (IN_PROMPT - 1)
    return scores - options[:, FREQUENCY] * count - options[:, PRESENCE] * (count > 0)


def threshold(scores: Tensor, options: Tensor, width: int = CANDIDATES) -> Tensor:
    """The lowest score that each row keeps: top_k, then top_p over the tokens that are left, then min_p.

    A threshold and not a mask, because each of the three keeps all tokens above some score; tokens tied with the last
    one kept stay too. scores float32 [n, vocab], options [n, 8]; returns float32 [n, 1], -inf where all are kept.
    """
    vocab = scores.shape[1]
    width = min(width, vocab)
    best = scores.topk(width).values if width < vocab else scores.sort(descending=True).values
    top_k, top_p, min_p = (options[:, column, None] for column in (TOP_K, TOP_P, MIN_P))
    top = best[:, :1]
    lowest = top + min_p.log()

    by_rank = (top_k > 0) & (top_k < vocab)
    kth = best.gather(1, (top_k.long() - 1).clamp(0, width - 1))
    kth = torch.where(by_rank, kth, float("-inf"))
    # Sums in float64 are the same in any batch: the threshold of a row must not depend on its neighbours.
    weights = (best - top).double().exp().masked_fill(best < kth, 0.0)
    total = weights.sum(1, keepdim=True)
    if width < vocab:
        everything = (scores - top).exp_().sum(1, keepdim=True, dtype=torch.float64)
        total = torch.where(by_rank, total, everything)
    count = (weights.cumsum(1) - weights < top_p * total).sum(1, keepdim=True).clamp(min=1)
    by_mass = top_p < 1
    last = torch.where(by_mass, best.gather(1, count - 1), float("-inf"))
    lowest = torch.maximum(lowest, torch.maximum(kth, last))

    if width < vocab:
        # The threshold is at or below the last of the `width` best: more tokens of that score may follow.
        end = best[:, -1:]
        further = ((by_rank & (kth <= end)) | (by_mass & (lowest <= end))).squeeze(1).nonzero().squeeze(1)
        if len(further):
            lowest[further] = threshold(scores[further], options[further], width * 16)
    return lowest


def gumbel(stream: Tensor, ids: Tensor) -> Tensor:
    """Gumbel noise, float32, of token `ids` in a `stream` (both int64, broadcast).

    SplitMix64 (Steele, Lea, Flood 2014): the hash of (seed, position) is the state where a stream of the generator
    begins, and the token id is the index in the stream.
    """
    bits = _mix(stream + ids * _GOLDEN)
    # 53 bits. float32 is precise enough: the noise is large where this is near 0, and floats are dense there.
    uniform = bits.bitwise_right_shift_(11).bitwise_and_((1 << 53) - 1).float().add_(0.5).mul_(2.0**-53)
    exponential = uniform.clamp_(max=1 - 2.0**-24).neg_().log1p_().neg_()
    return exponential.log_().neg_()


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64: products wrap, and the masks turn arithmetic right shifts into logical ones."""
    z = (z >> 30).bitwise_and_((1 << 34) - 1).bitwise_xor_(z).mul_(_MIX_1)
    z = (z >> 27).bitwise_and_((1 << 37) - 1).bitwise_xor_(z).mul_(_MIX_2)
    return (z >> 31).bitwise_and_((1 << 33) - 1).bitwise_xor_(z)
