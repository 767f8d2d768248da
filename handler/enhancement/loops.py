"""Finds a text that repeats itself. Pure; knows no word list."""

from collections import Counter
from collections.abc import Sequence

from handler.enhancement.clauses import split
from handler.enhancement.vocabulary import tokens
from handler.pool import check_stop

#: words of a stretch that may follow itself, at most; characters in a script without spaces
_PERIOD = 30
#: words that a stretch has to repeat, at least, in a row: the same word five times, two words five times, four thrice
_IN_A_ROW = 8
_ONE_WORD_IN_A_ROW = 4
#: how often a clause may stand in a text
_SAME_CLAUSE = 3
#: the share of runs of three words that may be repeated, and how many of them have to be for a loop
_SHARE, _RUNS = 0.3, 6


def loops(text: str, prompt: str) -> bool:
    """Whether a text says the same thing again and again, and the prompt does not."""
    words, own = _words(text), _words(prompt)
    if _same_clauses(text) > max(_SAME_CLAUSE, _same_clauses(prompt)):
        return True
    repeated, total = _repeated_runs(words)
    if not repeated:  # nothing can follow itself, either
        return False
    if repeated >= _RUNS and repeated > _SHARE * total:
        others, total = _repeated_runs(own)
        return others < _RUNS or others <= _SHARE * total
    return _in_a_row(words) and not _in_a_row(own)


def _words(text: str) -> list[str]:
    return [word.casefold() for word in tokens(text)]


def _in_a_row(words: Sequence[str]) -> bool:
    """Whether a stretch of words follows itself, more than twice."""
    for period in range(1, min(_PERIOD, len(words) // 2) + 1):
        check_stop()
        needed = _ONE_WORD_IN_A_ROW if period == 1 else max(_IN_A_ROW, 2 * period)
        run = 0
        for before, word in zip(words, words[period:], strict=False):
            run = run + 1 if before == word else 0
            if run >= needed:
                return True
    return False


def _same_clauses(text: str) -> int:
    """How often the most frequent clause of a text is in it."""
    bodies = Counter(" ".join(_words(clause.body)) for clause in split(text))
    bodies.pop("", None)
    return max(bodies.values(), default=0)


def _repeated_runs(words: Sequence[str]) -> tuple[int, int]:
    """How many runs of three words were there before, and how many there are."""
    check_stop()
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return len(runs) - len(set(runs)), len(runs)
