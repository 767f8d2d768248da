"""The one family of errors, each with its code on the wire.

Raised anywhere below `job`, turned into a reply there and nowhere else. Knows no request and no engine.
"""

from typing import ClassVar


class WorkerError(Exception):
    """Base of every error a caller may see. The message is for the caller: no path, no traceback, no content."""

    #: what the caller's program matches on
    code: ClassVar[str] = "internal"
    #: True where the same request may succeed later or on another worker
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        #: one sentence for a person
        self.message = message
        #: path of the offending field (`messages.0.role`), where one field is at fault
        self.field = field
        #: seconds after which a retry makes sense, where that is known
        self.retry_after_s = retry_after_s

    def to_wire(self) -> dict[str, object]:
        """The error as callers read it; fields without a value are left out."""
        wire: dict[str, object] = {"code": self.code, "message": self.message, "retryable": self.retryable}
        if self.field is not None:
            wire["field"] = self.field
        if self.retry_after_s is not None:
            wire["retry_after_s"] = self.retry_after_s
        return wire


class InvalidRequest(WorkerError):
    """The request itself is wrong; sending it again cannot help."""

    code = "invalid_request"


class ContextLengthExceeded(WorkerError):
    """Prompt and answer together do not fit the model's context."""

    code = "context_length_exceeded"


class Unsupported(WorkerError):
    """A well-formed wish that this worker, as it is set up, cannot honour."""

    code = "unsupported"


class Overloaded(WorkerError):
    """The queue is full; `retry_after_s` estimates when it will not be."""

    code = "overloaded"
    retryable = True


class DeadlineExceeded(WorkerError):
    """The deadline passed before the first token; later it is a finish_reason, not an error."""

    code = "deadline_exceeded"
    retryable = True


class OutOfMemory(WorkerError):
    """The device ran out of memory for this request, after a retry."""

    code = "out_of_memory"
    retryable = True


class EngineFailed(WorkerError):
    """The engine broke, or lost its device, while it held this request."""

    code = "engine_failed"
    retryable = True


class NoPack(WorkerError):
    """`enhance` was asked for an entry that no loaded pack has."""

    code = "no_pack"


class BadAnswer(WorkerError):
    """The model answered, twice where that was worth it, and nothing of it can be used."""

    code = "bad_answer"
    retryable = True


class Internal(WorkerError):
    """A defect of ours. The log holds the traceback, the caller gets only this."""

    code = "internal"


class StartError(Exception):
    """The worker cannot start as it is set up; one line that names the cause and the cure. Never on the wire."""
