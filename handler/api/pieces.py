"""A piece of an answer as JSON values: a chunk of a stream."""

from pydantic import JsonValue

from handler.engine.fold import Piece


def piece_to_wire(index: int, piece: Piece) -> dict[str, JsonValue]:
    """The `index`-th chunk of an answer, counted from 0; it has `variant` where the request asked for several."""
    name = "reasoning_delta" if piece.reasoning else "delta"
    variant: dict[str, JsonValue] = {} if piece.variant is None else {"variant": piece.variant}
    return {"index": index, name: piece.text, **variant}
