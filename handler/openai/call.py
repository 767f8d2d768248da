"""One call of OpenAI's API: its native request, and then what its caller reads. Both faces use it."""

import time
from uuid import uuid4

from handler.api.failure import Failure
from handler.api.info import InfoRequest
from handler.api.reply import Reply
from handler.engine.fold import Piece
from handler.openai import errors, replies, requests
from handler.openai.replies import Chunks, Head, Object
from handler.openai.requests import Asked, Chat, Completion
from handler.openai.served import Served


class Call:
    """One call. `read` comes first, inside the job: what it raises is the job's failure."""

    def __init__(self, path: str, body: object, served: Served) -> None:
        """
        Args:
            path: with its `/v1`.
            body: JSON; of a GET it does not matter.
        """
        self._path = path
        self._body = body
        prefix = "chatcmpl" if "/chat/" in path else "cmpl"
        self._head = Head(f"{prefix}-{uuid4().hex}", int(time.time()), served)
        self._asked: Asked | None = None
        self._chunks: Chunks | None = None
        #: True where the caller reads server-sent events, a failure's too
        self.streamed = requests.wants_stream(body)

    def read(self) -> Chat | Completion | InfoRequest:
        """The native request.

        Raises:
            WorkerError: the call is refused; see `requests.read`.
        """
        self._asked = requests.read(self._path, self._body, self._head.served)
        self._chunks = Chunks(self._asked, self._head)
        return self._asked.request

    @property
    def ignored(self) -> tuple[str, ...]:
        """Fields that had no effect; empty before `read`."""
        return () if self._asked is None else self._asked.ignored

    def whole(self, reply: Reply) -> Object:
        """The reply as one object."""
        assert self._asked is not None, "a call is read before it is answered"
        return replies.whole(self._asked, reply, self._head)

    def chunk(self, event: Piece | Reply | Failure) -> str:
        """The server-sent events for one event of the job; after a reply or a failure there are no more."""
        if isinstance(event, Failure):
            return replies.failed(self.named(event))
        assert self._chunks is not None, "a call is read before it is answered"
        return self._chunks.of(event)

    def failed(self, failure: Failure) -> tuple[int, Object]:
        """The HTTP status of a failure, and its object."""
        return errors.body(self.named(failure))

    def named(self, failure: Failure) -> Failure:
        """The failure with the caller's names of its fields."""
        return failure if self._asked is None else requests.in_their_names(failure, self._asked.names)
