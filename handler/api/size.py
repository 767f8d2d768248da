"""The size of a request, checked before any of its fields is. Knows no field.

A check of fields costs more than the walk here, up to an error for each value, and holds up all other jobs meanwhile.
"""

from collections.abc import Iterable, Mapping

from handler.errors import InvalidRequest

#: fields of one request or of an object in it, at most; none has as many
MAX_FIELDS = 100
#: values of a request, at most; a conversation of 10,000 turns has 40,000
MAX_VALUES = 100_000
#: levels of lists and objects in one field, at most
MAX_LEVELS = 64


def check_size(payload: Mapping[str, object]) -> None:
    """Refuse a request that has too many fields or values, or too many levels; stops where a bound is passed.

    Raises:
        InvalidRequest: naming the field at the top that holds the value.
    """
    if len(payload) > MAX_FIELDS:
        raise InvalidRequest(f"input has {len(payload)} fields; no request has more than {MAX_FIELDS}", field="input")
    values = 0
    for name, value in payload.items():
        level: list[object] = [value]
        values, levels = values + 1, 0
        while containers := [one for one in level if isinstance(one, list | dict)]:
            levels, values = levels + 1, values + sum(map(len, containers))
            path = name[:100]
            if levels > MAX_LEVELS:
                raise InvalidRequest(
                    f"{path}: has more than {MAX_LEVELS} levels of lists and objects; send a flatter value", field=path
                )
            if values > MAX_VALUES:
                raise InvalidRequest(
                    f"{path}: with it the input has more than {MAX_VALUES} values; send fewer", field=path
                )
            level = [inner for one in containers for inner in _values_of(one)]


def characters(value: object) -> int:
    """Characters of all texts in a value, roughly: those beyond `MAX_VALUES` values are not counted."""
    total = values = 0
    level = [value]
    while level and values <= MAX_VALUES:
        values += len(level)
        total += sum(len(one) for one in level if isinstance(one, str))
        level = [inner for one in level if isinstance(one, list | dict) for inner in _values_of(one)]
    return total


def _values_of(container: list[object] | dict[str, object]) -> Iterable[object]:
    return container.values() if isinstance(container, dict) else container
