"""Penalties, temperature, cut and draw in two Triton kernels: what `sampler` does with torch, for CUDA.

What each row asks for is read on the device, so that nothing depends on the host, a step's sampling can live in a
CUDA graph, and a row pays for its own wishes alone. No sort: a cut is searched for. Imported only where it is used.
"""

# Triton compiles the functions below from their source: their arguments carry no types, constants are in capitals.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: N803

import torch
import triton
import triton.language as tl
from torch import Tensor

#: tokens a program looks at at a time
BLOCK = 2048
#: thresholds tried in one pass of a search: each leaves an eighth, so 11 passes serve all of float32
TRIED = 8

_IN_PROMPT = tl.constexpr(1 << 30)
#: columns of the options
_TEMPERATURE, _TOP_K, _TOP_P, _MIN_P, _REPETITION, _PRESENCE, _FREQUENCY, _DRAWN = (tl.constexpr(i) for i in range(8))
_COLUMNS = tl.constexpr(8)
_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = tl.constexpr(0xBF58476D1CE4E5B9), tl.constexpr(0x94D049BB133111EB)


def draw(
    logits: Tensor, rows: Tensor, positions: Tensor, options: Tensor, seeds: Tensor, history: Tensor, tokens: int
) -> Tensor:
    """One token for each of n rows, its penalty count updated: see `Sampler.sample`.

    logits [n, >= tokens], any float dtype; rows and positions int64 [n]; options float32 [all rows, 8], seeds int64
    [all rows], history int32 [all rows, vocab] are the sampler's own. Returns int64 [n].
    """
    count = len(rows)
    scores = torch.empty(count, tokens, dtype=torch.float32, device=logits.device)
    drawn = torch.empty(count, dtype=torch.int64, device=logits.device)
    _process[(count, triton.cdiv(tokens, BLOCK))](
        logits, scores, rows, options, history, logits.stride(0), history.stride(0), tokens, BLOCK=BLOCK, num_warps=8
    )
    _draw[(count,)](
        scores, drawn, rows, positions, options, seeds, history, history.stride(0), tokens, BLOCK=BLOCK, TRIED=TRIED,
        num_warps=8,
    )  # fmt: skip
    return drawn


@triton.jit
def _process(logits, scores, rows, options, history, l_row, h_row, tokens, BLOCK: tl.constexpr):
    """Scores of one block of one row: penalties, then temperature."""
    at = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + at)
    wish = options + row * _COLUMNS
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    valid = token < tokens
    x = tl.load(logits + at * l_row + token, mask=valid, other=float("-inf")).to(tl.float32)
    repetition = tl.load(wish + _REPETITION)
    presence = tl.load(wish + _PRESENCE)
    frequency = tl.load(wish + _FREQUENCY)
    if (repetition != 1.0) | (presence != 0.0) | (frequency != 0.0):
        seen = tl.load(history + row * h_row + token, mask=valid, other=0)
        times = seen & (_IN_PROMPT - 1)
        x = tl.where(seen != 0, tl.where(x < 0, x * repetition, tl.div_rn(x, repetition)), x)
        x = x - frequency * times.to(tl.float32)
        x = x - tl.where(times > 0, presence, 0.0)
    tl.store(scores + at * tokens + token, tl.div_rn(x, tl.load(wish + _TEMPERATURE)), mask=valid)


@triton.jit
def _draw(
    scores, drawn, rows, positions, options, seeds, history, h_row, tokens, BLOCK: tl.constexpr, TRIED: tl.constexpr
):
    """One row: where to cut, then the best of what is left with its noise."""
    at = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + at)
    wish = options + row * _COLUMNS
    x_row = scores + at * tokens
    top_k, top_p, min_p = tl.load(wish + _TOP_K), tl.load(wish + _TOP_P), tl.load(wish + _MIN_P)
    is_drawn = tl.load(wish + _DRAWN)

    top = float("-inf")
    for start in range(0, tokens, BLOCK):
        token = start + tl.arange(0, BLOCK)
        top = tl.maximum(top, tl.max(tl.load(x_row + token, mask=token < tokens, other=float("-inf")), 0))

    low = tl.full([], -(1 << 31), tl.int64)
    if (top_k > 0) & (top_k < tokens):
        low = _search(x_row, top, low, top_k.to(tl.float64), False, tokens, BLOCK, TRIED)
    if top_p < 1.0:
        total = tl.full([], 0.0, tl.float64)
        for start in range(0, tokens, BLOCK):
            token = start + tl.arange(0, BLOCK)
            x = tl.load(x_row + token, mask=token < tokens, other=float("-inf"))
            total += tl.sum(tl.where(_ordered(x) >= low, tl.exp(x - top), 0.0), 0).to(tl.float64)
        # Never less than the best token, not even for top_p 0.
        target = tl.maximum(total * top_p.to(tl.float64), 1e-300)
        low = _search(x_row, top, low, target, True, tokens, BLOCK, TRIED)
    least = tl.where(min_p > 0, top + tl.log(tl.maximum(min_p, 1e-38)), float("-inf"))

    seed = tl.load(seeds + row).to(tl.uint64, bitcast=True)
    stream = _mix(_mix(seed + _GOLDEN) + tl.load(positions + at).to(tl.uint64))
    best = float("-inf")
    winner = tl.full([], 0, tl.int32)
    for start in range(0, tokens, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(x_row + token, mask=token < tokens, other=float("-inf"))
        x = tl.where((_ordered(x) >= low) & (x >= least), x, float("-inf"))
        # What cannot be drawn needs no noise: of most blocks nothing is left.
        if (is_drawn != 0.0) & (tl.max(x, 0) > float("-inf")):
            x += _gumbel(stream, token)
        here = tl.max(x, 0)
        if here > best:
            best = here
            winner = start + tl.argmax(x, 0).to(tl.int32)
    tl.store(drawn + at, winner.to(tl.int64))
    seen = history + row * h_row + winner
    tl.store(seen, tl.load(seen) + 1)


@triton.jit
def _search(x_row, top, low, target, BY_MASS: tl.constexpr, tokens, BLOCK: tl.constexpr, TRIED: tl.constexpr):
    """The smallest t >= low with less than `target` above it: of tokens, or of the mass of those from `low` on.

    By the order of floats as integers, so that the search ends and is exact; tokens tied at t are all kept.
    """
    floor = low
    high = _ordered(top)  # nothing is above the best
    while low < high:
        tried = low + (high - low) * tl.arange(0, TRIED) // TRIED
        above = tl.zeros([TRIED], tl.float64)
        for start in range(0, tokens, BLOCK):
            token = start + tl.arange(0, BLOCK)
            x = tl.load(x_row + token, mask=token < tokens, other=float("-inf"))
            key = _ordered(x)
            weight = tl.exp(x - top) if BY_MASS else tl.where(token < tokens, 1.0, 0.0)
            counts = (key[:, None] > tried[None, :]) & (key >= floor)[:, None]
            above += tl.sum(tl.where(counts, weight[:, None], 0.0), 0).to(tl.float64)
        enough = above >= target
        # Tried values ascend and what is above them falls: those with enough above come first, t lies behind them.
        low = tl.maximum(low, tl.max(tl.where(enough, tried + 1, low), 0))
        high = tl.minimum(high, tl.min(tl.where(enough, high, tried), 0))
    return low


@triton.jit
def _ordered(x):
    """int64 in the order of the floats."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _mix(z):
    """SplitMix64's finaliser, on uint64."""
    z = (z ^ (z >> 30)) * _MIX_1
    z = (z ^ (z >> 27)) * _MIX_2
    return z ^ (z >> 31)


@triton.jit
def _gumbel(stream, token):
    """`sampler.gumbel`, with -log1p(-u) spelled out: by its series where 1 - u would lose what u has."""
    bits = _mix(stream + token.to(tl.uint64) * _GOLDEN) >> 11
    u = tl.minimum((bits.to(tl.int64).to(tl.float32) + 0.5) * 1.1102230246251565e-16, 1 - 5.9604644775390625e-08)
    series = u * (1 + u * (1 / 2 + u * (1 / 3 + u * (1 / 4 + u * (1 / 5 + u / 6)))))
    exponential = tl.where(u < 0.0625, series, -tl.log(1 - u))
    return -tl.log(exponential)
