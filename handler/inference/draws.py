"""The draws of a launched step, copied to the host: tokens, and log-probabilities for the requests that want them.

Knows no sampling option: log-probabilities are of the model's raw logits.
"""

from typing import Generic

import torch
from torch import Tensor

from handler.engine.stream import Logprob
from handler.inference.step import S


class Draws(Generic[S]):
    """The draws of one step. Created while the step still runs on the device; only `read` waits for it."""

    def __init__(self, sequences: list[S], ids: Tensor, logits: Tensor, tokens_in_vocab: int) -> None:
        """Start the copy of ids [n], and of log-probabilities from raw logits [n, vocab], for the n `sequences`.

        Ids from `tokens_in_vocab` on have no token, and are never reported as alternatives.
        """
        self._sequences = sequences
        self._with_logprobs = [at for at, sequence in enumerate(sequences) if sequence.logprobs is not None]
        device_side = [ids]
        if self._with_logprobs:
            most = max(sequences[at].logprobs or 0 for at in self._with_logprobs)
            device_side += _logprobs(logits, ids, self._with_logprobs, most, tokens_in_vocab)
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
        ids, *alternatives = (x.tolist() for x in self._host_side)
        logprobs: list[tuple[Logprob, ...]] = [()] * len(ids)
        for at, tokens, (own, *others) in zip(self._with_logprobs, *alternatives, strict=True) if alternatives else ():
            top = zip(tokens, others, strict=True)
            logprobs[at] = (Logprob(own, tuple(top)[: self._sequences[at].logprobs]),)
        return list(zip(self._sequences, ids, logprobs, strict=True))


def _logprobs(logits: Tensor, ids: Tensor, wanted: list[int], most: int, tokens: int) -> tuple[Tensor, Tensor]:
    """The `most` likeliest tokens of each row in `wanted`, and their log-probabilities after that of the drawn token.

    Returns int64 [wanted, most] and float32 [wanted, 1 + most].
    """
    rows = torch.tensor(wanted, pin_memory=ids.is_cuda).to(ids.device, non_blocking=True)
    logprobs = logits[rows].float().log_softmax(1)
    best = logprobs[:, :tokens].topk(most)
    return best.indices, torch.cat((logprobs.gather(1, ids[rows, None]), best.values), 1)
