"""The results of a launched step, copied to the host: drawn tokens, log-probabilities, scores of given texts.

Knows no sampling option: log-probabilities are of the model's raw logits.
"""

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Generic

import torch
from torch import Tensor

from handler.engine.stream import Logprob
from handler.inference.config import SCORED_AT_ONCE
from handler.inference.step import Chunk, S

#: rows of which the keys of all tokens are in memory: 10 MB with 152,000 tokens
KEYED_AT_ONCE = 8


class Draws(Generic[S]):
    """The results of one step. Created while the step still runs on the device; only `read` waits for it."""

    def __init__(
        self,
        sequences: list[S],
        ids: Tensor,
        logits: Tensor,
        tokens_in_vocab: int,
        scores: "Scores[S] | None" = None,
    ) -> None:
        """Start the copy of ids [n], and of log-probabilities from raw logits [n, vocab], for the n `sequences`.

        Ids from `tokens_in_vocab` on have no token, and are never reported as alternatives.
        """
        self._sequences = sequences
        self._with_logprobs = [at for at, sequence in enumerate(sequences) if sequence.logprobs is not None]
        device_side = [ids]
        if self._with_logprobs:
            most = max(sequences[at].logprobs or 0 for at in self._with_logprobs)
            rows = torch.tensor(self._with_logprobs, pin_memory=ids.is_cuda).to(ids.device, non_blocking=True)
            device_side += _logprobs(logits[rows], ids[rows], most, tokens_in_vocab)
        self._scores = scores
        if scores is not None:
            device_side += scores.device_side
        self._arrived: torch.cuda.Event | None = None
        self._host_side = device_side
        if ids.is_cuda:
            self._host_side = [
                torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True) for x in device_side
            ]
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[tuple[S, int, tuple[Logprob, ...]]]:
        """Each sequence with its token and, where it wants it, the log-probability; waits until the step is done."""
        if self._arrived is not None:
            self._arrived.synchronize()
        ids, *alternatives = (x.tolist() for x in self._host_side[: 3 if self._with_logprobs else 1])
        logprobs: list[tuple[Logprob, ...]] = [()] * len(ids)
        for at, tokens, (own, *others) in zip(self._with_logprobs, *alternatives, strict=True) if alternatives else ():
            top = zip(tokens, others, strict=True)
            logprobs[at] = (Logprob(own, tuple(top)[: self._sequences[at].logprobs]),)
        return list(zip(self._sequences, ids, logprobs, strict=True))

    def read_scores(self) -> list[tuple[S, tuple[Logprob, ...]]]:
        """Each sequence with the log-probabilities of its given tokens that the step scored; call it after `read`."""
        if self._scores is None:
            return []
        best, values = self._host_side[-2:]
        return self._scores.of(best.tolist(), values.tolist())


class Scores(Generic[S]):
    """The log-probabilities of the given tokens that a step scores. Its work is launched, and nothing waits for it."""

    def __init__(
        self,
        chunks: list[Chunk[S]],
        given: Tensor,
        hidden: Tensor,
        head: Callable[[Tensor], Tensor],
        tokens_in_vocab: int,
    ) -> None:
        """Score the tokens `given` [n], of all chunks in order, by their predecessors' `hidden` states [n, width].

        `head` makes logits of hidden states; it gets `SCORED_AT_ONCE` of them at a time.
        """
        self._chunks = [chunk for chunk in chunks if chunk.scores]
        most = max(chunk.sequence.logprobs or 0 for chunk in self._chunks)
        parts = [
            _logprobs(head(some), tokens, most, tokens_in_vocab)
            for some, tokens in zip(hidden.split(SCORED_AT_ONCE), given.split(SCORED_AT_ONCE), strict=True)
        ]
        #: int64 [n, most] and float32 [n, 1 + most], as `_logprobs` returns them
        self.device_side = [torch.cat(column) for column in zip(*parts, strict=True)]

    def of(self, best: list[list[int]], values: list[list[float]]) -> list[tuple[S, tuple[Logprob, ...]]]:
        """The log-probabilities by sequence, from the tensors' values on the host."""
        ends = accumulate((chunk.scores for chunk in self._chunks), initial=0)
        return [
            (
                chunk.sequence,
                tuple(
                    Logprob(own, tuple(zip(tokens, others, strict=True))[: chunk.sequence.logprobs])
                    for tokens, (own, *others) in zip(best[begin:end], values[begin:end], strict=True)
                ),
            )
            for chunk, (begin, end) in zip(self._chunks, pairwise(ends), strict=True)
        ]


def _logprobs(logits: Tensor, ids: Tensor, most: int, tokens: int) -> tuple[Tensor, Tensor]:
    """The `most` likeliest tokens of each row of logits [n, vocab], and their log-probabilities after that of its id.

    Returns int64 [n, most] and float32 [n, 1 + most].
    """
    logprobs = logits.float().log_softmax(1)
    best = _likeliest(logprobs[:, :tokens], min(most, tokens))
    return best, torch.cat((logprobs.gather(1, ids[:, None]), logprobs.gather(1, best)), 1)


def _likeliest(logprobs: Tensor, most: int) -> Tensor:
    """The ids of the `most` likeliest tokens of each row, likeliest first, and of equally likely ones the lowest first.

    `topk` alone leaves the order of equal values open, and among logits of 16 bits there are many: which ones are
    listed would depend on how many a neighbour asks for. Each key is unique: the bits of the log-probability in the
    order of the floats, then the id.
    """
    low = (1 << 32) - 1
    places = low - torch.arange(logprobs.shape[1], device=logprobs.device)
    found = []
    for some in logprobs.split(KEYED_AT_ONCE):
        bits = some.view(torch.int32)
        keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long().bitwise_left_shift_(32).bitwise_or_(places)
        found.append(low - keys.topk(most).values.bitwise_and_(low))
    return torch.cat(found)
