"""What a sampling value that was not sent becomes. Nothing comes from anywhere else."""

from collections.abc import Mapping
from typing import Any

from handler.api.contracts import Generation
from handler.engine.sampling import Sampling

Values = Mapping[str, float | int]

#: what the worker applies, unless `sampling_defaults` says `model`
WORKER: Values = {"temperature": 0.7, "top_p": 0.9}
#: what does nothing; the ground that all defaults stand on
NEUTRAL: Values = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
#: completion tokens where `max_tokens` was not sent (fewer where the context ends before)
MAX_TOKENS: Mapping[str, int] = {"chat": 512, "generate": 512, "enhance": 200}


def sampling(request: Generation, defaults: Values, *, room: int, seed: int) -> Sampling:
    """What the caller sent, and `defaults` for the rest.

    Args:
        room: completion tokens that the context leaves.
        seed: for a request that brought none.
    """
    values: dict[str, Any] = {**NEUTRAL, **defaults}
    max_tokens = values.pop("max_tokens", MAX_TOKENS[request.operation])
    values |= {name: sent for name in NEUTRAL if (sent := getattr(request, name)) is not None}
    return Sampling(
        max_tokens=request.max_tokens or min(max_tokens, room),
        seed=seed if request.seed is None else request.seed,
        stop=request.stop or (),
        **values,
    )
