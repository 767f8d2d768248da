"""The check before the first job: the kernels of each part beside plain torch, on the same device.

It finds a kernel that cannot be compiled, loaded or launched here, and one whose results are wrong here: a driver, a
compiler or a GPU on which it was never run. Inputs are random numbers in the model's own shapes and dtype, one layer,
on shuffled pages. Knows no model, no engine and no request. Imports the kernels inside functions, because importing
Triton may fail too.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor

from handler.ops import attention_torch, layers_torch, sampling_torch
from handler.ops.check_step import RandomStep, Sizes
from handler.ops.parts import Part, Parts
from handler.ops.sampling_torch import IN_PROMPT, NO_TOKEN, Biases, Needs

#: contexts of the decode rows: both sides of a page's edge, a padded row, and enough for several splits of several
#: blocks each
LENGTHS = (1, 64, 65, 0, 200, 1100)
#: (new tokens, tokens before them) of the chunks: one that begins a sequence, one that continues it, one token
CHUNKS = ((70, 0), (9, 120), (1, 64))
#: steps in which every chunk begins a sequence run without a gather
BEGINNINGS = ((70, 0), (5, 0))
#: the options of the rows that draw, in the columns of `sampling_torch`: greedy, temperature, top_p, top_k with
#: penalties, min_p, everything. The cuts take much of the mass away, and several rows have the same, so that a wrong
#: cut gives another token.
DRAWS = (
    (1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0),
    (1.2, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0),
    (1.5, 0.0, 0.3, 0.0, 1.0, 0.0, 0.0, 1.0),
    (3.0, 2.0, 1.0, 0.0, 1.3, 0.5, 0.2, 1.0),
    (2.0, 0.0, 1.0, 0.3, 1.0, 0.0, 0.0, 1.0),
    (2.0, 50.0, 0.8, 0.05, 1.1, 0.0, 0.0, 1.0),
)
#: rows with the same options and another seed
SEEDS = 5
EPS = 1e-6

T = TypeVar("T")


def check(parts: Parts, sizes: Sizes, *, fatal: Callable[[Exception], bool]) -> Parts:
    """Run the kernels of the parts that have them on; returns `parts` without those that fail or differ.

    Raises:
        Exception: one of which `fatal` says that the device cannot be used after it.
    """
    checks: dict[Part, Callable[[Sizes], str | None]] = {
        "layers": _layers,
        "decode": _decode,
        "prefill": _prefill,
        "sampler": _sampler,
    }
    off: dict[Part, str] = {}
    for part, differs in checks.items():
        if getattr(parts, part):
            try:
                if (operation := differs(sizes)) is not None:
                    off[part] = f"self-check: {operation} gives another result than plain torch"
            except Exception as error:
                if fatal(error):
                    raise
                off[part] = f"self-check: {type(error).__name__}: {_message(error)}"
    return parts.without(off)


def _layers(sizes: Sizes) -> str | None:
    """The operation that differs, if one does."""
    from handler.ops import layers_triton

    x, weight = 3 * sizes.random(5, sizes.hidden, seed=4), 1 + sizes.random(sizes.hidden, seed=5)
    x[1] = 0  # a padded row
    if _differ(_twice(partial(layers_triton.rms_norm, x, weight, EPS)), layers_torch.rms_norm(x, weight, EPS)):
        return "rms_norm"
    gate_up = 3 * sizes.random(5, 2 * sizes.intermediate, seed=6)
    if _differ(_twice(partial(layers_triton.silu_mul, gate_up)), layers_torch.silu_mul(gate_up)):
        return "silu_mul"
    step, norms = RandomStep(sizes, LENGTHS, CHUNKS), None
    if sizes.norms:
        norms = 1 + sizes.random(2, sizes.head_dim, seed=7)
    positions = 7 * torch.arange(len(step.slots), device=sizes.device)
    rope = layers_torch.rope_table(positions, layers_torch.frequencies(sizes.head_dim, 1e6, sizes.device), sizes.dtype)

    def moved(ops: ModuleType) -> tuple[Tensor, ...]:
        pages = sizes.pages(len(step.pages.k[0]))
        new = ops.rotate_and_store(step.qkv.clone(), norms, rope, step.slots, 0, pages, EPS)
        # Page 0 is scratch, and padded rows of one step may write it in any order.
        return (*new, *(cache[0][1:].flatten(0, 1) for cache in (pages.k, pages.v)))

    both = _twice(partial(moved, layers_triton)), moved(layers_torch)
    return "rotate_and_store" if any(_differ(*pair) for pair in zip(*both, strict=True)) else None


def _decode(sizes: Sizes) -> str | None:
    from handler.ops.attention_triton import paged_decode

    step, scaling = RandomStep(sizes, LENGTHS, ()), sizes.head_dim**-0.5
    layout = step.layout()

    def attended() -> Tensor:
        out = torch.full(step.query.shape, float("nan"), dtype=sizes.dtype, device=sizes.device)
        keys, values = step.pages.k[0], step.pages.v[0]
        paged_decode(step.query, keys, values, layout.block_tables, layout.context_lens, scaling, out)
        return out

    got, query = _twice(attended), step.query.float()
    expected = torch.empty_like(query)
    attention_torch.decode(0, query, expected, scaling, layout, step.plain)
    real = layout.context_lens > 0
    return "paged_decode" if _differ(got[real], expected[real]) else None


def _prefill(sizes: Sizes) -> str | None:
    from handler.ops.attention_triton import flash_prefill

    for lengths, chunks in ((LENGTHS, CHUNKS), ((), BEGINNINGS)):
        step, scaling, rows = RandomStep(sizes, lengths, chunks), sizes.head_dim**-0.5, len(lengths)
        got = torch.empty_like(step.query, memory_format=torch.contiguous_format)
        flash_prefill(0, step.query, step.key, step.value, got, scaling, step.layout(), step.pages)
        query, key, value = step.query.float(), step.key.float(), step.value.float()
        expected = torch.empty_like(query)
        attention_torch.prefill(0, query, key, value, expected, scaling, step.layout(), step.plain)
        if _differ(got[rows:], expected[rows:]):
            return "flash_prefill"
    return None


def _sampler(sizes: Sizes) -> str | None:
    # Rows with both top_k and top_p need the full search; without them half of it has to give the same.
    for full_search, kinds in ((True, DRAWS), (False, tuple(kind for kind in DRAWS if not (kind[1] and kind[2] < 1)))):
        if not _draws_alike(sizes, kinds * SEEDS, full_search=full_search):
            return "draw"
    return None


def _draws_alike(sizes: Sizes, every: tuple[tuple[float, ...], ...], *, full_search: bool) -> bool:
    """True where rows with these options draw the same tokens both ways, and count them alike."""
    from handler.ops import sampling_triton

    device, tokens = sizes.device, sizes.tokens
    logits = 3 * sizes.random(len(every), sizes.vocab, seed=8)
    logits[:, tokens:] = 1000.0  # ids without a token, which no draw may give
    options = torch.tensor(every, device=device)
    seeds = 1 + torch.arange(len(every), device=device) * (2**57 + 1)
    history = torch.zeros(len(every), sizes.vocab, dtype=torch.int32, device=device)
    history[:, : tokens // 2 : 3] = IN_PROMPT
    history[:, : tokens // 2 : 5] += 2
    biased = range(1, len(every), 3)
    biases = _biases(len(every), biased, tokens, device)
    rows = torch.arange(len(every), device=device).flip(0)
    positions = 100 + rows
    counted = history.clone()
    got = sampling_triton.draw(logits, rows, positions, options, seeds, counted, biases, tokens, full_search)
    ids = torch.arange(tokens, device=device)
    for at, row in enumerate(reversed(range(len(every)))):
        _, *cut, repetition, presence, frequency, draws = every[row]
        needs = Needs(row in biased, (repetition, presence, frequency) != (1, 0, 0), draws == 1, cut != [0, 1, 0])
        one = slice(at, at + 1)
        drawn = sampling_torch.draw(logits[one], rows[one], positions[one], options, seeds, history, biases, ids, needs)
        if not torch.equal(got[one], drawn) or (needs.penalties and not torch.equal(counted[row], history[row])):
            return False
    return True


def _biases(rows: int, biased: range, tokens: int, device: torch.device) -> Biases:
    """Biases of the `biased` rows, the others have none: bans and likelier tokens in turn, and one that is drawn."""
    banned = torch.arange(0, tokens, max(5, tokens // 100), dtype=torch.int32, device=device)
    # One place is empty, as it is in the last row of a batch of requests.
    ids = torch.full((rows, len(banned) + 1), NO_TOKEN, dtype=torch.int32, device=device)
    values = torch.zeros(rows, len(banned) + 1, device=device)
    own = torch.tensor([*biased], device=device)
    ids[own, :-1] = banned
    values[own, :-1] = float("-inf")
    values[own, :-1:2] = 4.0
    # In every other one, a token that has to be drawn: the first one with a bias, the last one, the one before it.
    for at, row in enumerate(biased):
        if at % 2:
            values[row, -(at // 2) % len(banned)] = 60.0
    return Biases(ids, values)


def _twice(run: Callable[[], T]) -> T:
    """The result of the second call: the first launch of a kernel finds the compiled one, later ones only call it."""
    first = run()  # held, so that the second cannot be given its memory, and with it its result
    second = run()
    del first
    return second


def _differ(got: Tensor, expected: Tensor) -> bool:
    """True where an element of a row (first dimension) is further off than rounding in the dtype of `got` explains.

    The bound is a share of the element, or of the root mean square of its row where that is larger: 6 % in half
    precision, 1e-4 in float32. That is several times what rounding does, and far less than what a wrong index does.
    """
    loose = 0.06 if got.dtype.itemsize == 2 else 1e-4
    got, expected = got.float().flatten(1), expected.float().flatten(1)
    scale = expected.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
    # `not <=`, so that NaN differs
    return not bool(((got - expected).abs() <= loose * expected.abs().maximum(scale)).all())


def _message(error: Exception) -> str:
    """One line of an error. Triton's compiler begins with a place and the source, and ends with the cause."""
    first, *others = str(error).strip().splitlines() or [""]
    return (others[-1] if others and first.endswith(":") else first)[:160]
