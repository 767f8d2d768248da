"""Schedules the next step: admission, prefill chunks, decode rows, preemption.

Pure: knows lengths, rows and pages, no tensor, no text and no clock.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic

from handler.inference.kv_cache import KVCache
from handler.inference.step import NO_ROW, Chunk, S, Step


@dataclass(slots=True)
class _Budget:
    """What a step may still prefill."""

    tokens: int
    #: tokens of the contexts of all chunks; None for any number
    contexts: int | None

    def take(self, tokens: int, context: int, *, first: bool) -> bool:
        """Take a chunk of so many tokens off; False, and nothing is left for younger ones, where it is too much."""
        if not tokens:
            return False
        if self.contexts is not None:
            if context > self.contexts and not first:
                self.tokens = 0
                return False
            self.contexts -= context
        self.tokens -= tokens
        return True


class Scheduler(Generic[S]):
    """First come, first served; every step includes all rows that decode.

    `running` and `waiting` are each in order of arrival, and all of `running` arrived before all of `waiting`: a
    preemption takes the youngest running sequence and puts it at the front of `waiting`. So the oldest is never
    preempted, advances in every step and ends, and no sequence starves.
    """

    def __init__(
        self,
        cache: KVCache,
        rows: int,
        prefill_chunk: int,
        prefill_alone: int | None = None,
        prefill_contexts: int | None = None,
    ) -> None:
        """At most `rows` sequences run. The cache must have room for one sequence of any admitted length.

        A step prefills at most `prefill_chunk` tokens beside rows that decode. Where no row decodes, none waits for the
        step, and it prefills up to `prefill_alone` (None: the same). The contexts of its chunks have together at most
        `prefill_contexts` tokens (None: any number), but one chunk may have a longer one.
        """
        self.cache = cache
        self.running: list[S] = []
        self.waiting: deque[S] = deque()
        self.preemptions = 0
        #: tokens not computed because a prefix was shared
        self.hit_tokens = 0
        #: tokens guessed, and how many of them were drawn
        self.guessed = self.guessed_right = 0
        self._guessing: list[S] = []
        self._rows = self._row_limit = rows
        self._prefill = self._prefill_limits = prefill_chunk, prefill_alone or prefill_chunk
        self._contexts = self._context_limit = prefill_contexts
        self._free_rows = list(range(rows - 1, -1, -1))

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    def counters(self) -> dict[str, int]:
        """Pages now; preemptions, shared tokens and guesses since the start."""
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
        """Choose the next step and count it as computed; the caller must launch it, or call `restart`."""
        step: Step[S] = Step()
        preemptions = self.preemptions
        self._decode(step)
        beside, alone = self._prefill_limits
        budget = _Budget(beside if step.decode else alone, self._context_limit)
        for sequence in self.running:
            if sequence.computed < sequence.target:
                self._advance(step, sequence, budget)
        # No admission after a preemption: it would be the sequence just preempted, whose last token may be unread.
        while budget.tokens and self.waiting and preemptions == self.preemptions and self._admit(self.waiting[0]):
            sequence = self.waiting.popleft()
            step.admitted.append(sequence)
            self._advance(step, sequence, budget)
        if not step.chunks:
            self._guess(step)
        return step

    def settle(self) -> list[S]:
        """Once the tokens of a step are read: subtract the tokens that were computed after wrong guesses.

        Returns the running sequences with guesses. A step with guesses must be read before the next one is scheduled.
        """
        guessing = [sequence for sequence in self._guessing if sequence.row != NO_ROW and sequence.guesses]
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

    def put_in(self, sequence: S, tokens: Iterable[int]) -> None:
        """Continue a running or waiting sequence with these tokens in place of the next draws.

        They are computed as a chunk, from the last token that was read. Draws that are still on the device are dropped.
        """
        read = len(sequence.tokens)
        sequence.dropped += sequence.length - read
        sequence.tokens.extend(tokens)
        sequence.length = len(sequence.tokens)
        if sequence.row != NO_ROW:
            # A launched step may have computed the last token already, or guesses after it.
            sequence.computed = min(sequence.computed, read - 1)
            sequence.target = sequence.length
            sequence.guesses = ()
            sequence.changed = True

    def remove(self, sequence: S) -> None:
        """Remove a running or waiting sequence, and free its row and pages at once.

        A launched step may still write to those pages. That is harmless: steps run in order on the device, and the next
        sequence that gets the pages writes them in a later step.
        """
        if sequence.row == NO_ROW:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self._stop(sequence)

    def withdraw(self, step: Step[S]) -> None:
        """Share no page that this step was to compute: it failed. Call it before any of its sequences is removed."""
        for chunk in step.chunks:
            self.cache.withdraw(chunk.sequence.table, chunk.start)

    def restart(self, *, forget: bool = True) -> None:
        """Start all sequences again from the tokens read so far, because a step failed.

        `forget`: pages computed by earlier steps may be wrong too, and are shared no more.
        """
        for sequence in reversed(self.running):
            self._stop(sequence)
            self.waiting.appendleft(sequence)
        self.running.clear()
        self._guessing.clear()
        for sequence in self.waiting:
            sequence.length = sequence.known
            sequence.dropped = 0
        if forget:
            self.cache.forget()

    def halve(self) -> None:
        """Make steps half as large: half the rows, half the prefill, half its contexts."""
        self._row_limit = max(1, min(self._row_limit, len(self.running) or 1) // 2)
        beside, alone = self._prefill_limits
        self._prefill_limits = max(1, beside // 2), max(1, alone // 2)
        if self._context_limit is not None:
            self._context_limit //= 2  # one chunk is always allowed

    def relax(self) -> None:
        """Undo every `halve`."""
        self._row_limit = self._rows
        self._prefill_limits = self._prefill
        self._context_limit = self._contexts

    def _decode(self, step: Step[S]) -> None:
        # `_grow` may shorten `running` at its end during this loop; the iterator of a list allows that.
        for sequence in self.running:
            prefills = sequence.computed < sequence.target
            if not prefills and sequence.length >= sequence.full_length:
                continue
            if sequence.length > sequence.capacity:
                if not self._grow(sequence):
                    continue
                step.grown.append(sequence)
            if sequence.changed:
                sequence.changed = False
                step.admitted.append(sequence)
            if prefills:
                continue
            sequence.computed += 1
            sequence.length += 1
            step.decode.append(sequence)

    def _guess(self, step: Step[S]) -> None:
        """Fill free rows with guesses, the oldest sequence first. No sequence is preempted for a guess."""
        room = self._row_limit - len(step.decode)
        for sequence in step.decode:
            most = min(room, sequence.full_length - sequence.length)
            if sequence.lookup is None or most < 1:
                continue
            guesses = sequence.lookup.guess(sequence.tokens, most)
            stored = sequence.length - 1  # the next step stores the token that this step draws
            if stored + len(guesses) > sequence.capacity:
                if self.cache.grow(sequence.table, stored + len(guesses), spare=len(self.running)):
                    self._update_capacity(sequence)
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
        """Add a page. Where none is free, the youngest sequence is preempted; False where that is `sequence` itself."""
        cache = self.cache
        known = min(sequence.computed, len(sequence.tokens))
        cache.publish(sequence.table, sequence.tokens, known)
        while not cache.grow(sequence.table, sequence.length):
            youngest = self.running.pop()
            self.preemptions += 1
            self._stop(youngest)
            self.waiting.appendleft(youngest)
            if youngest is sequence:
                return False
        self._update_capacity(sequence)
        return True

    def _admit(self, sequence: S) -> bool:
        """Give it a row and pages for all its tokens, sharing a known prefix; False where there is no room yet.

        The last known token is never shared, because its logits are needed: the next one is drawn or scored by them.
        """
        cache = self.cache
        spare = len(self.running)  # a page for each running row, or the new sequence would soon be preempted for one
        free = cache.free - spare
        if spare >= self._row_limit or free <= sequence.insufficient_pages:
            return False
        shared = cache.adopt(sequence.table, sequence.tokens[: sequence.known])
        if not cache.grow(sequence.table, sequence.fed, spare=spare):
            cache.release(sequence.table)
            sequence.insufficient_pages = free
            return False
        sequence.insufficient_pages = -1
        if sequence.cached_tokens is None:
            sequence.cached_tokens = shared
        self.hit_tokens += shared
        sequence.computed = shared
        sequence.target = sequence.fed
        self._update_capacity(sequence)
        sequence.row = self._free_rows.pop()
        self.running.append(sequence)
        return True

    def _advance(self, step: Step[S], sequence: S, budget: "_Budget") -> None:
        """Add the next chunk to the step, as large as the budget allows; none where it allows none.

        Its pages are shared from now on, also by later chunks of the same step: every layer writes the keys and values
        of all tokens of a step before it reads any.
        """
        start = sequence.computed
        end = min(sequence.target, start + budget.tokens)
        if not budget.take(end - start, end, first=not step.chunks):
            return
        if sequence.sampling is None:
            # After a preemption, tokens whose successors were scored before are computed again.
            draws, scores = False, max(0, end - max(start, sequence.length - 1))
        else:
            draws, scores = end == sequence.target, 0
        step.chunks.append(Chunk(sequence, start, end, draws, scores))
        sequence.computed = end
        sequence.length += draws or scores
        self.cache.publish(sequence.table, sequence.tokens, end)

    def _update_capacity(self, sequence: S) -> None:
        sequence.capacity = len(sequence.table.pages) * self.cache.page_size

    def _stop(self, sequence: S) -> None:
        self.cache.release(sequence.table)
        sequence.guesses = ()
        sequence.changed = False
        self._free_rows.append(sequence.row)
        sequence.row = NO_ROW
        sequence.computed = 0
