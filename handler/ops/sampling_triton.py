"""Sampling in Triton (bias to draw): the functions of `sampling_torch`, for CUDA.

The kernels read the options of each row on the device, so that nothing depends on the host and a CUDA graph can capture
the sampling of a step. Many programs share the vocabulary of a row; with one program a row, a batch of one would use
one multiprocessor. The threshold of a row is found by a search instead of a sort, with one launch for each step of the
search. Imported only where it is used.
"""

# Triton compiles the functions below from their source: arguments have no types, constants are in capitals.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: N803

import torch
import triton
import triton.language as tl
from torch import Tensor

from handler.ops.launching import launch
from handler.ops.sampling_torch import Biases

#: tokens that one program processes
BLOCK = 4096
#: tokens that it has in registers at a time: in a search one for each thread, which compares its token with all keys
PART, SLICE = 2048, 256
#: thresholds tried in one step of a search, which leaves a sixteenth of the range: 8 steps cover all of float32
TRIED, STEPS = 16, 8

_IN_PROMPT = tl.constexpr(1 << 30)
#: columns of the options, as in `sampling_torch`
_TEMPERATURE, _TOP_K, _TOP_P, _MIN_P, _REPETITION, _PRESENCE, _FREQUENCY, _DRAWN = (tl.constexpr(i) for i in range(8))
_COLUMNS = tl.constexpr(8)
_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = tl.constexpr(0xBF58476D1CE4E5B9), tl.constexpr(0x94D049BB133111EB)


def draw(
    logits: Tensor, rows: Tensor, positions: Tensor, options: Tensor, seeds: Tensor, history: Tensor, biases: Biases,
    tokens: int, full_search: bool,
) -> Tensor:  # fmt: skip
    """Draw one token for each of n rows and count it in the row's history; see `Sampler.sample`.

    logits [n, >= tokens], any float dtype; rows and positions int64 [n]. options float32 [all rows, 8], seeds int64
    [all rows], history int32 [all rows, vocab] and the biases are the buffers of the sampler. A search has STEPS
    launches, with `full_search` twice as many: rows with both top_k and top_p need the second half. Returns int64 [n].
    """
    count, blocks, device = len(rows), triton.cdiv(tokens, BLOCK), logits.device
    steps = 2 * STEPS if full_search else STEPS
    scores = torch.empty(count, tokens, dtype=torch.float32, device=device)
    tops = torch.empty(count, blocks, dtype=torch.float32, device=device)
    # Buffers of a search: `bounds`, the keys between which the threshold lies before each step; `above`, the count or
    # mass that each block has above the keys tried in the last two steps; `mass`, the mass of each block, of which
    # top_p is a share.
    bounds = torch.empty(steps, count, 2, dtype=torch.int64, device=device)
    above = torch.empty(2, count, blocks, TRIED, dtype=torch.float64, device=device)
    mass = torch.empty(count, blocks, dtype=torch.float64, device=device)
    best = torch.empty(count, blocks, dtype=torch.float32, device=device)
    winners = torch.empty(count, blocks, dtype=torch.int32, device=device)
    drawn = torch.empty(count, dtype=torch.int64, device=device)
    padded = triton.next_power_of_2(blocks)
    grid, sizes, search = (count, blocks, 1), (tokens, blocks), (BLOCK, padded, TRIED, STEPS)
    most = biases.ids.shape[1]
    launch(
        _process, grid, (logits, scores, tops, rows, options, history, biases.ids, biases.values),
        (logits.stride(0), history.stride(0), tokens), (), (most, triton.next_power_of_2(most), BLOCK, PART), 8,
    )  # fmt: skip
    searched = scores, tops, rows, options, bounds, above, mass
    for step in range(steps):
        launch(_narrow, grid, searched, sizes, (step,), (*search, SLICE), 8)
    launch(_draw, grid, (*searched, positions, seeds, best, winners), sizes, (steps,), search, 8)
    launch(_pick, (count, 1, 1), (best, winners, drawn, rows, history), (history.stride(0), *sizes), (), (padded,), 4)
    return drawn


@triton.jit
def _process(
    logits, scores, tops, rows, row_options, history, bias_ids, biases, l_row, h_row, tokens, MOST: tl.constexpr,
    PADDED: tl.constexpr, BLOCK: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """One program: the scores of one block of one row after bias, penalties and temperature, and the best of them."""
    at, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = tl.load(rows + at)
    option = row_options + row * _COLUMNS
    repetition = tl.load(option + _REPETITION)
    presence = tl.load(option + _PRESENCE)
    frequency = tl.load(option + _FREQUENCY)
    temperature = tl.load(option + _TEMPERATURE)
    penalised = (repetition != 1.0) | (presence != 0.0) | (frequency != 0.0)
    # The ids of a row are in order, and NO_TOKEN stands after the last one.
    biased = tl.load(bias_ids + row * MOST) < tokens
    next_bias = row * MOST
    if biased:
        place = tl.arange(0, PADDED)
        ids = tl.load(bias_ids + row * MOST + place, mask=place < MOST, other=tokens)
        next_bias += tl.sum(tl.where(ids < block * BLOCK, 1, 0), 0)
    best = tl.full([PART], float("-inf"), tl.float32)
    for start in tl.range(0, BLOCK, PART, num_stages=1):
        token = block * BLOCK + start + tl.arange(0, PART)
        valid = token < tokens
        x = tl.load(logits + at * l_row + token, mask=valid, other=float("-inf")).to(tl.float32)
        if biased:
            biased_token = tl.load(bias_ids + next_bias)
            while biased_token < tl.minimum(block * BLOCK + start + PART, tokens):
                x = tl.where(token == biased_token, x + tl.load(biases + next_bias), x)
                next_bias += 1
                biased_token = tl.load(bias_ids + next_bias)
        if penalised:
            seen = tl.load(history + row * h_row + token, mask=valid, other=0)
            times = seen & (_IN_PROMPT - 1)
            x = tl.where(seen != 0, tl.where(x < 0, x * repetition, tl.div_rn(x, repetition)), x)
            x = x - frequency * times.to(tl.float32)
            x = x - tl.where(times > 0, presence, 0.0)
        x = tl.div_rn(x, temperature)
        tl.store(scores + at * tokens + token, x, mask=valid)
        best = tl.maximum(best, x)
    tl.store(tops + at * tl.num_programs(1) + block, tl.max(best, 0))


@triton.jit(do_not_specialize=["step"])
def _narrow(
    scores, tops, rows, row_options, bounds, above, mass, tokens, blocks, step, BLOCK: tl.constexpr,
    PADDED: tl.constexpr, TRIED: tl.constexpr, STEPS: tl.constexpr, SLICE: tl.constexpr,
):  # fmt: skip
    """One program: one step of a row's search over one block. Measures how much lies above each key that is tried.

    The search finds the smallest key with less than a target above it, so that all tokens tied there are kept. STEPS
    steps search by rank, for top_k; STEPS steps by the mass of the tokens that top_k leaves, for top_p. A row with one
    of the two begins with it, and a row with both searches by mass in the second half. Keys are integers in the order
    of the floats, so that the search ends at an exact value.
    """
    at, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    option = row_options + tl.load(rows + at) * _COLUMNS
    top_k, top_p = tl.load(option + _TOP_K), tl.load(option + _TOP_P)
    top = _top(tops, at, blocks, PADDED)
    low, high = _bounds(top, top_k, top_p, bounds, above, mass, step, at, tokens, blocks, PADDED, TRIED, STEPS)
    if block == 0:
        tl.store(bounds + (step * tl.num_programs(0) + at) * 2, low)
        tl.store(bounds + (step * tl.num_programs(0) + at) * 2 + 1, high)
    first = _first_by_mass(top_k, tokens, STEPS)
    by_mass = step >= first
    first_by_mass = step == first
    if _searches(by_mass, top_p) & ((low < high) | first_by_mass):
        here = at * blocks + block
        part = tl.zeros([TRIED], tl.float64)
        # Most blocks have no token above the lower bound of the search.
        if (_ordered(tl.load(tops + here)) > low) | first_by_mass:
            tried = _tried(low, high, TRIED)
            sums = tl.zeros([SLICE, TRIED], tl.float32)
            own = tl.zeros([SLICE], tl.float32)
            for start in tl.range(0, BLOCK, SLICE, num_stages=1):
                token = block * BLOCK + start + tl.arange(0, SLICE)
                x = tl.load(scores + at * tokens + token, mask=token < tokens, other=float("-inf"))
                key = _ordered(x)
                weight = tl.exp(x - top) if by_mass else tl.where(token < tokens, 1.0, 0.0)
                sums += tl.where(key[:, None] > tried[None, :], weight[:, None], 0.0)
                own += tl.where(key >= low, weight, 0.0)
            part = tl.sum(sums, 0).to(tl.float64)
            if first_by_mass:
                tl.store(mass + here, tl.sum(own, 0).to(tl.float64))
        tl.store(above + (step % 2 * tl.num_programs(0) * blocks + here) * TRIED + tl.arange(0, TRIED), part)


@triton.jit
def _bounds(
    top, top_k, top_p, bounds, above, mass, step, at, tokens, blocks, PADDED: tl.constexpr, TRIED: tl.constexpr,
    STEPS: tl.constexpr,
):  # fmt: skip
    """The keys between which the threshold of a row lies before a step (low <= threshold <= high)."""
    low = tl.full([], -(1 << 31), tl.int64)
    high = _ordered(top)  # no token is above the best
    if step > 0:
        before = bounds + ((step - 1) * tl.num_programs(0) + at) * 2
        low, high = tl.load(before), tl.load(before + 1)
        first = _first_by_mass(top_k, tokens, STEPS)
        by_mass = step > first
        if _searches(by_mass, top_p) & (low < high):
            block = tl.arange(0, PADDED)
            some = block < blocks
            target = top_k.to(tl.float64)
            if by_mass:
                total = tl.sum(tl.load(mass + at * blocks + block, mask=some, other=0.0), 0)
                # The best token is always kept, even for top_p 0.
                target = tl.maximum(total * top_p.to(tl.float64), 1e-300)
            row = ((step + 1) % 2 * tl.num_programs(0) + at) * blocks
            parts = above + (row + block[:, None]) * TRIED + tl.arange(0, TRIED)[None, :]
            enough = tl.sum(tl.load(parts, mask=some[:, None], other=0.0), 0) >= target
            # Tried keys ascend, and the amount above them falls: the threshold lies after the last key with enough.
            tried = _tried(low, high, TRIED)
            low = tl.maximum(low, tl.max(tl.where(enough, tried + 1, low), 0))
            high = tl.minimum(high, tl.min(tl.where(enough, high, tried), 0))
        if step == first:
            high = _ordered(top)
    return low, high


@triton.jit(do_not_specialize=["steps"])
def _draw(
    scores, tops, rows, row_options, bounds, above, mass, positions, seeds, best, winners, tokens, blocks, steps,
    BLOCK: tl.constexpr, PADDED: tl.constexpr, TRIED: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """One program: the best token of one block of one row, noise added, among the tokens that are kept."""
    at, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = tl.load(rows + at)
    option = row_options + row * _COLUMNS
    top_k, top_p, min_p = tl.load(option + _TOP_K), tl.load(option + _TOP_P), tl.load(option + _MIN_P)
    top = _top(tops, at, blocks, PADDED)
    threshold, _ = _bounds(top, top_k, top_p, bounds, above, mass, steps, at, tokens, blocks, PADDED, TRIED, STEPS)
    # A smaller literal than 1e-37 is below the smallest normal float32: Triton would compute in float64.
    least = tl.where(min_p > 0, top + tl.log(tl.maximum(min_p, 1e-37)), float("-inf"))
    value = float("-inf")
    winner = block * BLOCK
    own_top = tl.load(tops + at * blocks + block)
    if (_ordered(own_top) >= threshold) & (own_top >= least):
        token = block * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(scores + at * tokens + token, mask=token < tokens, other=float("-inf"))
        x = tl.where((_ordered(x) >= threshold) & (x >= least), x, float("-inf"))
        if tl.load(option + _DRAWN) != 0.0:
            seed = tl.load(seeds + row).to(tl.uint64, bitcast=True)
            x += _gumbel(_mix(_mix(seed + _GOLDEN) + tl.load(positions + at).to(tl.uint64)), token)
        value = tl.max(x, 0)
        winner += tl.argmax(x, 0).to(tl.int32)
    tl.store(best + at * blocks + block, value)
    tl.store(winners + at * blocks + block, winner)


@triton.jit
def _pick(best, winners, drawn, rows, history, h_row, tokens, blocks, PADDED: tl.constexpr):
    """One program: the best token of all blocks of one row, which is then counted in the row's history."""
    at = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, PADDED)
    values = tl.load(best + at * blocks + block, mask=block < blocks, other=float("-inf"))
    # With broken scores (NaN) too, the result is a valid token.
    winner = tl.load(winners + at * blocks + tl.minimum(tl.argmax(values, 0), blocks - 1))
    winner = tl.minimum(winner, tokens - 1)
    tl.store(drawn + at, winner.to(tl.int64))
    seen = history + tl.load(rows + at) * h_row + winner
    tl.store(seen, tl.load(seen) + 1)


@triton.jit
def _first_by_mass(top_k, tokens, STEPS: tl.constexpr):
    """The step in which the search of a row by mass begins: after that by rank, where the row has a top_k."""
    return tl.where((top_k > 0) & (top_k < tokens), STEPS, 0)


@triton.jit
def _searches(by_mass, top_p):
    """True where a row searches: in each step before its search by mass, and in that one where it has a top_p."""
    return (by_mass == 0) | (top_p < 1.0)


@triton.jit
def _top(tops, at, blocks, PADDED: tl.constexpr):
    """The best score of a row."""
    block = tl.arange(0, PADDED)
    return tl.max(tl.load(tops + at * blocks + block, mask=block < blocks, other=float("-inf")), 0)


@triton.jit
def _tried(low, high, TRIED: tl.constexpr):
    """TRIED keys from `low` on, at equal distances, all below `high`."""
    return low + (high - low) * tl.arange(0, TRIED) // TRIED


@triton.jit
def _ordered(x):
    """float32 to int64 in the order of the floats."""
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
    """`sampling_torch.gumbel`; -log1p(-u) as its series where u is small and 1 - u would lose its digits."""
    bits = _mix(stream + token.to(tl.uint64) * _GOLDEN) >> 11
    u = tl.minimum((bits.to(tl.int64).to(tl.float32) + 0.5) * 1.1102230246251565e-16, 1 - 5.9604644775390625e-08)
    series = u * (1 + u * (1 / 2 + u * (1 / 3 + u * (1 / 4 + u * (1 / 5 + u * (1 / 6))))))
    exponential = tl.where(u < 0.0625, series, -tl.log(1 - u))
    return -tl.log(exponential)
