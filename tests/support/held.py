"""The worker, with one kind of work that does not end by itself where the prompt holds `MARK`.

    python -m tests.support.held encoding|before|after

`encoding` is native code, which nothing can interrupt; `before` and `after` are enhancement's work on texts before and
after the model is asked, which asks between its steps whether it is to stop. The log says when it begins and ends.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from handler import __main__ as command
from handler.queue.leaving import leave

MARK = "hold this"


def held(work: Callable[..., Any], step: Callable[[], None], prompt: Callable[..., str]) -> Callable[..., Any]:
    """Work that goes on for ever where its prompt has the mark."""

    def hold(*arguments: Any, **named: Any) -> Any:
        if MARK not in prompt(*arguments):
            return work(*arguments, **named)
        sys.stderr.write("work is held\n")
        try:
            while True:
                step()
        finally:
            sys.stderr.write("work is over\n")

    return hold


def hold(kind: str) -> None:
    """Hold one kind of work."""
    from handler.enhancement import rewrite, spans
    from handler.model.template import Template
    from handler.pool import check_stop

    def native() -> None:
        time.sleep(0.01)

    owner: Any = {"encoding": Template, "before": spans, "after": rewrite}[kind]
    name = {"encoding": "_encode", "before": "find", "after": "draft"}[kind]
    prompt: Callable[..., str] = {
        "encoding": lambda template, texts, *_: " ".join(texts),
        "before": lambda prompt, *_: prompt,
        "after": lambda brief, *_: brief.prompt,
    }[kind]
    setattr(owner, name, held(getattr(owner, name), native if kind == "encoding" else check_stop, prompt))


if __name__ == "__main__":
    hold(sys.argv.pop())
    leave(command.main())
