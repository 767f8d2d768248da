"""Chooses the clauses of a text that are kept within a token budget. Pure; knows no tokenizer.

The clause with the subject stays, then what is protected, then one clause of each wanted kind; what room is left is
filled. The whole string is counted again after every change, since the token counts of two strings do not add up to
that of both together.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import cached_property
from itertools import accumulate, islice

from handler.api.enhance import Trimmed
from handler.enhancement import shorten
from handler.enhancement.clauses import SENTENCE_END, SEPARATORS, separator, split, words
from handler.enhancement.limits import Limit, Ranking
from handler.enhancement.pack import Kind
from handler.enhancement.regions import Region, Regions
from handler.enhancement.syntax import encoded
from handler.enhancement.vocabulary import leading
from handler.pool import check_stop

#: the share of the budget that protected text may take where the clause of the subject has to be cut
PROTECTED_SHARE = 2 / 3
#: clauses that are tried one by one, at most; a text has a few that nearly fit
MAX_TRIES = 32
#: a clause may have so many tokens fewer in the text than alone: its separator, where it comes last
SLACK = 2


class Choice:
    """The clauses of a text that are kept, behind a head that stays as it is."""

    def __init__(self, text: str, head: str, limit: Limit, ranking: Ranking) -> None:
        self._head, self._limit, self._ranking = head, limit, ranking
        self._clauses = split(text, ranking.unbroken(text))
        self._regions = _merged(ranking.regions(text))
        #: by clause: what is kept of it
        self._kept: dict[int, str] = {}
        self._words_lost = 0
        #: by text: what the encoder reads of it, so that no syntax is read twice
        self._readings: dict[str, str] = {}
        self._room: int | None = None
        #: the last texts that were found to fit with what was kept, and the tokens that they leave
        self._fitting: tuple[dict[int, str], int] = {}, 0

    @property
    def text(self) -> str:
        """The head and what is kept."""
        return self._built(self._kept)

    def settle(self) -> None:
        """Hold the text itself against the limit: brackets without a partner may have found one in another clause."""
        if not self._limit.fits(self.text):
            order, kept = sorted(self._kept, key=lambda index: bool(self._tokens(self._kept[index]))), self._kept
            fitting = _longest(order, lambda some: self._limit.fits(self._built({one: kept[one] for one in some})))
            self._kept = {one: kept[one] for one in fitting}

    @property
    def trimmed(self) -> tuple[Trimmed, ...]:
        """The clauses that are not kept, and how many words of others."""
        dropped = (index for index in range(len(self._clauses)) if index not in self._kept)
        clauses = [Trimmed(kind=self._kind(index), text=self._clauses[index].body) for index in dropped]
        words = [Trimmed(kind="subject", text=f"{self._words_lost} words")] if self._words_lost else []
        return (*clauses, *words)

    @cached_property
    def protected(self) -> list[int]:
        """The clauses with protected text."""
        regions = Regions(self._regions)
        return [index for index, one in enumerate(self._clauses) if regions.overlap((one.start, one.end))]

    def keep_what_must_stay(self) -> bool:
        """Keep the subject's clause and protected text; where that is too much, without other words.

        False where the subject's clause had to be cut, so that there is no room for anything else.
        """
        subject = self._subject()
        free = (index for index in range(len(self._clauses)) if not self._cost(index))
        must = sorted({subject, *self.protected, *free})
        whole = {index: self._clauses[index].text for index in must}
        if self._fits(whole):
            self._keep(whole)
            return True
        bare = {index: text if index == subject else self._protected_text(index) for index, text in whole.items()}
        if not self._fits(bare):
            self._cut(subject, whole)
            return False
        self._keep(bare)
        more = {index: whole[index] for index in must if bare[index] != whole[index]}
        self._add(more, {index: self._cost(index) - self._tokens(bare[index]) for index in more})
        self._words_lost = sum(_words_in(whole[index]) - _words_in(self._kept[index]) for index in must)
        return True

    def add(self, indexes: Iterable[int]) -> None:
        """Keep clauses in this order of preference, each that fits."""
        texts = {index: self._clauses[index].text for index in indexes if index not in self._kept}
        self._add(texts, {index: self._cost(index) for index in texts})

    def _add(self, texts: dict[int, str], costs: Mapping[int, int]) -> None:
        """Keep these texts of clauses, each that fits; `costs`: about so many tokens more."""
        waiting = list(texts)
        while waiting:
            batch, room = [], self._left()
            for index in waiting:
                if costs[index] <= room:
                    batch.append(index)
                    room -= costs[index]
            fitting = _longest(batch, lambda some: self._fits({index: texts[index] for index in some}))
            if not fitting:
                break
            self._keep({index: texts[index] for index in fitting})
            waiting = [index for index in waiting if index not in self._kept or self._kept[index] != texts[index]]
        # What a clause costs alone may be more than what it adds to the text.
        near = (index for index in waiting if costs[index] <= self._left() + SLACK)
        for index in islice(near, MAX_TRIES):
            if self._fits({index: texts[index]}):
                self._keep({index: texts[index]})

    def fill(self) -> None:
        """Keep clauses with the user's words, one of each wanted kind, and then whatever fits."""
        self.add(self._with_own_words())
        covered = set(self._ranking.kinds(self._head)).union(*map(self._kinds, self._kept))
        tried: set[int] = set()
        while picks := self._of_missing_kinds(covered, tried):
            self.add(picks)
            tried.update(picks)
            covered.update(*(self._kinds(index) for index in picks if index in self._kept))
        self.add(sorted(range(len(self._clauses)), key=lambda index: self._place(self._kind(index))))

    def _of_missing_kinds(self, covered: Set[Kind], tried: Set[int]) -> list[int]:
        """The first clause of each wanted kind that is not there, of those that were not tried."""
        picks: list[int] = []
        there = set(covered)
        for kind in sorted(self._ranking.wanted, key=self._place):
            if kind not in there:
                of_kind = (index for index in self._by_kind.get(kind, ()) if index not in tried)
                if (pick := next(of_kind, None)) is not None:
                    picks.append(pick)
                    there.update(self._kinds(pick))
        return picks

    def _subject(self) -> int:
        """The clause with most of the words that name the user's subject; else the first that is more than keywords."""
        stems = [self._ranking.subject.intersection(self._ranking.stems(one.text)) for one in self._clauses]
        order = sorted(range(len(self._clauses)), key=lambda index: -len(stems[index]))
        speaking = (index for index in order if self._ranking.has_own_words(self._clauses[index].text))
        costly = (index for index in order if self._cost(index))
        return next(speaking, next(costly, 0))

    def _with_own_words(self) -> list[int]:
        """The clauses with words of the user's that no earlier one has, nor what is kept."""
        missing = self._ranking.own and self._ranking.own.difference(self._ranking.stems(self.text))
        found = []
        for index, clause in enumerate(self._clauses):
            if missing and (brought := missing.intersection(self._ranking.stems(clause.text))):
                missing -= brought
                found.append(index)
        return found

    def _protected_text(self, index: int) -> str:
        """A clause without the words that are not protected; without its separator where the encoder reads nothing."""
        clause = self._clauses[index]
        first = bisect_right([end for _, end in self._regions], clause.start)
        last = bisect_left([start for start, _ in self._regions], clause.end)
        regions = [(max(start, clause.start), min(end, clause.end)) for start, end in self._regions[first:last]]
        parts = [clause.text[start - clause.start : end - clause.start].strip() for start, end in regions]
        return self._ended(" ".join(parts), clause.text)

    def _cut(self, subject: int, must: Mapping[int, str]) -> None:
        """Keep words of the subject's clause and protected text, of which neither can push the other out."""
        text = "".join(must.values())
        begins = sum(len(one) for index, one in must.items() if index < subject)
        subject_region = Regions([(begins, begins + len(must[subject]))])
        room = int(self._limit.tokens * PROTECTED_SHARE)
        whole: list[Region] = []
        for start, end in sorted(_merged(self._ranking.regions(text)), key=lambda one: not subject_region.overlap(one)):
            if (cost := self._tokens(text[start:end])) <= room:
                whole.append((start, end))
                room -= cost
        units, protected = shorten.units(text, whole), Regions(whole)
        ends = list(accumulate(len(one) for one in must.values()))

        costs = [self._tokens(text[one.start : one.end]) for one in units]

        def level(index: int) -> int:
            region = units[index].region
            kept = not costs[index] or protected.overlap(region)
            return 0 if kept else 1 if subject_region.overlap(region) else 2

        def shortened(some: Iterable[int]) -> dict[int, str]:
            by_clause: dict[int, list[int]] = {index: [] for index in must}
            clauses = list(must)
            for index in sorted(some):
                by_clause[clauses[bisect_right(ends, units[index].start)]].append(index)
            return {
                index: self._ended(shorten.joined(text, units, parts), must[index]) if parts else ""
                for index, parts in by_clause.items()
            }

        small = [index for index, cost in enumerate(costs) if cost <= self._limit.tokens]
        fitting = _longest(sorted(small, key=level), lambda some: self._fits(shortened(some)))
        self._keep(shortened(fitting))
        self._words_lost = len(units) - len(fitting)

    def _ended(self, kept: str, clause: str) -> str:
        """What is kept of a clause with the clause's separator; a space where the encoder reads nothing of it."""
        tail = clause[len(clause.rstrip(SEPARATORS + SENTENCE_END)) :]
        kept = kept.rstrip(SEPARATORS + SENTENCE_END)
        return kept + (tail if self._tokens(kept) and tail.strip() else " ")

    def _fits(self, texts: dict[int, str]) -> bool:
        """Whether these texts of clauses fit together with what is kept."""
        check_stop()
        tokens = self._count(self._kept | texts)
        if tokens <= self._limit.tokens:
            self._fitting = texts, self._limit.tokens - tokens
        return tokens <= self._limit.tokens

    def _keep(self, texts: dict[int, str]) -> None:
        self._kept |= texts
        known, room = self._fitting
        self._room = room if known == texts else None

    def _left(self) -> int:
        """Tokens that are left."""
        if self._room is None:
            self._room = self._limit.tokens - self._count(self._kept)
        return self._room

    def _built(self, kept: Mapping[int, str]) -> str:
        return _behind(self._head, _in_order(kept))

    def _count(self, kept: Mapping[int, str]) -> int:
        """Tokens of the head and of what is kept."""
        return self._limit.count(_behind(self._read(self._head), map(self._read, _in_order(kept))))

    def _tokens(self, text: str) -> int:
        return self._limit.count(self._read(text))

    def _read(self, text: str) -> str:
        if text not in self._readings:
            self._readings[text] = encoded(text)
        return self._readings[text]

    def _cost(self, index: int) -> int:
        if index not in self._costs:
            check_stop()
            self._costs[index] = self._tokens(self._clauses[index].text)
        return self._costs[index]

    def _kinds(self, index: int) -> Mapping[Kind, int]:
        if index not in self._hits:
            self._hits[index] = self._ranking.kinds(self._clauses[index].text)
        return self._hits[index]

    def _kind(self, index: int) -> Kind:
        order = self._ranking.order
        named = {kind: hits for kind, hits in self._kinds(index).items() if kind in order}
        return leading(named, order)

    def _place(self, kind: Kind) -> int:
        order = self._ranking.order
        return order.index(kind) if kind in order else len(order)

    @cached_property
    def _by_kind(self) -> dict[Kind, list[int]]:
        """The clauses with words of each kind."""
        clauses: dict[Kind, list[int]] = {}
        for index in range(len(self._clauses)):
            for kind in self._kinds(index):
                clauses.setdefault(kind, []).append(index)
        return clauses

    @cached_property
    def _costs(self) -> dict[int, int]:
        return {}

    @cached_property
    def _hits(self) -> dict[int, Mapping[Kind, int]]:
        return {}


def naming_the_subject(prompt: str, unbroken: Iterable[Region], has_own_words: Callable[[str], bool]) -> str:
    """The first clause of a prompt that is more than keywords; the whole prompt where none is."""
    return next((one.text for one in split(prompt, unbroken) if has_own_words(one.text)), prompt)


def _in_order(texts: Mapping[int, str]) -> list[str]:
    """The texts in order, without separators at the end."""
    ordered = [texts[index] for index in sorted(texts)]
    while ordered and not ordered[-1].rstrip(SEPARATORS):
        ordered.pop()
    return [*ordered[:-1], *(text.rstrip(SEPARATORS) for text in ordered[-1:])]


def _behind(head: str, texts: Iterable[str]) -> str:
    tail = "".join(texts)
    return head + separator(head) + tail if head and tail else head + tail


def _merged(regions: Iterable[Region]) -> list[Region]:
    """Regions in order, those that overlap as one."""
    merged: list[Region] = []
    for start, end in sorted(regions):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _words_in(text: str) -> int:
    return len(words(text))


def _longest(order: Sequence[int], fits: Callable[[Sequence[int]], bool]) -> Sequence[int]:
    """The longest front of an order that fits, by bisection from its end on.

    The result was tried and fits; where more has fewer tokens, a longer front may have fitted, too.
    """
    low, high, probe = 0, len(order), len(order)
    while low < high:
        low, high = (probe, high) if fits(order[:probe]) else (low, probe - 1)
        probe = (low + high + 1) // 2
    return order[:low]
