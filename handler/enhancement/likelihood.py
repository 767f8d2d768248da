"""Two figures by the model's own likelihoods: does an answer keep the meaning, and is it a description or talk?

Each compares mean log-probabilities, in nats a token, in contexts of the pack, so that what makes a text likely in any
context does not count. Costs prefill alone: three texts or two, of some sixty tokens with their contexts. Knows no
request.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from handler import log
from handler.engine.protocol import Engine, Prompt
from handler.engine.scoring import Scored
from handler.engine.stream import Usage
from handler.enhancement.contexts import Judge, filled
from handler.enhancement.opinion import Opinion
from handler.errors import Internal, WorkerError
from handler.model.template import Template, Turn
from handler.pool import Pool

Pair = tuple[Prompt, tuple[int, ...]]

#: texts of one answer that are scored at a time: the engine's queue has room for the variants of every job that is
#: taken with so many each, and none is refused for its neighbours
AT_ONCE = 2
#: nats a token that a prompt has to gain by itself; with less, its gain by an answer is noise
_LEAST_GAIN = 0.1
#: marks at a prompt's end that another mark may take the place of where an answer goes on
_ENDS = " \t\n.,;:。，；：、"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, and what it cost."""

    #: None where the contexts tell nothing of this prompt
    value: float | None
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

    async def opinion(self, prompt: str, answer: str) -> Opinion:
        """The figure that tells something of an answer; where it cannot be had, the error's code in its place.

        `described` where the answer begins with the prompt, so that its meaning is kept whatever comes behind it; else
        `kept`. Of an answer in its own words `described` tells little: an assistant would say the prompt again, too.

        Args:
            prompt, answer: in one language, as the text encoder reads them, without a UI's syntax.
        """
        began = time.monotonic()
        kept = described = None
        try:
            if rest_of_copy(prompt, answer) is None:
                kept = await self.kept(prompt, answer)
            else:
                described = await self.described(prompt, answer)
        except WorkerError as error:
            return Opinion(error=error.code, seconds=time.monotonic() - began)
        except Exception as error:
            log.defect(error)
            return Opinion(error=Internal.code, seconds=time.monotonic() - began)
        return Opinion(
            kept=None if kept is None else kept.value,
            described=None if described is None else described.value,
            usage=Usage.of_all([one.usage for one in (kept, described) if one is not None]),
            seconds=time.monotonic() - began,
        )

    async def kept(self, prompt: str, answer: str) -> Figure:
        """How much likelier the user's prompt is after the answer than after one that says nothing, as a share of how
        much likelier it is after itself: 1 says all of it, 0 nothing.

        Below the pack's `least_kept` the answer has lost the prompt's meaning. Answers to one prompt compare by it: the
        one that swaps a colour or turns a negation is the lower one. Talk behind a copy of the prompt is not seen.

        Raises:
            WorkerError: see `Engine.score`.
        """

        def pairs() -> list[Pair]:
            own = _own(prompt)
            text = self._text(" " + own)  # a word's token begins with its space
            seen = (answer, self.judge.nothing, own)
            return [(self._raw(filled(self.judge.kept, one)), text) for one in seen]

        after_answer, after_nothing, after_itself = scores = await self._scored(pairs)
        whole = after_itself.mean - after_nothing.mean
        share = (after_answer.mean - after_nothing.mean) / whole if whole >= _LEAST_GAIN else None
        return Figure(share, Usage.of_all(scored.usage for scored in scores))

    async def described(self, prompt: str, answer: str) -> Figure | None:
        """How much likelier an answer is as a description that goes on with the prompt than as an assistant's words
        that do, in nats a token.

        Below the pack's `least_described` it is talk. A copy of the prompt at the answer's beginning is left out; both
        contexts hold the prompt, so that words of it that are said again count for neither. None where nothing is left.

        Raises:
            WorkerError: see `Engine.score`.
        """
        rest = rest_of_copy(prompt, answer)
        added = (answer if rest is None else rest).strip()
        if not added:
            return None

        def pairs() -> list[Pair]:
            own = _own(prompt)
            text = self._text(" " + added)
            described, said = filled(self.judge.described, own), filled(self.judge.said, own)
            return [(self._raw(described), text), (self._chat(said, filled(self.judge.begun, own)), text)]

        as_description, as_talk = scores = await self._scored(pairs)
        return Figure(as_description.mean - as_talk.mean, Usage.of_all(scored.usage for scored in scores))

    async def _scored(self, pairs: Callable[[], Sequence[Pair]]) -> list[Scored]:
        """Texts after contexts, `AT_ONCE` at a time; where one fails, the others are cancelled."""
        places = asyncio.Semaphore(AT_ONCE)

        async def score(prompt: Prompt, text: tuple[int, ...]) -> Scored:
            async with places:
                return await self.engine.score(prompt, text, deadline=self.deadline)

        asked = await self.encoding.run_until(self.deadline, pairs)
        calls = [asyncio.ensure_future(score(*pair)) for pair in asked]
        try:
            return await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()

    def _raw(self, context: str) -> Prompt:
        return Prompt(self._text(context), self.salt)

    def _chat(self, turn: str, begun: str) -> Prompt:
        """A user's turn, and the beginning of its answer."""
        rendered = self.template.chat([Turn("user", turn)], self.engine.max_model_len)
        return Prompt((*rendered.prompt.token_ids, *self._text(begun)), self.salt)

    def _text(self, text: str) -> tuple[int, ...]:
        return self.template.raw(text, self.engine.max_model_len).prompt.token_ids


def rest_of_copy(prompt: str, answer: str) -> str | None:
    """What an answer says after the prompt that it begins with, in any case; None where it does not begin with it."""
    own, said = _own(prompt), answer.lstrip()
    if said[: len(own)].casefold() != own.casefold():
        return None
    rest = said[len(own) :]
    return None if rest[:1].isalnum() and own[-1:].isascii() else rest.lstrip(_ENDS)


def _own(prompt: str) -> str:
    """The prompt without marks at its end; a prompt of marks alone as it is."""
    own = prompt.strip()
    return own.rstrip(_ENDS) or own
