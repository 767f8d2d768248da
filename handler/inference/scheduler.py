"""Who runs in the next step: admission, prefill chunks, decode rows, preemption.

Pure: knows lengths, rows and pages, never a tensor, a text or a clock.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from handler.inference.engine import Sampling
from handler.inference.kv_cache import KVCache, Table

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
    """What one step computes. Rows of `decode` feed the token drawn last, which only the device may know yet."""

    decode: list[S_co] = field(default_factory=list)
    chunks: list[Chunk[S_co]] = field(default_factory=list)
    #: sequences that begin or begin again in this step
    admitted: list[S_co] = field(default_factory=list)
    #: decoding sequences that got a page
    grown: list[S_co] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.decode or self.chunks)

    @property
    def drawing(self) -> list[S_co]:
        """Sequences that get a token from this step, in the order of its draws."""
        return self.decode + [chunk.sequence for chunk in self.chunks if chunk.draws]

    @property
    def sequences(self) -> list[S_co]:
        return self.decode + [chunk.sequence for chunk in self.chunks]


class Scheduler(Generic[S]):
    """First come, first served, with all rows that decode in every step.

    `running` and `waiting` are each in order of arrival and everybody in `running` came before everybody in `waiting`:
    whoever is preempted is the youngest that runs, and goes to the front of those that wait. The oldest is therefore
    never preempted by anyone, always advances, and ends: nobody starves.
    """

    def __init__(self, cache: KVCache, rows: int, prefill_chunk: int, prefill_alone: int | None = None) -> None:
        """At most `rows` sequences run; a step prefills at most `prefill_chunk` tokens beside rows that decode.

        Where none does, nobody waits for the step, and it prefills up to `prefill_alone` (else as much as beside).

        The cache must hold one sequence of any admitted length.
        """
        self.cache = cache
        self.running: list[S] = []
        self.waiting: deque[S] = deque()
        self.preemptions = 0
        #: tokens not computed because a prefix was shared
        self.hit_tokens = 0
        self._rows = self._row_limit = rows
        self._prefill = self._prefill_limits = prefill_chunk, prefill_alone or prefill_chunk
        self._free_rows = list(range(rows - 1, -1, -1))

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    def counters(self) -> dict[str, int]:
        """Pages now, and what came of sharing and of want of them since the start."""
        return {
            "pages_total": self.cache.total,
            "pages_used": self.cache.total - self.cache.free,
            "pages_cached": self.cache.cached,
            "preemptions": self.preemptions,
            "prefix_hit_tokens": self.hit_tokens,
        }

    def add(self, sequence: S) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> Step[S]:
        """Choose the next step and book it as computed: it must be launched, or `restart` called."""
        step: Step[S] = Step()
        preemptions = self.preemptions
        self._decode(step)
        beside, alone = self._prefill_limits
        budget = beside if step.decode else alone
        for sequence in self.running:
            if budget and sequence.computed < sequence.target:
                budget -= self._advance(step, sequence, budget)
        # After a preemption nobody is admitted: it would be the one just preempted, whose last token may be unread.
        while budget and self.waiting and preemptions == self.preemptions and self._admit(self.waiting[0]):
            sequence = self.waiting.popleft()
            step.admitted.append(sequence)
            budget -= self._advance(step, sequence, budget)
        return step

    def remove(self, sequence: S) -> None:
        """Forget a sequence, wherever it stands, and free its row and pages at once.

        A launched step may still write to those pages. That is harmless: steps run in order on the device, and
        whoever gets the pages next writes them in a later step.
        """
        if sequence.row == NO_ROW:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self._unseat(sequence)

    def restart(self) -> None:
        """Begin all again from the tokens read so far: a step failed, and the cache is not to be trusted."""
        for sequence in reversed(self.running):
            self._unseat(sequence)
            self.waiting.appendleft(sequence)
        self.running.clear()
        for sequence in self.waiting:
            sequence.length = len(sequence.tokens)
        self.cache.forget()

    def halve(self) -> None:
        """Ask for half as much of the device in each step: half the rows, half the prefill."""
        self._row_limit = max(1, min(self._row_limit, len(self.running) or 1) // 2)
        beside, alone = self._prefill_limits
        self._prefill_limits = max(1, beside // 2), max(1, alone // 2)

    def relax(self) -> None:
        """Undo every `halve`."""
        self._row_limit = self._rows
        self._prefill_limits = self._prefill

    def _decode(self, step: Step[S]) -> None:
        # `running` may get shorter at its end while this walks it; a list's iterator allows that.
        for sequence in self.running:
            if sequence.computed < sequence.target or sequence.length >= sequence.full_length:
                continue
            if sequence.length > sequence.capacity:
                if not self._grow(sequence):
                    continue
                step.grown.append(sequence)
            sequence.computed += 1
            sequence.length += 1
            step.decode.append(sequence)

    def _grow(self, sequence: S) -> bool:
        """One more page, taken from the youngest where none is free; False where that is `sequence` itself."""
        cache = self.cache
        known = min(sequence.computed, len(sequence.tokens))
        cache.publish(sequence.table, sequence.tokens, known)
        while not cache.grow(sequence.table, sequence.length):
            youngest = self.running.pop()
            self.preemptions += 1
            self._unseat(youngest)
            self.waiting.appendleft(youngest)
            if youngest is sequence:
                return False
        sequence.capacity = len(sequence.table.pages) * cache.page_size
        return True

    def _admit(self, sequence: S) -> bool:
        """Give it a row and pages for all its tokens, the known prefix shared; False where there is no room yet."""
        cache = self.cache
        spare = len(self.running)  # a page for each row that runs, or the newcomer would soon be preempted for one
        free = cache.free - spare
        if spare >= self._row_limit or free <= sequence.too_few:
            return False
        shared = cache.adopt(sequence.table, sequence.tokens)
        if not cache.grow(sequence.table, len(sequence.tokens), spare=spare):
            cache.release(sequence.table)
            sequence.too_few = free
            return False
        sequence.too_few = -1
        if sequence.cached_tokens is None:
            sequence.cached_tokens = shared
        self.hit_tokens += shared
        sequence.computed = shared
        sequence.target = len(sequence.tokens)
        sequence.capacity = len(sequence.table.pages) * cache.page_size
        sequence.row = self._free_rows.pop()
        self.running.append(sequence)
        return True

    def _advance(self, step: Step[S], sequence: S, budget: int) -> int:
        """The next chunk of at most `budget` tokens; returns its size.

        Its pages are shared from now on, by chunks of this very step too: every layer writes the keys and values of
        all tokens of a step before it reads any.
        """
        start = sequence.computed
        end = min(sequence.target, start + budget)
        draws = end == sequence.target
        step.chunks.append(Chunk(sequence, start, end, draws))
        sequence.computed = end
        sequence.length += draws
        self.cache.publish(sequence.table, sequence.tokens, end)
        return end - start

    def _unseat(self, sequence: S) -> None:
        self.cache.release(sequence.table)
        self._free_rows.append(sequence.row)
        sequence.row = NO_ROW
        sequence.computed = 0
