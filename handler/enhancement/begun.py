"""The answer's beginning in mode extend: the user's prompt, after which the model writes on. Pure."""

from collections.abc import Iterable

from handler.enhancement.clauses import SENTENCE_END, Clause, join, split
from handler.enhancement.regions import Region
from handler.enhancement.vocabulary import tokens
from handler.pool import check_stop

#: kana and CJK, between whose words and commas no space is written
_UNSPACED = frozenset(map(chr, (*range(0x3040, 0x3100), *range(0x3400, 0xA000))))
#: marks at a prompt's end that the comma takes the place of
_CLOSING = ".,;:。，；：、"


def begun(prompt: str) -> str:
    """The prompt and a comma, without a space: after one, a model's tokens would be others.

    The prompt's closing marks give way to the comma. None is put after another mark that ends a sentence, and none
    where the prompt has nothing but marks.
    """
    body = prompt.rstrip().rstrip(_CLOSING).rstrip()
    if not body or body.endswith(tuple(SENTENCE_END)):
        return body
    return body + ("，" if body[-1] in _UNSPACED else ",")


def up_to_repeated_clause(text: str, regions: Iterable[Region] = ()) -> tuple[str, bool]:
    """The text before the first clause that repeats an earlier one, and whether there is such a clause."""
    kept: list[Clause] = []
    seen: set[tuple[str, ...]] = set()
    for clause in split(text, regions):
        check_stop()
        words = tuple(word.casefold() for word in tokens(clause.text))
        if words and words in seen:
            return join(kept), True
        seen.add(words)
        kept.append(clause)
    return text, False
