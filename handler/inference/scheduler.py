"""Who runs in the next step: admission, prefill chunks, decode rows, preemption.

Pure: knows lengths, rows and pages, never a tensor, a text or a clock.
"""

from collections import deque
from typing import Generic

from handler.inference.kv_cache import KVCache
from handler.inference.step import NO_ROW, Chunk, S, Step


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
        #: tokens guessed, and those of them that were drawn
        self.guessed = self.guessed_right = 0
        self._guessing: list[S] = []
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
            "guessed_tokens": self.guessed,
            "guessed_right": self.guessed_right,
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
        if not step.chunks:
            self._guess(step)
        return step

    def settle(self) -> list[S]:
        """Once the tokens of a step are read: unbook what was computed after wrong guesses.

        Returns the running sequences that guessed. Steps with guesses are read before the next one is scheduled.
        """
        guessing = [sequence for sequence in self._guessing if sequence.row != NO_ROW]
        self._guessing = []
        for sequence in guessing:
            guessed, wrong = len(sequence.guesses), sequence.length - len(sequence.tokens)
            sequence.length -= wrong
            sequence.computed -= wrong
            sequence.guesses = ()
            self.guessed_right += guessed - wrong
            if sequence.lookup is not None:
                sequence.lookup.learn(guessed, guessed - wrong)
        return guessing

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
        self._guessing.clear()
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

    def _guess(self, step: Step[S]) -> None:
        """Fill rows that are free with guesses, the oldest sequence first. Nobody gives up a page for a guess."""
        room = self._row_limit - len(step.decode)
        for sequence in step.decode:
            most = min(room, sequence.full_length - sequence.length)
            if sequence.lookup is None or most < 1:
                continue
            guesses = sequence.lookup.guess(sequence.tokens, most)
            stored = sequence.length - 1  # what this step draws itself is stored by the next one
            if stored + len(guesses) > sequence.capacity:
                if self.cache.grow(sequence.table, stored + len(guesses), spare=len(self.running)):
                    self._count_pages(sequence)
                    step.grown.append(sequence)
                guesses = guesses[: sequence.capacity - stored]
            if guesses:
                sequence.guesses = guesses
                sequence.computed += len(guesses)
                sequence.length += len(guesses)
                self._guessing.append(sequence)
                step.guesses += len(guesses)
                room -= len(guesses)
        self.guessed += step.guesses

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
        self._count_pages(sequence)
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
        self._count_pages(sequence)
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

    def _count_pages(self, sequence: S) -> None:
        sequence.capacity = len(sequence.table.pages) * self.cache.page_size

    def _unseat(self, sequence: S) -> None:
        self.cache.release(sequence.table)
        sequence.guesses = ()
        self._free_rows.append(sequence.row)
        sequence.row = NO_ROW
        sequence.computed = 0
