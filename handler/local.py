"""Answers one job from the command line, readably: what `make run` does. Needs neither the SDK nor a network.

The SDK's own local mode prints a generator instead of running it, and its log lines instead of JSON.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import assert_never

from pydantic import JsonValue

from handler.api.failure import Failure
from handler.api.pieces import piece_to_wire
from handler.api.reply import Reply, to_wire
from handler.engine.fold import Piece
from handler.errors import StartError


def read_job(test_input: str | None, file: Path) -> dict[str, JsonValue]:
    """The job given on the command line as JSON, else the one in the file.

    Raises:
        StartError: it is not a JSON object, or there is none.
    """
    source = "--test_input" if test_input is not None else file.name
    try:
        job = json.loads(file.read_text(encoding="utf-8") if test_input is None else test_input)
    except FileNotFoundError:
        raise StartError(f"no job: {file.name} is not here, and --test_input was not given") from None
    except (ValueError, RecursionError, OSError) as error:
        raise StartError(f"{source} is not JSON: {error}") from None
    if not isinstance(job, dict):
        raise StartError(f"{source} is not a JSON object")
    return {"id": "local", **job}


async def print_events(events: AsyncGenerator[Piece | Reply | Failure, None]) -> int:
    """Print a job's events as they come, pieces one a line; returns the exit status."""
    status = index = 0
    async with aclosing(events):
        async for event in events:
            match event:
                case Piece():
                    print(json.dumps(piece_to_wire(index, event), ensure_ascii=False), flush=True)
                    index += 1
                case Reply():
                    print(json.dumps(to_wire(event), indent=2, ensure_ascii=False))
                case Failure():
                    print(json.dumps({"error": event.to_wire()}, indent=2, ensure_ascii=False))
                    status = 1
                case _:
                    assert_never(event)
    return status
