"""The schedule: first come, first served, within rows, pages and the prefill budget; no sequence is lost or starves."""

from collections import deque
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from handler.inference.kv_cache import SCRATCH_PAGE, BlockTable, KVCache
from handler.inference.lookup import Lookup
from handler.inference.scheduler import Scheduler
from handler.inference.step import NO_ROW, Sequence, Step
from tests.support.models import sampling


def sequence(prompt: list[int], max_tokens: int = 4, guesses: int = 0) -> Sequence:
    size = len(prompt)
    return Sequence(
        tokens=list(prompt),
        prompt_len=size,
        full_length=size + max_tokens,
        sampling=sampling(max_tokens),
        length=size,
        lookup=Lookup(guesses) if guesses else None,
    )


def to_score(prompt: list[int], text: list[int]) -> Sequence:
    size = len(prompt)
    return Sequence(
        tokens=prompt + text, prompt_len=size, full_length=size + len(text), sampling=None, logprobs=0, length=size
    )


def scheduler(*, pages: int = 100, page_size: int = 4, rows: int = 8, prefill_chunk: int = 100) -> Scheduler[Sequence]:
    return Scheduler(KVCache(pages, page_size), rows, prefill_chunk)


def run(scheduler: Scheduler[Sequence], step: Step[Sequence], token: int = 1) -> None:
    """Read the tokens of a step at once, all of them `token`."""
    for sequence in step.drawing:
        sequence.tokens.append(token)
        if len(sequence.tokens) == sequence.full_length:
            scheduler.remove(sequence)


def chunks(step: Step[Sequence]) -> list[tuple[int, int]]:
    return [(chunk.start, chunk.end) for chunk in step.chunks]


def test_a_prompt_is_prefilled_then_decoded_then_gone() -> None:
    s = scheduler()
    one = sequence([5] * 10, max_tokens=3)
    s.add(one)
    step = s.schedule()
    assert (chunks(step), step.decode, step.admitted, step.drawing) == ([(0, 10)], [], [one], [one])
    run(s, step)
    for _ in range(2):
        step = s.schedule()
        assert (chunks(step), step.decode, step.admitted) == ([], [one], [])
        run(s, step)
    assert s.idle
    assert not s.schedule()
    assert s.cache.free == s.cache.total


def test_a_long_prompt_comes_in_chunks_beside_rows_that_decode() -> None:
    s = scheduler(prefill_chunk=8)
    short, long = sequence([1] * 3, max_tokens=9), sequence([2] * 20)
    s.add(short)
    run(s, s.schedule())
    s.add(long)
    for expected in ((0, 8), (8, 16), (16, 20)):
        step = s.schedule()
        assert step.decode == [short]
        assert chunks(step) == [expected]
        assert [chunk.draws for chunk in step.chunks] == [expected == (16, 20)]
        run(s, step)
    assert s.schedule().decode == [short, long]


def test_a_prompt_beside_no_decoding_row_comes_in_larger_chunks() -> None:
    s = Scheduler[Sequence](KVCache(100, 4), 8, 4, 10)
    s.add(sequence([1] * 12))
    step = s.schedule()
    assert chunks(step) == [(0, 10)]
    run(s, step)
    run(s, s.schedule())
    s.add(sequence([2] * 12))
    step = s.schedule()
    assert (len(step.decode), chunks(step)) == (1, [(0, 4)])


def test_the_budget_is_spent_in_order_of_arrival() -> None:
    s = scheduler(prefill_chunk=10)
    for size in (6, 7, 3):
        s.add(sequence([size] * size))
    assert chunks(s.schedule()) == [(0, 6), (0, 4)]


def test_a_last_chunk_of_one_token_is_prefilled_not_decoded() -> None:
    s = scheduler(prefill_chunk=4)
    s.add(sequence([1] * 5))
    run(s, s.schedule())
    step = s.schedule()
    assert (step.decode, chunks(step)) == ([], [(4, 5)])


def test_no_more_run_than_there_are_rows_and_each_row_has_one_owner() -> None:
    s = scheduler(rows=3)
    everybody = [sequence([i, i], max_tokens=2) for i in range(8)]
    for one in everybody:
        s.add(one)
    order = []
    while not s.idle:
        step = s.schedule()
        order += step.admitted
        assert len(s.running) <= 3
        assert len({one.row for one in s.running}) == len(s.running)
        run(s, step)
    assert order == everybody


def test_the_first_in_line_waits_for_pages_and_no_sequence_overtakes_it() -> None:
    s = scheduler(pages=1 + 6, page_size=4)
    first, large, small = sequence([1] * 12), sequence([2] * 16), sequence([3])
    for one in (first, large, small):
        s.add(one)
    assert s.schedule().admitted == [first]
    assert list(s.waiting) == [large, small]
    s.remove(first)
    assert s.schedule().admitted == [large, small]


def test_the_prefix_of_a_sequence_that_waits_for_pages_is_looked_up_again_only_when_there_are_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s = scheduler(pages=1 + 9, page_size=4, rows=8)
    looked_up: list[list[int]] = []
    adopt = s.cache.adopt

    def spy(table: BlockTable, tokens: list[int]) -> int:
        looked_up.append(tokens)
        return adopt(table, tokens)

    monkeypatch.setattr(s.cache, "adopt", spy)
    long, short, large = sequence([1] * 8, max_tokens=9), sequence([2] * 8, max_tokens=3), sequence([3] * 20)
    for one in (long, short, large):
        s.add(one)
    for _ in range(3):
        assert list(s.waiting) in ([large], [long, short, large])
        run(s, s.schedule())
    assert [tokens[0] for tokens in looked_up] == [1, 2, 3]
    run(s, s.schedule())  # `short` is gone
    assert large in s.running
    assert len(looked_up) == 4


def test_requests_that_arrive_together_compute_their_common_beginning_once() -> None:
    s = scheduler(prefill_chunk=50, pages=400)
    system = list(range(40))
    for i in range(20):
        s.add(sequence([*system, 100 + i]))
    prefilled = 0
    while len(s.running) < 8:
        step = s.schedule()
        prefilled += sum(end - start for start, end in chunks(step))
        run(s, step)
    assert prefilled == 41 + 7
    assert s.hit_tokens == 7 * 40
    assert [one.cached_tokens for one in s.running] == [0] + [40] * 7


def test_a_prompt_cancelled_midway_leaves_no_page_that_was_never_computed() -> None:
    s = scheduler(prefill_chunk=8)
    one, same = sequence(list(range(30))), sequence(list(range(30)))
    s.add(one)
    s.schedule()
    s.remove(one)
    s.add(same)
    assert chunks(s.schedule()) == [(8, 16)]


def test_the_youngest_is_preempted_and_begins_again_with_what_it_has() -> None:
    s = scheduler(pages=1 + 5, page_size=4)
    old, young = sequence([1] * 7, max_tokens=13), sequence([2] * 7, max_tokens=13)
    s.add(old)
    run(s, s.schedule())
    s.add(young)
    while not s.preemptions:
        step = s.schedule()
        run(s, step)
    assert (old.row, young.row) != (NO_ROW, NO_ROW)
    assert young.row == NO_ROW
    assert young.table.pages == []
    assert list(s.waiting) == [young]
    drawn = len(young.tokens) - 7
    assert drawn > 0
    while young.row == NO_ROW:
        step = s.schedule()
        run(s, step)
    assert step.chunks[0].end == 7 + drawn
    while not s.idle:
        run(s, s.schedule())
    assert len(young.tokens) == len(old.tokens) == 20


def test_an_unread_draw_neither_delays_the_next_step_nor_draws_too_much() -> None:
    s = scheduler()
    one = sequence([1, 2, 3], max_tokens=3)
    s.add(one)
    steps = [s.schedule() for _ in range(3)]
    assert [bool(step) for step in steps] == [True, True, True]
    assert not s.schedule()  # three draws are on their way, and three is all
    for step in steps:
        run(s, step)
    assert s.idle


def test_after_a_restart_all_begin_again_in_the_same_order_and_trust_no_page() -> None:
    s = scheduler()
    everybody = [sequence([i] * 9) for i in range(3)]
    for one in everybody:
        s.add(one)
    run(s, s.schedule())
    s.schedule()  # this one failed
    s.restart()
    assert list(s.waiting) == everybody
    step = s.schedule()
    assert chunks(step) == [(0, 10)] * 3
    assert s.hit_tokens == 0


def test_after_a_step_that_failed_for_itself_the_pages_of_earlier_steps_are_still_shared() -> None:
    s = scheduler(prefill_chunk=16)
    whole, half = sequence([1] * 9), sequence([2] * 24)
    s.add(whole)
    s.add(half)
    run(s, s.schedule())  # all of one, 7 tokens of the other
    copy = sequence([2] * 24)
    s.add(copy)
    failed = s.schedule()
    assert chunks(failed)[0] == (7, 23)
    s.withdraw(failed)
    s.restart(forget=False)
    assert chunks(s.schedule()) == [(8, 10), (4, 18)]  # pages of 4 tokens that the first step filled, and no other
    assert s.cache.cached == 2 + 4


def test_the_contexts_of_a_steps_chunks_have_a_budget_but_one_chunk_may_be_longer() -> None:
    s: Scheduler[Sequence] = Scheduler(KVCache(300, 4), 16, 100, prefill_contexts=250)
    first = sequence([1] * 100)
    s.add(first)
    run(s, s.schedule())
    others = [sequence([1] * 100 + [2, 3, token]) for token in range(4)]
    long = sequence([9] * 300)
    for one in (*others, long):
        s.add(one)
    steps: list[list[tuple[int, int]]] = []
    while len(steps) < 6:
        step = s.schedule()
        steps.append(chunks(step))
        run(s, step, token=5)
    assert steps == [[(100, 103)] * 2, [(100, 103)] * 2, [(0, 100)], [(100, 200)], [(200, 300)], []]
    assert [one.cached_tokens for one in others] == [100] * 4


def test_half_the_work_is_half_the_contexts_until_relaxed() -> None:
    s: Scheduler[Sequence] = Scheduler(KVCache(300, 4), 8, 1000, prefill_contexts=120)
    for number in range(8):
        s.add(sequence([number] * 20, max_tokens=50))

    def prefilled() -> int:
        s.restart()
        sizes: list[int] = []
        while not sizes or sizes[-1]:
            step = s.schedule()
            sizes.append(len(step.chunks))
            run(s, step)
        return max(sizes)

    assert prefilled() == 120 // 20
    s.halve()
    assert prefilled() == 60 // 23 == 2  # a few tokens were drawn meanwhile
    s.relax()
    assert prefilled() == 120 // 26 == 4


def run_and_halve(s: Scheduler[Sequence], *prompts: list[int]) -> None:
    """All run, and a step of theirs is too large for the device."""
    for prompt in prompts:
        s.add(sequence(prompt, max_tokens=50))
    while len(s.running) < len(prompts):
        run(s, s.schedule())
    s.halve()
    s.restart()


def test_half_the_work_is_half_the_rows_and_half_the_prefill_until_relaxed() -> None:
    s = scheduler(prefill_chunk=16)
    run_and_halve(s, *([i] * 4 for i in range(6)))
    for _ in range(10):
        step = s.schedule()
        assert len(s.running) <= 3
        assert sum(end - start for start, end in chunks(step)) <= 8
        run(s, step)
    assert len(s.running) == 3
    s.relax()
    for _ in range(3):
        run(s, s.schedule())
    assert len(s.running) == 6


def test_half_is_half_beside_rows_that_decode_and_alone_and_half_of_one_is_one() -> None:
    s: Scheduler[Sequence] = Scheduler(KVCache(100, 4), rows=8, prefill_chunk=16, prefill_alone=64)
    run_and_halve(s, *([i] * 33 for i in range(4)))
    sizes = []
    for _ in range(3):
        step = s.schedule()
        sizes.append((bool(step.decode), sum(end - start for start, end in chunks(step))))
        run(s, step)
    assert sizes == [(False, 32), (False, 32), (True, 8)]
    for _ in range(9):
        s.halve()
    s.restart()
    for _ in range(50):
        step = s.schedule()
        assert (len(s.running), len(step.decode) + sum(end - start for start, end in chunks(step))) == (1, 1)
        run(s, step)


def two_that_repeat_themselves(pages: int) -> tuple[Scheduler[Sequence], Sequence, Sequence]:
    """Both are about to decode, with rows for two guesses; the first needs a page for its own."""
    s = scheduler(rows=4, page_size=4, pages=pages)
    first, second = sequence([1, 2, 3, 4, 1, 2, 3], 8, guesses=9), sequence([5, 6, 7, 8, 9, 5, 6, 7], 8, guesses=9)
    for one in (first, second):
        s.add(one)
    run(s, s.schedule(), token=9)
    first.tokens[-1], second.tokens[-1] = 4, 8
    return s, first, second


def test_guesses_take_the_rows_that_are_free_and_wrong_ones_are_taken_back() -> None:
    s, first, second = two_that_repeat_themselves(pages=1 + 8)
    step = s.schedule()
    assert (first.guesses, second.guesses) == ([1, 2], ())
    assert step.drawing == [first] * 3 + [second]
    assert (step.guesses, step.contexts) == (2, [8, 9, 10, 9])
    for one, token in zip(step.drawing, (1, 7, 8, 9), strict=True):  # the first guess is right
        if not one.mispredicted:
            one.tokens.append(token)
    assert first.tokens[-2:] == [1, 7]
    assert s.settle() == [first]
    assert (first.length, first.computed, first.guesses) == (10, 9, ())
    assert (s.guessed, s.guessed_right) == (2, 1)
    assert first.lookup
    assert [*first.lookup.guess([*first.tokens, 1, 2, 3], 9)] == [4]  # it dares no more than was right
    assert s.settle() == []


def test_no_sequence_is_preempted_for_a_guess() -> None:
    s, first, second = two_that_repeat_themselves(pages=1 + 7)
    s.schedule()
    assert (first.guesses, second.guesses) == ((), [9, 5])


def test_after_a_failed_step_nothing_is_left_to_settle() -> None:
    s, first, _ = two_that_repeat_themselves(pages=1 + 8)
    s.schedule()
    s.restart()
    assert (first.length, first.guesses) == (8, ())
    s.schedule()
    assert s.settle() == []


def test_a_sequence_that_ends_among_its_guesses_is_not_settled() -> None:
    s, first, _ = two_that_repeat_themselves(pages=1 + 8)
    s.schedule()
    s.remove(first)
    assert s.settle() == []
    assert first.guesses == ()


def test_a_step_that_prefills_guesses_nothing() -> None:
    s = scheduler()
    one = sequence([1, 2, 3, 4, 1, 2, 3], guesses=9)
    s.add(one)
    run(s, s.schedule(), token=4)
    s.add(sequence([7]))
    step = s.schedule()
    assert (step.decode, step.guesses, one.guesses) == ([one], 0, ())
    run(s, step)


@pytest.mark.parametrize("right", [0, 1, 2])
def test_tokens_put_in_among_guesses_are_computed_from_the_last_token_that_was_read(right: int) -> None:
    s, first, second = two_that_repeat_themselves(pages=1 + 8)
    step = s.schedule()
    assert (first.guesses, first.length, first.computed) == ([1, 2], 11, 10)
    read = [[7], [1, 7], [1, 2]][right]
    first.tokens.extend(read)
    s.put_in(first, (3, 3))
    assert (first.dropped, first.guesses, first.length) == (3 - len(read), (), len(first.tokens))
    second.tokens.append(9)
    assert s.settle() == []
    step = s.schedule()
    assert chunks(step) == [(8 + len(read) - 1, 8 + len(read) + 2)]
    assert (step.admitted, step.chunks[0].draws, step.decode) == ([first], True, [second])


def test_tokens_put_in_may_need_a_page_and_preempt_the_youngest_for_it() -> None:
    s = scheduler(rows=4, page_size=4, pages=1 + 5)
    first, second = sequence([1] * 6, 9), sequence([2] * 6, 9)
    for one in (first, second):
        s.add(one)
    run(s, s.schedule())
    s.put_in(first, (3,) * 6)
    step = s.schedule()
    assert (s.preemptions, chunks(step), step.decode) == (1, [(6, 13)], [])
    assert (step.admitted, step.grown, list(s.waiting)) == ([first], [first], [second])


def test_after_a_failed_step_no_draw_is_dropped() -> None:
    s = scheduler()
    one = sequence([1] * 3)
    s.add(one)
    run(s, s.schedule())
    s.schedule()  # it fails, and its draw will never be read
    s.put_in(one, (3,))
    assert one.dropped == 1
    s.restart()
    assert (one.dropped, one.changed) == (0, False)


def test_a_given_text_is_scored_from_the_last_token_of_the_prompt_on_and_its_own_last_token_is_not_computed() -> None:
    s = scheduler(prefill_chunk=4)
    one = to_score([1] * 6, [2] * 5)
    s.add(one)
    seen = []
    while one.length < one.full_length:
        step = s.schedule()
        (chunk,) = step.chunks
        seen.append((chunk.start, chunk.end, chunk.scores))
        assert step.drawing == []
    # Token 5 is the prompt's last; token 10, the last of all, is followed by none.
    assert seen == [(0, 4, 0), (4, 8, 3), (8, 10, 2)]
    assert not s.schedule()
    s.remove(one)
    assert s.cache.free == s.cache.total


def test_a_text_of_one_token_after_a_prompt_of_one_takes_one_token_of_a_step() -> None:
    s = scheduler()
    one = to_score([1], [2])
    s.add(one)
    step = s.schedule()
    assert [(chunk.start, chunk.end, chunk.scores) for chunk in step.chunks] == [(0, 1, 1)]
    assert len(one.table.pages) == 1


def test_a_prompt_that_is_known_is_shared_up_to_its_last_token_and_its_text_is_not() -> None:
    s = scheduler()
    for _ in range(2):
        one = to_score([1] * 9, [2] * 8)
        s.add(one)
        step = s.schedule()
        s.remove(one)
    # Of pages of four tokens the two before token 8 are shared; the text is computed again, because it is scored again.
    assert [(chunk.start, chunk.end, chunk.scores) for chunk in step.chunks] == [(8, 16, 8)]
    assert one.cached_tokens == 8


def test_a_text_that_was_preempted_goes_on_after_the_tokens_that_are_scored() -> None:
    s = scheduler(pages=1 + 10, prefill_chunk=2)
    old, one = sequence([3] * 4, max_tokens=12), to_score([1] * 2, [2] * 26)
    s.add(old)
    s.add(one)
    scored, before = 0, None
    for _ in range(40):
        step = s.schedule()
        if s.preemptions and before is None:
            assert one.row == NO_ROW
            before = one.scored
        for chunk in step.chunks:
            if chunk.scores:
                assert chunk.end - chunk.scores == one.known - 1
            scored += chunk.scores
        one.scored = scored
        run(s, step)
    assert before is not None
    assert 0 < before < 26
    assert scored == 26


def draw(tokens: list[int]) -> int:
    """A token that depends on all tokens before it and on nothing else, as a model's does."""
    return blake2b(bytes(tokens), digest_size=1).digest()[0] % 3


@dataclass
class Flight:
    """A launched step whose tokens are not read yet."""

    drawing: list[tuple[Sequence, int]] = field(default_factory=list)
    #: how many tokens it scores
    scoring: list[tuple[Sequence, int]] = field(default_factory=list)


class Engine(RuleBasedStateMachine):
    """A scheduler before a pretended device whose pages remember exactly which tokens were written to them."""

    @initialize(
        pages=st.integers(4, 9), page_size=st.integers(1, 3), rows=st.integers(2, 4), chunk=st.integers(1, 12),
        more_alone=st.integers(0, 6), contexts=st.none() | st.integers(1, 20), guesses=st.integers(0, 3),
    )  # fmt: skip
    def start(
        self, pages: int, page_size: int, rows: int, chunk: int, more_alone: int, contexts: int | None, guesses: int
    ) -> None:
        self.guesses, self.contexts = guesses, contexts
        self.longest = (pages - 1) * page_size
        self.scheduler: Scheduler[Sequence] = Scheduler(
            KVCache(pages, page_size), rows, chunk, chunk + more_alone, contexts
        )
        self.memory: dict[int, tuple[int, ...]] = {}
        self.said: dict[Sequence, list[int]] = {}
        self.limits: dict[Sequence, int | None] = {}
        self.flights: deque[Flight] = deque()
        self.ended: list[Sequence] = []

    @rule(
        prompts=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=8), max_size=4),
        max_tokens=st.integers(1, 20),
        limit=st.none() | st.integers(1, 9),
    )
    def arrive(self, prompts: list[list[int]], max_tokens: int, limit: int | None) -> None:
        for prompt in prompts:
            self.add(prompt[: self.longest - 1], max_tokens, limit)

    def add(self, prompt: list[int], max_tokens: int, limit: int | None) -> None:
        """After `limit` drawn tokens others are put in."""
        one = sequence(prompt, min(max_tokens, self.longest - len(prompt)), self.guesses)
        self.said[one] = list(one.tokens)
        self.limits[one] = limit
        self.scheduler.add(one)

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=6),
        text=st.lists(st.integers(0, 2), min_size=1, max_size=10),
    )
    def arrive_to_be_scored(self, prompt: list[int], text: list[int]) -> None:
        prompt = prompt[: self.longest - 1]
        one = to_score(prompt, text[: self.longest - len(prompt)])
        self.said[one] = list(one.tokens)
        self.scheduler.add(one)

    @rule(overlap=st.booleans(), times=st.integers(1, 8))
    def steps(self, overlap: bool, times: int) -> None:
        for _ in range(times):
            self.step(overlap)

    def step(self, overlap: bool) -> None:
        before = {one: one.computed for one in self.scheduler.running}
        step = self.scheduler.schedule()
        flight = Flight()
        written: list[int] = []
        for one in step.decode:
            written += self.write(one, one.computed - 1 - len(one.guesses), one.computed)
        for chunk in step.chunks:
            assert chunk.end <= len(chunk.sequence.tokens)
            written += self.write(chunk.sequence, chunk.start, chunk.end)
            if chunk.scores:
                one = chunk.sequence
                launched = sum(n for flight in self.flights for other, n in flight.scoring if other is one)
                assert chunk.end - chunk.scores == one.known - 1 + launched, "a token was scored twice, or not"
                flight.scoring.append((one, chunk.scores))
        if self.contexts is not None and len(step.chunks) > 1:
            assert sum(chunk.end for chunk in step.chunks) <= self.contexts
        assert len(written) == len(set(written)), "two wrote to one place"
        kept = {one: computed for one, computed in before.items() if one.row != NO_ROW}
        relied_on = {self.slot(one, position) for one, computed in kept.items() for position in range(computed)}
        assert relied_on.isdisjoint(written), "a page that somebody reads was written"
        for one in step.sequences:
            self.check(one)
        for one, draws in groupby(step.drawing):
            said, right = self.said[one], True
            fed = [*said, *one.guesses]
            for at in range(len(said), len(said) + len([*draws])):
                token = draw(fed[:at])
                flight.drawing.append((one, token))
                if right:
                    said.append(token)
                    right = at < len(fed) and token == fed[at]
        if step:
            self.flights.append(flight)
        while len(self.flights) > (overlap and bool(step) and not self.guesses):
            self.read()

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        everybody = [one for one in self.said if one not in self.ended]
        if everybody:
            self.end(data.draw(st.sampled_from(everybody)))

    @rule()
    def fail(self) -> None:
        """A step that ran out of memory half way, maybe beside one that is not read yet: what it wrote is anything."""
        while self.flights and self.guesses:
            self.read()
        step = self.scheduler.schedule()
        for one in step.decode:
            for position in range(one.computed - 1 - len(one.guesses), one.computed):
                self.memory[self.slot(one, position)] = (-1,)
        for chunk in step.chunks:
            for position in range(chunk.start, chunk.end):
                self.memory[self.slot(chunk.sequence, position)] = (-1,)
        self.scheduler.withdraw(step)
        while self.flights:
            self.read()
        self.scheduler.halve()
        self.scheduler.restart(forget=False)
        self.scheduler.relax()

    def slot(self, one: Sequence, position: int) -> int:
        size = self.scheduler.cache.page_size
        page = one.table.pages[position // size]
        assert page != SCRATCH_PAGE
        return page * size + position % size

    def write(self, one: Sequence, start: int, end: int) -> list[int]:
        slots = [self.slot(one, position) for position in range(start, end)]
        for position, slot in zip(range(start, end), slots, strict=True):
            self.memory[slot] = self.fed(one, position)
        return slots

    def check(self, one: Sequence) -> None:
        """All that the sequence will attend to is its own."""
        for position in range(one.computed):
            assert self.memory[self.slot(one, position)] == self.fed(one, position)

    def fed(self, one: Sequence, position: int) -> tuple[int, ...]:
        """All tokens up to this place, as the step computes them."""
        return (*self.said[one], *one.guesses)[: position + 1]

    def read(self) -> None:
        flight = self.flights.popleft()
        for one, scores in flight.scoring:
            if one not in self.ended:
                one.scored += scores
                if one.known == one.full_length:
                    self.end(one)
        for one, token in flight.drawing:
            if one.dropped:
                one.dropped -= 1
            elif one not in self.ended and not (one.guesses and one.mispredicted):
                one.tokens.append(token)
                assert one.tokens == self.said[one][: len(one.tokens)]
                if len(one.tokens) == one.full_length:
                    self.end(one)
                elif len(one.tokens) - one.prompt_len == self.limits[one] and len(one.tokens) + 3 < one.full_length:
                    self.scheduler.put_in(one, (5, 6, 7))
                    self.said[one] = list(one.tokens)
        for one in self.scheduler.settle():
            assert one.tokens == self.said[one]
            assert (one.length, one.computed, one.guesses) == (len(one.tokens), len(one.tokens) - 1, ())

    def end(self, one: Sequence) -> None:
        self.ended.append(one)
        self.scheduler.remove(one)

    @invariant()
    def every_page_is_in_one_place(self) -> None:
        cache = self.scheduler.cache
        held = {page for one in self.said for page in one.table.pages}
        assert len(held) + cache.free == cache.total
        assert held.isdisjoint((*cache._blank, *cache._idle))
        assert len({*cache._blank, *cache._idle}) == cache.free
        for one in self.said:
            assert len(set(one.table.pages)) == len(one.table.pages)

    @invariant()
    def order_of_arrival_holds(self) -> None:
        arrival = {one: number for number, one in enumerate(self.said)}
        line = [arrival[one] for one in (*self.scheduler.running, *self.scheduler.waiting)]
        assert line == sorted(line)
        assert len(line) == len(self.said) - len(self.ended)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(2000):
            if self.scheduler.idle:
                break
            self.step(overlap=True)
        assert self.scheduler.idle, "somebody starved"
        assert self.scheduler.cache.free == self.scheduler.cache.total
        for one in self.said:
            assert one in self.ended


TestEngine = Engine.TestCase
TestEngine.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
