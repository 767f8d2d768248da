"""What a launched step draws, on its way to the host: tokens, and log-probabilities for those who asked.

Knows no option of sampling: log-probabilities are the model's own.
"""

from typing import Generic

import torch
from torch import Tensor

from handler.engine.stream import Logprob
from handler.inference.step import S


class Draws(Generic[S]):
    """The draws of one step. Made while the step still runs on the device, and waits for nothing until it is read."""

    def __init__(self, sequences: list[S], ids: Tensor, logits: Tensor, tokens_in_vocab: int) -> None:
        """Ids [n] and raw logits [n, vocab] of `sequences`; ids from `tokens_in_vocab` on are no alternatives."""
        self._sequences = sequences
        self._asked = [at for at, sequence in enumerate(sequences) if sequence.logprobs is not None]
        device_side = [ids]
        if self._asked:
            most = max(sequences[at].logprobs or 0 for at in self._asked)
            device_side += _measured(logits, ids, self._asked, most, tokens_in_vocab)
        self._arrived: torch.cuda.Event | None = None
        self._host_side = device_side
        if ids.is_cuda:
            self._host_side = [
                torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True) for x in device_side
            ]
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[tuple[S, int, tuple[Logprob, ...]]]:
        """Each sequence, its token and, where it asked, that token's log-probability; waits until the step is done."""
        if self._arrived is not None:
            self._arrived.synchronize()
        ids, *measured = (x.tolist() for x in self._host_side)
        told: list[tuple[Logprob, ...]] = [()] * len(ids)
        for at, tokens, (own, *others) in zip(self._asked, *measured, strict=True) if measured else ():
            top = zip(tokens, others, strict=True)
            told[at] = (Logprob(own, tuple(top)[: self._sequences[at].logprobs]),)
        return list(zip(self._sequences, ids, told, strict=True))


def _measured(logits: Tensor, ids: Tensor, asked: list[int], most: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Of the rows in `asked`: the likeliest tokens [asked, most], and the log-probabilities of the drawn one and of
    these, float32 [asked, 1 + most]."""
    rows = torch.tensor(asked, pin_memory=ids.is_cuda).to(ids.device, non_blocking=True)
    logprobs = logits[rows].float().log_softmax(1)
    best = logprobs[:, :tokens].topk(most)
    return best.indices, torch.cat((logprobs.gather(1, ids[rows, None]), best.values), 1)
