"""The worker's errors, one family, each with the code that callers read.

`job` alone turns them into failures; any module below it may raise them. Knows no request and no engine.
"""

from typing import ClassVar


class WorkerError(Exception):
    """Base of the errors that a caller may see. The message is for the caller: no path, no traceback, no content."""

    #: for the caller's program
    code: ClassVar[str] = "internal"
    #: True where the same request may succeed later or on another worker
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        #: one sentence for a person
        self.message = message
        #: path of the field at fault (`messages.0.role`); None where no single field is
        self.field = field
        #: seconds after which a retry makes sense; None where that is not known
        self.retry_after_s = retry_after_s


class InvalidRequest(WorkerError):
    """The request itself is wrong; sending it again cannot help."""

    code = "invalid_request"


class ContextLengthExceeded(WorkerError):
    """Prompt and completion together do not fit the model's context."""

    code = "context_length_exceeded"


class Unsupported(WorkerError):
    """The request is well formed, but this worker, with its model and settings, cannot do it."""

    code = "unsupported"


class Overloaded(WorkerError):
    """The engine's queue is full; `retry_after_s` estimates when it has room."""

    code = "overloaded"
    retryable = True


class DeadlineExceeded(WorkerError):
    """The deadline passed before the first token; one that passes later is a finish_reason, not an error."""

    code = "deadline_exceeded"
    retryable = True


class OutOfMemory(WorkerError):
    """The device ran out of memory for this request, after a retry."""

    code = "out_of_memory"
    retryable = True


class EngineFailed(WorkerError):
    """The engine failed, or its device did, while it held this request."""

    code = "engine_failed"
    retryable = True


class NoPack(WorkerError):
    """An `enhance` names an entry that no loaded pack has."""

    code = "no_pack"


class BadAnswer(WorkerError):
    """The model answered an `enhance`, and no answer could be used."""

    code = "bad_answer"
    retryable = True


class Internal(WorkerError):
    """A defect of the worker's code. The log shows where; the message to the caller does not."""

    code = "internal"

    def __init__(
        self,
        message: str = "the worker failed because of a defect in its code; its log shows where, under this job's id",
    ) -> None:
        super().__init__(message)


class StartError(Exception):
    """The worker cannot start as it is set up. One line names the cause and what to do; no caller reads it."""


class DeviceLost(StartError):
    """The device failed during the start, and this process cannot use it any more; another process may."""
