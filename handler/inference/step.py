"""What one step computes, and the sequences that it computes for. Values: knows no tensor, no text, no clock."""

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from handler.engine.sampling import Sampling
from handler.inference.kv_cache import Table
from handler.inference.lookup import Lookup

#: row of a sequence that is not running
NO_ROW = -1


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """One prompt and its growing completion, as the scheduler and the runner see it."""

    #: prompt and completion, as far as tokens have been read back from the device
    tokens: list[int]
    prompt_len: int
    #: of prompt and completion, once `max_tokens` are drawn
    full_length: int
    sampling: Sampling
    #: alternatives to tell with each token's log-probability; None tells nothing
    logprobs: int | None = None
    #: tokens drawn so far and the prompt; ahead of `len(tokens)` by the draw that is still on the device
    length: int
    #: tokens whose keys and values are in the cache once the launched steps are done
    computed: int = 0
    #: below this many computed tokens the sequence prefills, from there on it decodes
    target: int = 0
    #: tokens that its pages hold
    capacity: int = 0
    #: prompt tokens found in the cache when it was first admitted; None before that
    cached_tokens: int | None = None
    #: so many free pages were too few to admit it: its prefix is not looked up again before there are more
    too_few: int = -1
    row: int = NO_ROW
    table: Table = field(default_factory=Table)
    #: guesses its next tokens; None where nobody is to
    lookup: Lookup | None = None
    #: the guesses that the launched step computes beside the last token; empty again once they are settled
    guesses: Ids[int] = ()

    @property
    def astray(self) -> bool:
        """Whether the token read last is not what was guessed in its place: what was drawn after it means nothing."""
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
    #: True for the last chunk: the next token is drawn from its logits
    draws: bool


@dataclass(slots=True)
class Step(Generic[S_co]):
    """What one step computes. Rows of `decode` feed the token drawn last, which only the device may know yet, and
    their guesses of what follows it."""

    decode: list[S_co] = field(default_factory=list)
    chunks: list[Chunk[S_co]] = field(default_factory=list)
    #: sequences that begin or begin again in this step
    admitted: list[S_co] = field(default_factory=list)
    #: decoding sequences that got a page
    grown: list[S_co] = field(default_factory=list)
    #: how many tokens are guessed; a step that prefills guesses none
    guesses: int = 0

    def __bool__(self) -> bool:
        return bool(self.decode or self.chunks)

    @property
    def drawing(self) -> list[S_co]:
        """Whose token each draw of this step is, in order. A guess is followed by the draw that comes after it."""
        decode = self.decode
        if self.guesses:
            decode = [sequence for sequence in decode for _ in range(1 + len(sequence.guesses))]
        return decode + [chunk.sequence for chunk in self.chunks if chunk.draws]

    @property
    def contexts(self) -> list[int]:
        """How many tokens each decoding row attends to, guesses in their rows."""
        if not self.guesses:
            return [sequence.computed for sequence in self.decode]
        return [end for s in self.decode for end in range(s.computed - len(s.guesses), s.computed + 1)]

    @property
    def sequences(self) -> list[S_co]:
        return self.decode + [chunk.sequence for chunk in self.chunks]
