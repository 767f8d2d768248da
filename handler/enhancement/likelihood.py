"""Two figures of an answer by the model's own likelihoods: does it keep the meaning, is it a description?

Each is a difference of mean log-probabilities in two contexts of the pack, in nats a token, so that what makes a text
likely in any context does not count. Costs prefill alone; texts after one context share its prefix. Knows no request.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from handler.engine.protocol import Engine, Prompt
from handler.engine.scoring import Scored
from handler.engine.stream import Usage
from handler.enhancement.clauses import split
from handler.enhancement.contexts import Judge, filled
from handler.model.template import Template, Turn
from handler.pool import Pool

Pair = tuple[Prompt, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, and what it cost."""

    #: nats a token
    value: float
    usage: Usage


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Scores texts in the contexts of one pack."""

    engine: Engine
    template: Template
    encoding: Pool
    judge: Judge
    #: of the request that is judged: its prefixes are shared with its salt alone
    salt: bytes = b""
    #: on the clock of `time.monotonic`
    deadline: float | None = None

    async def kept(self, prompt: str, answer: str) -> Figure:
        """How much likelier the user's prompt is after the answer than after one that says nothing.

        Below the pack's `least_kept` the answer has lost the prompt's meaning. Answers to one prompt compare by it: the
        one that swaps a colour or turns a negation is the lower one. Talk behind a copy of the prompt is not seen.

        Raises:
            WorkerError: see `Engine.score`.
        """

        def pairs() -> list[Pair]:
            text = self._text(" " + prompt)  # a word's token begins with its space
            return [(self._raw(filled(self.judge.kept, one)), text) for one in (answer, self.judge.nothing)]

        after_answer, after_nothing = scores = await self._scored(await self._encode(pairs))
        return Figure(after_answer.mean - after_nothing.mean, _usage(scores))

    async def described(self, prompt: str, answer: str) -> Figure | None:
        """How much likelier what the answer adds is as a description of the prompt than as an assistant's words.

        Below the pack's `least_described` it is talk. The first clause is left out, because it says the prompt again,
        which an assistant would do too; the others are weighed by their tokens. None where there are no others.

        Raises:
            WorkerError: see `Engine.score`.
        """
        added = [body for clause in split(answer)[1:] if (body := clause.body)]
        if not added:
            return None

        def pairs() -> list[Pair]:
            description = self._raw(filled(self.judge.described, prompt))
            talk = self._chat(filled(self.judge.said, prompt))
            return [
                *((description, self._text(" " + body)) for body in added),
                *((talk, self._text(body)) for body in added),
            ]

        scores = await self._scored(await self._encode(pairs))
        as_description, as_talk = scores[: len(added)], scores[len(added) :]
        weights = [len(one.logprobs) for one in as_description]
        gains = [one.mean - other.mean for one, other in zip(as_description, as_talk, strict=True)]
        value = sum(weight * gain for weight, gain in zip(weights, gains, strict=True)) / sum(weights)
        return Figure(value, _usage(scores))

    async def _encode(self, pairs: Callable[[], list[Pair]]) -> list[Pair]:
        return await self.encoding.run_until(self.deadline, pairs)

    async def _scored(self, pairs: Sequence[Pair]) -> list[Scored]:
        """All at once; where one fails, the others are cancelled."""
        calls = [
            asyncio.ensure_future(self.engine.score(prompt, text, deadline=self.deadline)) for prompt, text in pairs
        ]
        try:
            return await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()

    def _raw(self, context: str) -> Prompt:
        return Prompt(self.template.raw(context, self.engine.max_model_len).prompt.token_ids, self.salt)

    def _chat(self, turn: str) -> Prompt:
        rendered = self.template.chat([Turn("user", turn)], self.engine.max_model_len)
        return Prompt(rendered.prompt.token_ids, self.salt)

    def _text(self, text: str) -> tuple[int, ...]:
        return self.template.raw(text, self.engine.max_model_len).prompt.token_ids


def _usage(scores: Sequence[Scored]) -> Usage:
    usages = [scored.usage for scored in scores]
    return Usage(sum(one.prompt_tokens for one in usages), sum(one.cached_tokens for one in usages), 0)
