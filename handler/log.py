"""The worker's log: one JSON object a line on standard error, in the shape that RunPod's console filters by job.

Never any content: what a caller sent is in no line, nor the message of an exception, which may quote it.
"""

import json
import logging
import sys
import threading
import traceback
from contextvars import ContextVar
from types import TracebackType
from typing import Literal

Level = Literal["INFO", "WARN", "ERROR"]

#: id of the job that the current task runs; its lines carry it
current_job: ContextVar[str | None] = ContextVar("current_job", default=None)


def info(message: str, job_id: str | None = None, /, **facts: object) -> None:
    """Write one line; the current job's id stands in for `job_id`, and `facts` become keys of their own."""
    _write("INFO", message, job_id, facts)


def warn(message: str, job_id: str | None = None, /, **facts: object) -> None:
    """Write one line about a condition that the operator may want to look into."""
    _write("WARN", message, job_id, facts)


def error(message: str, job_id: str | None = None, /, **facts: object) -> None:
    """Write one line about a failure of the worker itself."""
    _write("ERROR", message, job_id, facts)


def defect(exception: BaseException, job_id: str | None = None) -> None:
    """Write the type of an exception that the code does not expect, and the frames that it passed through."""
    frames = [
        f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(exception.__traceback__)
    ]
    error(f"a defect of the worker: {type(exception).__name__}", job_id, frames=frames)


def _write(level: Level, message: str, job_id: str | None, facts: dict[str, object]) -> None:
    line = {"requestId": current_job.get() if job_id is None else job_id, "message": message, "level": level, **facts}
    # One write for the line and its end: the engine's thread writes too.
    sys.stderr.write(json.dumps(line, default=str) + "\n")
    sys.stderr.flush()


def capture_libraries() -> None:
    """Write what libraries log or warn of, and what ends a thread, as lines of this log. For a whole process, once."""
    logging.setLoggerClass(_Logger)
    logging.basicConfig(level=logging.WARNING, handlers=[_Handler(logging.WARNING)], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda arguments: _uncaught(
        arguments.exc_type, arguments.exc_value or arguments.exc_type(), arguments.exc_traceback
    )


class _Logger(logging.Logger):
    """A logger that leaves writing to the root's handler: several libraries give theirs one of its own."""

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802
        """Keep no handler."""

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Pass a record on to the root, although `propagate` may say otherwise."""
        logging.root.callHandlers(record)


class _Handler(logging.Handler):
    """Writes a record's logger and message; with an exception its type instead, as the message may quote it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            kind = record.exc_info[0] if record.exc_info else None
            message = record.getMessage() if kind is None else kind.__name__
        except Exception as failed:  # wrong arguments, say; logging would print them
            message = f"a record without a message ({type(failed).__name__})"
        (error if record.levelno >= logging.ERROR else warn)(f"{record.name}: {message}")


def _uncaught(kind: type[BaseException], exception: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, Exception):
        defect(exception.with_traceback(trace))
    else:
        sys.__excepthook__(kind, exception, trace)
