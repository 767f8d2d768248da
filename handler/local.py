"""Answer one job from the command line, readably: what `make run` does. Needs neither the SDK nor a network.

The SDK's own local mode prints a generator instead of running it, and its log lines instead of JSON.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from handler.errors import StartError

Answer = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
Stream = Callable[[Mapping[str, Any]], AsyncIterator[dict[str, Any]]]


def read_job(test_input: str | None, file: Path) -> dict[str, Any]:
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


async def print_answer(job: Mapping[str, Any], answer: Answer) -> int:
    """Run a job on the JSON face and print its reply; returns the exit status."""
    return int(_show(await answer(job)))


async def print_stream(job: Mapping[str, Any], stream: Stream) -> int:
    """Run a job on the streaming face and print what comes as it comes; returns the exit status."""
    return int(any([_show(chunk) async for chunk in stream(job)]))


def _show(output: Mapping[str, Any]) -> bool:
    """Print one output; True where it is an error."""
    if "error" in output:
        print(json.dumps({"error": json.loads(output["error"])}, indent=2, ensure_ascii=False))
        return True
    print(json.dumps(output, indent=None if "index" in output else 2, ensure_ascii=False), flush=True)
    return False
