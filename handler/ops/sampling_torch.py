"""Penalties, temperature, cut and draw in plain torch: on any device, and the measure of the kernels.

Order and result of the options are those of transformers' `generate`: penalties, temperature, top_k, top_p, min_p.
Knows tensors alone, no request.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

#: candidates looked at first; a row whose top_k or top_p reaches past them looks further
CANDIDATES = 1024
#: set in a history for tokens of the prompt; the bits below count occurrences in the completion
IN_PROMPT = 1 << 30
#: columns of options
TEMPERATURE, TOP_K, TOP_P, MIN_P, REPETITION, PRESENCE, FREQUENCY, DRAWN = range(8)
#: options that do nothing
NEUTRAL = (1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0)
#: SplitMix64's constants, as signed 64-bit integers
_GOLDEN, _MIX_1, _MIX_2 = (c - (1 << 64) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Needs:
    """Passes over the vocabulary that rows ask for beside an argmax."""

    penalties: bool
    draw: bool
    cut: bool


def draw(
    logits: Tensor, rows: Tensor, positions: Tensor, options: Tensor, seeds: Tensor, history: Tensor, ids: Tensor,
    needs: Needs,
) -> Tensor:  # fmt: skip
    """One token for each of n rows of the same needs: as `sampling_triton.draw`, which reads the needs by itself.

    ids int64 [tokens], all that can be drawn: made once, for a large tensor's memory costs more than its arithmetic.
    """
    scores = process(logits, rows, options, history, len(ids), needs)
    if needs.draw:
        streams = _mix(_mix(seeds[rows] + _GOLDEN) + positions)
        if needs.cut:  # noise for what is kept alone
            kept = (scores > float("-inf")).nonzero(as_tuple=True)
            scores[kept] += gumbel(streams[kept[0]], kept[1])
        else:
            scores += gumbel(streams[:, None], ids)
    drawn = scores.argmax(-1)
    if needs.penalties:
        history[rows, drawn] += 1
    return drawn


def process(logits: Tensor, rows: Tensor, options: Tensor, history: Tensor, tokens: int, needs: Needs) -> Tensor:
    """float32 [n, tokens]: scores as `generate`'s processors leave them, -inf for what is never drawn."""
    scores, wishes = logits[:, :tokens].to(torch.float32, copy=True), options[rows]
    if needs.penalties:
        past = history[rows, :tokens]
        seen = past.nonzero(as_tuple=True)
        scores[seen] = _penalised(scores[seen], past[seen], wishes[seen[0]])
    if needs.draw:
        scores /= wishes[:, TEMPERATURE, None]
    if needs.cut:
        scores.masked_fill_(scores < threshold(scores, wishes), float("-inf"))
    return scores


def _penalised(scores: Tensor, history: Tensor, options: Tensor) -> Tensor:
    """Scores [k] of tokens seen before: repetition over prompt and completion, frequency and presence, as OpenAI
    define them, over the completion. history [k], options [k, 8]."""
    repetition = options[:, REPETITION]
    scores = torch.where(scores < 0, scores * repetition, scores / repetition)
    count = history & (IN_PROMPT - 1)
    return scores - options[:, FREQUENCY] * count - options[:, PRESENCE] * (count > 0)


def threshold(scores: Tensor, options: Tensor, width: int = CANDIDATES) -> Tensor:
    """The lowest score each row keeps: top_k, then top_p over what that leaves, then min_p.

    A threshold, not a mask, because each of the three keeps all tokens above some score; tokens tied with the last
    one kept stay too. scores float32 [n, vocab], options [n, 8]; returns float32 [n, 1], -inf where all is kept.
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
    # Sums in float64: the same whatever the batch, since a row's cut must not depend on its neighbours.
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
        # A cut on the last candidate, or below it: more of the same score may follow.
        end = best[:, -1:]
        further = ((by_rank & (kth <= end)) | (by_mass & (lowest <= end))).squeeze(1).nonzero().squeeze(1)
        if len(further):
            lowest[further] = threshold(scores[further], options[further], width * 16)
    return lowest


def gumbel(stream: Tensor, ids: Tensor) -> Tensor:
    """Gumbel noise, float32, of token `ids` in a `stream` [both int64, broadcast].

    SplitMix64 (Steele, Lea, Flood 2014): (seed, position) hashes to where a stream of the generator begins, and the
    token id is the place in it.
    """
    bits = _mix(stream + ids * _GOLDEN)
    # 53 bits, and fine where it matters: noise is large where this is near 0, and there floats are dense.
    uniform = bits.bitwise_right_shift_(11).bitwise_and_((1 << 53) - 1).float().add_(0.5).mul_(2.0**-53)
    exponential = uniform.clamp_(max=1 - 2.0**-24).neg_().log1p_().neg_()
    return exponential.log_().neg_()


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, whose products wrap; masks make the right shifts logical ones."""
    z = (z >> 30).bitwise_and_((1 << 34) - 1).bitwise_xor_(z).mul_(_MIX_1)
    z = (z >> 27).bitwise_and_((1 << 37) - 1).bitwise_xor_(z).mul_(_MIX_2)
    return (z >> 31).bitwise_and_((1 << 33) - 1).bitwise_xor_(z)
