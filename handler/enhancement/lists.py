"""Word lists of a pack, and the tables that find their words. Pure."""

from typing import Annotated, Self

from pydantic import Field

from handler.engine.values import Value

Phrase = Annotated[str, Field(min_length=1, max_length=200)]
PhraseList = Annotated[tuple[Phrase, ...], Field(max_length=1000, fail_fast=True)]
#: phrases that mean the same
Group = Annotated[tuple[Phrase, ...], Field(min_length=1, max_length=100, fail_fast=True)]
#: each a phrase, or several that mean the same
Groups = Annotated[tuple[Phrase | Group, ...], Field(max_length=1000, fail_fast=True)]


class Lists(Value):
    """Word lists. The patterns and tables that find their words are made once for each value, and belong to it."""

    def __copy__(self) -> Self:
        """A copy, which may get other lists, makes its own."""
        copied = super().__copy__()
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    @property
    def phrase_bytes(self) -> int:
        """Bytes of all phrases in UTF-8, those of lists in this one too."""
        return sum(_bytes_of(value) for _, value in self)


def _bytes_of(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Lists):
        return value.phrase_bytes
    if isinstance(value, dict):
        return sum(map(_bytes_of, value.values()))
    return sum(map(_bytes_of, value)) if isinstance(value, tuple) else 0
