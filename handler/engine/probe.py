"""Asks an engine for tokens before the first job, to see whether the model computes finite logits. Knows no device."""

import math

from handler.engine.protocol import Engine, Prompt
from handler.engine.sampling import Sampling
from handler.engine.stream import Delta

#: tokens: the first one comes from the prompt's prefill, the next ones from decode steps
TOKENS = 3


async def computes_finite_logits(engine: Engine, prompt: Prompt) -> bool:
    """True where `TOKENS` greedy tokens after the prompt, or fewer before an end token, have finite log-probabilities.

    A logit that is NaN or endless makes every log-probability of its token NaN.

    Raises:
        WorkerError: the engine could not run the request.
    """
    sampling = Sampling(max_tokens=TOKENS, temperature=0.0, seed=0)
    events = [event async for event in engine.stream(prompt, sampling, logprobs=0)]
    drawn = [one.logprob for event in events if isinstance(event, Delta) for one in event.logprobs]
    return all(map(math.isfinite, drawn))
