"""How tokens are drawn."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. No field has a hidden default: neutral values do nothing, and this is what replies echo."""

    #: at most this many completion tokens, >= 1
    max_tokens: int
    #: 0 takes the most likely token (greedy), 1 leaves the distribution as it is
    temperature: float
    #: keep the smallest set of tokens whose probability reaches this; 1 is off
    top_p: float
    #: keep this many most likely tokens; 0 is off
    top_k: int
    #: drop tokens less likely than this share of the likeliest; 0 is off
    min_p: float
    #: divide (or multiply) logits of tokens in prompt or completion; 1 is off
    repetition_penalty: float
    #: subtract from logits of tokens already in the completion; 0 is off
    presence_penalty: float
    #: the same, per occurrence; 0 is off
    frequency_penalty: float
    #: the draw depends on this and the position alone, 0 <= seed < 2**63
    seed: int
    #: end before the first of these that completes
    stop: tuple[str, ...]

    @property
    def penalises(self) -> bool:
        """Whether what was said changes what is drawn."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)
