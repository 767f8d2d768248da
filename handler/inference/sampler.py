"""Draws one token per row of a batch, each row on its own terms.

What a row asks for lives in persistent device buffers, written when the row is assigned; a step reads them by row.
A draw is the argmax of scores plus Gumbel noise hashed from (seed, position, token id): it depends on nothing but the
request, needs no generator state and survives re-admission. Order and result of the options are those of
transformers' `generate`: penalties, temperature, top_k, top_p, min_p. Knows no text and no scheduler.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from handler.inference.engine import Sampling

#: candidates looked at first; a row whose top_k or top_p reaches past them looks further
CANDIDATES = 1024
#: set in `_history` for tokens of the prompt; the bits below count occurrences in the completion
_IN_PROMPT = 1 << 30
#: columns of `_options`
_TEMPERATURE, _TOP_K, _TOP_P, _MIN_P, _REPETITION, _PRESENCE, _FREQUENCY, _DRAWN = range(8)
#: SplitMix64's constants, as signed 64-bit integers
_GOLDEN, _MIX_1, _MIX_2 = (c - (1 << 64) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_NEUTRAL = (1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Needs:
    """Passes over the vocabulary that a row asks for beside an argmax, known on the host."""

    penalties: bool
    draw: bool
    cut: bool


_PLAIN = _Needs(penalties=False, draw=False, cut=False)


class Sampler:
    """Sampling state of `rows` batch rows. Used by one thread."""

    def __init__(
        self,
        rows: int,
        vocab_size: int,
        tokens_in_vocab: int,
        device: torch.device | str,
        *,
        kernels: bool | None = None,
    ) -> None:
        """`vocab_size` is the width of the logits; ids from `tokens_in_vocab` on have no token and are never drawn.

        `kernels` draws by Triton (see `kernels.sampling`); None does so on CUDA where Triton is installed. Without
        them a draw is the same, but the host takes part in it.
        """
        if kernels is None:
            kernels = torch.device(device).type == "cuda" and find_spec("triton") is not None
        #: whether `sample` may live in a CUDA graph: nothing of it is then decided on the host
        self.capturable = kernels
        self._tokens = tokens_in_vocab
        self._options = torch.tensor([_NEUTRAL], device=device).repeat(rows, 1)
        self._seeds = torch.zeros(rows, dtype=torch.int64, device=device)
        self._history = torch.zeros(rows, vocab_size, dtype=torch.int32, device=device)
        self._ids = torch.arange(tokens_in_vocab, device=device)
        #: of the rows that are not plain
        self._needs: dict[int, _Needs] = {}

    def assign(
        self, row: int, sampling: Sampling, prompt_ids: Sequence[int], completion_ids: Sequence[int] = ()
    ) -> None:
        """Give `row` to a request; `completion_ids` are what it had drawn before it was preempted."""
        s = sampling
        draw = s.temperature > 1e-30  # what is less overflows float32 scores, and its limit is greedy
        cut = (s.top_k, s.top_p, s.min_p) if draw else (0, 1.0, 0.0)
        penalties = (s.repetition_penalty, s.presence_penalty, s.frequency_penalty)
        needs = _Needs(s.penalises, draw, cut != (0, 1.0, 0.0))
        self._options[row] = self._upload([s.temperature if draw else 1.0, *cut, *penalties, draw], torch.float32)
        self._seeds[row] = s.seed
        if needs.penalties:
            history = self._history[row].zero_()
            history[self._upload(prompt_ids, torch.int64)] = _IN_PROMPT
            drawn = self._upload(completion_ids, torch.int64)
            history.index_add_(0, drawn, torch.ones_like(drawn, dtype=torch.int32))
        if needs == _PLAIN:
            self._needs.pop(row, None)
        else:
            self._needs[row] = needs

    def release(self, row: int) -> None:
        """The request of `row` is gone; what it asked for costs nothing from here on."""
        self._needs.pop(row, None)

    def sample(self, logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """Draw a token for each of n rows. A row may come more than once where it has no penalties.

        Args:
            logits: [n, vocab_size], any float dtype; left as they are.
            rows: int64 [n]
            positions: int64 [n], the index in its sequence of the token being drawn.

        Returns:
            int64 [n]. Where `capturable`, nothing waits for the device.
        """
        if self.capturable:
            from handler.kernels.sampling import draw

            return draw(logits, rows, positions, self._options, self._seeds, self._history, self._tokens)
        logits = logits[:, : self._tokens]
        if not self._needs:
            return logits.float().argmax(-1)
        # Here the host may look at `rows`, and spare each the passes it does not need.
        alike: dict[_Needs, list[int]] = {}
        for at, row in enumerate(rows.tolist()):
            alike.setdefault(self._needs.get(row, _PLAIN), []).append(at)
        tokens = torch.empty_like(rows)
        for needs, members in alike.items():
            for some in torch.tensor(members, device=rows.device).split(8):  # these fit the processor's cache
                tokens[some] = self._sample(logits[some], rows[some], positions[some], needs)
        return tokens

    def processed(self, logits: Tensor, rows: Tensor) -> Tensor:
        """float32 [n, tokens_in_vocab]: scores as `generate`'s processors leave them, -inf for what is never drawn."""
        return self._processed(logits, rows, _Needs(penalties=True, draw=True, cut=True))

    def _processed(self, logits: Tensor, rows: Tensor, needs: _Needs) -> Tensor:
        scores, options = logits[:, : self._tokens].to(torch.float32, copy=True), self._options[rows]
        if needs.penalties:
            history = self._history[rows, : self._tokens]
            seen = history.nonzero(as_tuple=True)
            scores[seen] = _penalised(scores[seen], history[seen], options[seen[0]])
        if needs.draw:
            scores /= options[:, _TEMPERATURE, None]
        if needs.cut:
            scores.masked_fill_(scores < threshold(scores, options), float("-inf"))
        return scores

    def _sample(self, logits: Tensor, rows: Tensor, positions: Tensor, needs: _Needs) -> Tensor:
        scores = self._processed(logits, rows, needs)
        if needs.draw:
            streams = _mix(_mix(self._seeds[rows] + _GOLDEN) + positions)
            if needs.cut:  # noise for what is kept alone
                kept = (scores > float("-inf")).nonzero(as_tuple=True)
                scores[kept] += gumbel(streams[kept[0]], kept[1])
            else:
                scores += gumbel(streams[:, None], self._ids)
        tokens = scores.argmax(-1)
        if needs.penalties:
            self._history[rows, tokens] += 1
        return tokens

    def _upload(self, values: Sequence[float], dtype: torch.dtype) -> Tensor:
        # From pinned memory: a plain copy would wait for the step that runs.
        device = self._options.device
        return torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def _penalised(scores: Tensor, history: Tensor, options: Tensor) -> Tensor:
    """Scores [k] of tokens seen before: repetition over prompt and completion, frequency and presence, as OpenAI
    define them, over the completion. history [k], options [k, 8]."""
    repetition = options[:, _REPETITION]
    scores = torch.where(scores < 0, scores * repetition, scores / repetition)
    count = history & (_IN_PROMPT - 1)
    return scores - options[:, _FREQUENCY] * count - options[:, _PRESENCE] * (count > 0)


def threshold(scores: Tensor, options: Tensor, width: int = CANDIDATES) -> Tensor:
    """The lowest score each row keeps: top_k, then top_p over what that leaves, then min_p.

    A threshold, not a mask, because each of the three keeps all tokens above some score; tokens tied with the last
    one kept stay too. scores float32 [n, vocab], options [n, 8]; returns float32 [n, 1], -inf where all is kept.
    """
    vocab = scores.shape[1]
    width = min(width, vocab)
    best = scores.topk(width).values if width < vocab else scores.sort(descending=True).values
    top_k, top_p, min_p = (options[:, column, None] for column in (_TOP_K, _TOP_P, _MIN_P))
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
