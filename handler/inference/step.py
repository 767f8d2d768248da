"""The values that describe one step: its sequences, chunks and guesses. Knows no tensor, no text and no clock."""

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from handler.engine.sampling import Sampling
from handler.inference.kv_cache import BlockTable
from handler.inference.lookup import Lookup

#: row of a sequence that is not running
NO_ROW = -1


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """One prompt and what follows it, as the scheduler and the runner see it: a completion that grows by drawn tokens,
    or a given text whose tokens are scored."""

    #: prompt and completion, of the completion the tokens that were read from the device; or prompt and given text
    tokens: list[int]
    prompt_len: int
    #: tokens of prompt and completion once `max_tokens` are drawn, or of prompt and given text
    full_length: int
    #: how tokens are drawn; None for a given text, of which none is
    sampling: Sampling | None
    #: alternatives reported with the log-probability of each token; None reports neither
    logprobs: int | None = None
    #: tokens of the prompt and drawn or scored so far; more than `known` by those that are still on the device
    length: int
    #: tokens of a given text whose log-probabilities were read from the device
    scored: int = 0
    #: tokens whose keys and values are in the cache once all launched steps are done
    computed: int = 0
    #: the sequence prefills until so many tokens are computed, and decodes from then on
    target: int = 0
    #: tokens that its pages have room for
    capacity: int = 0
    #: prompt tokens found in the cache when it was first admitted; None before that
    cached_tokens: int | None = None
    #: so many free pages did not suffice to admit it; its prefix is looked up again only when there are more
    insufficient_pages: int = -1
    row: int = NO_ROW
    table: BlockTable = field(default_factory=BlockTable)
    #: guesses its next tokens; None where its tokens are not guessed
    lookup: Lookup | None = None
    #: the guesses that the launched step computes beside the last token; empty once `Scheduler.settle` has counted them
    guesses: Ids[int] = ()
    #: draws on the device that do not count: they were launched before tokens were put in (`Scheduler.put_in`)
    dropped: int = 0
    #: tokens were put in, and its row has to be set up again
    changed: bool = False

    @property
    def known(self) -> int:
        """Tokens of the prompt, and of those after it that were read: the drawn ones, or the scored ones."""
        return len(self.tokens) if self.sampling is not None else self.prompt_len + self.scored

    @property
    def fed(self) -> int:
        """How many of the tokens the model computes. Nothing follows the last token of a given text."""
        return len(self.tokens) if self.sampling is not None else len(self.tokens) - 1

    @property
    def mispredicted(self) -> bool:
        """True where the token read last differs from the guess in its place: the draws after it are invalid."""
        read = len(self.tokens) - (self.length - 1 - len(self.guesses))
        return 0 < read <= len(self.guesses) and self.tokens[-1] != self.guesses[read - 1]


S = TypeVar("S", bound=Sequence)
S_co = TypeVar("S_co", bound=Sequence, covariant=True)


@dataclass(slots=True)
class Chunk(Generic[S_co]):
    """Tokens [start, end) of one sequence, to be prefilled in one step."""

    sequence: S_co
    start: int
    end: int
    #: True for the last chunk of a prompt: the next token is drawn from its logits
    draws: bool
    #: at so many tokens at the end of the chunk, the token that follows in the given text is scored
    scores: int = 0


@dataclass(slots=True)
class Step(Generic[S_co]):
    """One step. A row of `decode` feeds its last drawn token, which the host may not have read yet, and then its
    guesses."""

    decode: list[S_co] = field(default_factory=list)
    chunks: list[Chunk[S_co]] = field(default_factory=list)
    #: sequences whose row is set up in this step: they start, start again, or had tokens put in
    admitted: list[S_co] = field(default_factory=list)
    #: running sequences that got a page
    grown: list[S_co] = field(default_factory=list)
    #: how many tokens are guessed; a step that prefills guesses none
    guesses: int = 0

    def __bool__(self) -> bool:
        return bool(self.decode or self.chunks)

    @property
    def drawing(self) -> list[S_co]:
        """The sequence of each draw, in the order of the draws: one for the last token, then one after each guess."""
        decode = self.decode
        if self.guesses:
            decode = [sequence for sequence in decode for _ in range(1 + len(sequence.guesses))]
        return decode + [chunk.sequence for chunk in self.chunks if chunk.draws]

    @property
    def contexts(self) -> list[int]:
        """How many tokens each decoding row attends to; each guess is a row of its own."""
        if not self.guesses:
            return [sequence.computed for sequence in self.decode]
        return [end for s in self.decode for end in range(s.computed - len(s.guesses), s.computed + 1)]

    @property
    def sequences(self) -> list[S_co]:
        """The sequences of all rows, in the order of the rows (without guesses)."""
        return self.decode + [chunk.sequence for chunk in self.chunks]
