"""Draws one token for each row of a batch, by the row's own sampling options.

The options of a row are in persistent device buffers, written when the row is assigned; a step reads them by row. A
draw is the argmax of scores plus Gumbel noise, a hash of (seed, position, token id): the noise depends on nothing else,
needs no generator state, and is the same after a preemption. Order and result of the options are those of
transformers' `generate`: bias, penalties, temperature, top_k, top_p, min_p. Knows no text and no scheduler.
"""

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from handler.engine.sampling import MAX_BIASES, Sampling
from handler.ops import sampling_torch
from handler.ops.sampling_torch import IN_PROMPT, NEUTRAL, NO_TOKEN, Biases, Needs

_PLAIN = Needs(bias=False, penalties=False, draw=False, cut=False)


class Sampler:
    """The sampling state of `rows` batch rows. Used by one thread."""

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

        `kernels` draws by Triton (see `sampling_triton`); None does so on CUDA where Triton is installed. Without
        kernels a draw gives the same token, but the host takes part in it.
        """
        if kernels is None:
            kernels = torch.device(device).type == "cuda" and find_spec("triton") is not None
        #: True where a CUDA graph can capture `sample`, because the host decides nothing in it
        self.capturable = kernels
        self._tokens = tokens_in_vocab
        self._options = torch.tensor([NEUTRAL], device=device).repeat(rows, 1)
        self._seeds = torch.zeros(rows, dtype=torch.int64, device=device)
        self._history = torch.zeros(rows, vocab_size, dtype=torch.int32, device=device)
        self._biases = Biases(
            torch.full((rows, MAX_BIASES + 1), NO_TOKEN, dtype=torch.int32, device=device),
            torch.zeros(rows, MAX_BIASES + 1, device=device),
        )
        #: the rows whose biases are those of a request, which may have ended
        self._biased: set[int] = set()
        self._ids = torch.arange(tokens_in_vocab, device=device)
        #: needs of the rows that need more than an argmax
        self._needs: dict[int, Needs] = {}
        #: the rows with both top_k and top_p
        self._cut_twice: set[int] = set()

    @property
    def needs_full_search(self) -> bool:
        """True while a row has both top_k and top_p, so that `sample` must search in full."""
        return bool(self._cut_twice)

    def assign(
        self, row: int, sampling: Sampling, prompt_ids: Sequence[int], completion_ids: Sequence[int] = ()
    ) -> None:
        """Give `row` to a request; `completion_ids` are the tokens that it drew before it was preempted."""
        s = sampling
        draw = s.temperature > 1e-30  # less overflows float32 scores; the limit of the draw is the greedy token
        cut = (s.top_k, s.top_p, s.min_p) if draw else (0, 1.0, 0.0)
        penalties = (s.repetition_penalty, s.presence_penalty, s.frequency_penalty)
        biases = s.biases
        needs = Needs(bool(biases), s.penalises, draw, cut != (0, 1.0, 0.0))
        self._options[row] = self._upload([s.temperature if draw else 1.0, *cut, *penalties, draw], torch.float32)
        self._seeds[row] = s.seed - 2**64 if s.seed >= 2**63 else s.seed  # the same 64 bits, with a sign
        self._assign_biases(row, biases)
        if needs.penalties:
            history = self._history[row].zero_()
            history[self._upload(prompt_ids, torch.int64)] = IN_PROMPT
            drawn = self._upload(completion_ids, torch.int64)
            history.index_add_(0, drawn, torch.ones_like(drawn, dtype=torch.int32))
        self.release(row)
        if needs != _PLAIN:
            self._needs[row] = needs
        if draw and s.top_k and s.top_p < 1:
            self._cut_twice.add(row)

    def _assign_biases(self, row: int, biases: list[tuple[int, float]]) -> None:
        """Write the biases of a row, or that it has none where the request before it had some."""
        ids, values = self._biases.ids[row], self._biases.values[row]
        if biases:
            self._biased.add(row)  # first: an upload may run out of memory
            rest = MAX_BIASES + 1 - len(biases)
            ids.copy_(self._upload([token for token, _ in biases] + [NO_TOKEN] * rest, torch.int32))
            values.copy_(self._upload([bias for _, bias in biases] + [0.0] * rest, torch.float32))
        elif row in self._biased:
            ids.fill_(NO_TOKEN)
            self._biased.discard(row)

    def release(self, row: int) -> None:
        """Forget the needs of `row` once its request has ended, so that no step computes them."""
        self._needs.pop(row, None)
        self._cut_twice.discard(row)

    def sample(self, logits: Tensor, rows: Tensor, positions: Tensor, *, full_search: bool = True) -> Tensor:
        """Draw a token for each of n rows. A row without penalties may occur more than once.

        Args:
            logits: [n, vocab_size], any float dtype; not changed.
            rows: int64 [n].
            positions: int64 [n], the index of the drawn token in its sequence.
            full_search: False only where `needs_full_search` is: the kernels then search in half as many launches. A
                CUDA graph keeps the number of launches that it was captured with. Plain torch ignores it.

        Returns:
            int64 [n]. Where `capturable`, nothing waits for the device.
        """
        if self.capturable:
            from handler.ops.sampling_triton import draw

            options, seeds, history = self._options, self._seeds, self._history
            return draw(logits, rows, positions, options, seeds, history, self._biases, self._tokens, full_search)
        logits = logits[:, : self._tokens]
        if not self._needs:
            return logits.float().argmax(-1)
        # The host may read `rows` here, and leave out the passes that a row does not need.
        alike: dict[Needs, list[int]] = {}
        for at, row in enumerate(rows.tolist()):
            alike.setdefault(self._needs.get(row, _PLAIN), []).append(at)
        tokens = torch.empty_like(rows)
        for needs, members in alike.items():
            # 8 rows of scores fit into the processor's cache.
            for some in torch.tensor(members, device=rows.device).split(8):
                tokens[some] = sampling_torch.draw(
                    logits[some], rows[some], positions[some], self._options, self._seeds, self._history,
                    self._biases, self._ids, needs,
                )  # fmt: skip
        return tokens

    def processed(self, logits: Tensor, rows: Tensor) -> Tensor:
        """float32 [n, tokens_in_vocab]: scores as `generate`'s processors leave them, -inf where never drawn."""
        everything = Needs(bias=True, penalties=True, draw=True, cut=True)
        history, biases = self._history, self._biases
        return sampling_torch.process(logits, rows, self._options, history, biases, self._tokens, everything)

    def _upload(self, values: Sequence[float], dtype: torch.dtype) -> Tensor:
        # From pinned memory: a plain copy would wait for the step that runs.
        device = self._options.device
        return torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)
