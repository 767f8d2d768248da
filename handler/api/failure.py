"""A failed request, as callers read it: made of a `WorkerError` here, and nowhere else. Knows no request."""

from typing import Self

from pydantic import JsonValue

from handler.engine.values import Value
from handler.errors import WorkerError


class Failure(Value):
    """Why a job has no reply."""

    code: str
    #: one sentence for a person
    message: str
    #: True where the same request may succeed later or on another worker
    retryable: bool
    #: path of the field at fault; None where no single field is
    field: str | None = None
    #: seconds after which a retry makes sense; None where that is not known
    retry_after_s: float | None = None

    @classmethod
    def of(cls, error: WorkerError) -> Self:
        """The failure that `error` describes."""
        return cls(
            code=error.code,
            message=error.message,
            retryable=error.retryable,
            field=error.field,
            retry_after_s=error.retry_after_s,
        )

    def to_wire(self) -> dict[str, JsonValue]:
        """The JSON form; it leaves out `field` and `retry_after_s` where they have no value."""
        return self.model_dump(exclude_none=True)
