"""The word lists by which a pack recognises the user's own words. Pure; knows no text."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Literal

from pydantic import Field

from handler.api.enhance import Language
from handler.enhancement.lists import Group, Groups, Lists, PhraseList
from handler.enhancement.phrases import folded
from handler.enhancement.wording import Tree, Wording

#: what a phrase does to the words around it
Role = Literal["between", "before", "verb", "behind", "alone", "idiom"]


class Negation(Lists):
    """The words around a negated noun, beside those that negate."""

    verbs: PhraseList = Field(default=(), description="Words that negate a verb or an adjective: not, never, doesn't.")
    behind: PhraseList = Field(default=(), description="Words that negate the noun before them.")
    alone: PhraseList = Field(
        default=(), description="Words that are negating word and noun in one: nobody; `alike` says which noun."
    )
    suffixes: PhraseList = Field(default=(), description="Words that negate the noun to which a hyphen joins them.")
    idioms: PhraseList = Field(default=(), description="Phrases that hold a negating word and negate nothing.")
    between: PhraseList = Field(default=(), description="Words that may stand between a negating word and the noun.")
    articles: PhraseList = ()
    alternatives: PhraseList = Field(
        default=(), description="Words that carry a negation on to the next noun: or, nor."
    )
    additions: PhraseList = Field(
        default=(), description="Words that carry it on to a next noun of one word, without an article: and."
    )
    endings: dict[Language, Group] = Field(default={}, description="What a noun's other number is told by.")

    @cached_property
    def compounds(self) -> frozenset[str]:
        """`suffixes` without the difference of case."""
        return _set(self.suffixes)

    @cached_property
    def determiners(self) -> frozenset[str]:
        """`articles` without the difference of case."""
        return _set(self.articles)

    @cached_property
    def ors(self) -> frozenset[str]:
        """`alternatives` without the difference of case."""
        return _set(self.alternatives)

    @cached_property
    def ands(self) -> frozenset[str]:
        """`additions` without the difference of case."""
        return _set(self.additions)


class Protect(Lists):
    """The user's own words that the result must keep."""

    counts: Groups = Field(
        default=(), description="Number words, with others that mean the same; numbers in digits are always counts."
    )
    colours: Groups = ()
    alike: tuple[Group, ...] = Field(default=(), max_length=1000, description="Other phrases that mean the same.")
    negations: PhraseList = Field(default=(), description="Words that negate the noun after them.")
    negation: Negation = Negation()
    names: bool = Field(default=True, description="Capitalised words inside a sentence, and words in capitals.")
    capital_nouns: tuple[Language, ...] = Field(
        default=(), description="Languages whose nouns have capitals: one word alone is no name."
    )
    quoted: bool = True
    syntax: bool = Field(default=True, description="LoRA tags, weights, BREAK.")

    @cached_property
    def wording(self) -> Wording:
        """Reads texts by what means the same."""
        return Wording(_group(one) for one in (*self.counts, *self.colours, *self.alike))

    @cached_property
    def count_keys(self) -> frozenset[str]:
        """`counts`, as `wording` reads them."""
        return self._keys(self.counts)

    @cached_property
    def number_words(self) -> tuple[str, ...]:
        """The phrases of `counts`."""
        return tuple(phrase for one in self.counts for phrase in _group(one))

    @cached_property
    def colour_keys(self) -> frozenset[str]:
        """`colours`, as `wording` reads them."""
        return self._keys(self.colours)

    @cached_property
    def around_negations(self) -> Tree:
        """The words of `negations` and of `negation`, each with what it does."""
        tree, lists = Tree(), self.negation
        roles: Mapping[Role, PhraseList] = {
            "between": lists.between,
            "before": self.negations,
            "verb": lists.verbs,
            "behind": lists.behind,
            "alone": lists.alone,
            "idiom": lists.idioms,
        }
        for role, phrases in roles.items():
            for phrase in phrases:
                tree.node(phrase).value = role
        return tree

    def _keys(self, groups: Groups) -> frozenset[str]:
        return frozenset(token.key for one in groups for token in self.wording.read(_group(one)[0])[:1])


def _group(one: str | tuple[str, ...]) -> tuple[str, ...]:
    return (one,) if isinstance(one, str) else one


def _set(phrases: Iterable[str]) -> frozenset[str]:
    return frozenset(map(folded, phrases))
