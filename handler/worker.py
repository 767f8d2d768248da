"""The RunPod loop. The only module that imports the SDK; knows jobs as dicts and nothing of what is in them."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

Job = Mapping[str, Any]
Handler = Callable[[Job], Awaitable[dict[str, Any]]] | Callable[[Job], AsyncIterator[dict[str, Any]]]

#: Jobs taken per job the engine runs: the SDK looks for more only once a second when it is full, so with as many
#: jobs as slots a fifth of the slots idle (measured with SDK 1.12: 79 % busy at 1.0, 96 % at 1.5).
OVERFETCH = 1.5


def serve(handler: Handler, *, slots: int) -> None:
    """Take jobs for an engine of so many slots until the platform says stop; a generator function streams.

    Concurrency is a constant: whenever it changes, the SDK waits for all running jobs before it takes the next.
    """
    # Below INFO the SDK logs whole inputs and outputs. Its logger reads the variable when it is imported.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", os.environ.get("RUNPOD_DEBUG_LEVEL", "INFO"))
    import runpod  # 1.4 s, and not needed to answer a local job

    concurrency = max(1, round(OVERFETCH * slots))
    runpod.serverless.start(
        {
            "handler": handler,
            "concurrency_modifier": lambda current: concurrency,
            "return_aggregate_stream": True,
        }
    )
