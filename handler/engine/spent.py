"""The tokens and the time that an answer took in the engine."""

from dataclasses import dataclass, replace

from handler.engine.fold import Completion
from handler.engine.sampling import Sampling
from handler.engine.stream import FinishReason, Timing, Usage

NO_TOKENS = Usage(0, 0, 0)
NO_TIME = Timing(0.0, None, 0.0)


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens and time of all tries together; sampling, end and reasoning are those of the last one."""

    sampling: Sampling
    finish_reason: FinishReason | None = None
    usage: Usage = NO_TOKENS
    timing: Timing = NO_TIME
    #: None where no think block was looked for
    reasoning: str | None = None
    reasoning_cut: bool = False
    tries: int = 0
    #: of the token ids that the model read; None where it read none
    prompt_sha256: str | None = None

    def scored(self, usage: Usage, seconds: float) -> "Spent":
        """With the prompt tokens and the time of texts that were scored."""
        return replace(
            self,
            usage=Usage(
                self.usage.prompt_tokens + usage.prompt_tokens,
                self.usage.cached_tokens + usage.cached_tokens,
                self.usage.completion_tokens,
            ),
            timing=replace(self.timing, total_s=self.timing.total_s + seconds),
        )

    def plus(self, completion: Completion, prompt_sha256: str) -> "Spent":
        """With one more try."""
        before, usage, timing = self.usage, completion.finish.usage, completion.finish.timing
        return Spent(
            sampling=self.sampling,
            finish_reason=completion.finish.reason,
            usage=Usage(
                before.prompt_tokens + usage.prompt_tokens,
                before.cached_tokens + usage.cached_tokens,
                before.completion_tokens + usage.completion_tokens,
            ),
            timing=replace(self.timing if self.tries else timing, total_s=self.timing.total_s + timing.total_s),
            reasoning=completion.reasoning,
            reasoning_cut=completion.finish.reasoning_cut or False,
            tries=self.tries + 1,
            prompt_sha256=prompt_sha256,
        )
