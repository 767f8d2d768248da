"""The sampling of a request: the values that it sent, over the defaults that it chose."""

from handler.api.text import TextRequest
from handler.engine.sampling import Distribution, Sampling
from handler.errors import InvalidRequest
from handler.operations.core import Core


def sampling_of(core: Core, request: TextRequest, room: int) -> Sampling:
    """The values that the request sent, and the defaults that it chose for the others.

    `room`: the completion tokens that the context leaves.
    """
    base, max_tokens = Distribution.model_validate(_of(request)), request.max_tokens
    if request.sampling_defaults == "model":
        own = dict(core.model.sampling_defaults)
        max_tokens = int(own.pop("max_tokens", max_tokens))
        base = Distribution.model_validate(own)
    return sampling_over(core, request, base, max_tokens, room)


def sampling_over(core: Core, request: TextRequest, base: Distribution, max_tokens: int, room: int) -> Sampling:
    """The values that the request sent, over those of `base`.

    Raises:
        InvalidRequest: `max_thinking_tokens` leaves no room for an answer.
    """
    most = request.most_with_logprobs
    max_tokens = request.sent_max_tokens or min(max_tokens, room, room if most is None else most)
    answered = max_tokens - len(core.template.closing) - 1
    if request.max_thinking_tokens is not None and request.max_thinking_tokens > answered:
        raise InvalidRequest(
            f"max_thinking_tokens is {request.max_thinking_tokens}, and thought and answer share max_tokens, "
            f"{max_tokens}; send {f'{answered} at most, or ' if answered > 0 else ''}more max_tokens",
            field="max_thinking_tokens",
        )
    sent = {name: value for name, value in _of(request).items() if name in request.model_fields_set}
    return Sampling.model_validate(
        {
            **_of(base),
            **sent,
            "max_tokens": max_tokens,
            "seed": core.draw_seed() if request.seed is None else request.seed,
            "stop": request.stop,
            "stop_token_ids": request.stop_token_ids,
            "logit_bias": request.logit_bias,
            "max_thinking_tokens": request.max_thinking_tokens,
        }
    )


def _of(values: Distribution) -> dict[str, float]:
    return {name: getattr(values, name) for name in Distribution.model_fields}
