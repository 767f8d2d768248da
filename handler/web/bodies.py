"""Reads the JSON body of a request, within bounds of bytes and time. Knows no field of it."""

import asyncio
from typing import Any

from aiohttp import web

from handler.errors import InvalidRequest, Overloaded
from handler.pool import Pool
from handler.queue.encoding import SMALL_BYTES, decode, items
from handler.web.failures import Refused

#: bytes of a body, at most: the platform's own limit
MAX_BODY = 30_000_000
#: bytes of all bodies that are being read or decoded, at most
MAX_BODIES = 256_000_000
#: seconds in which a body must arrive
ARRIVE_S = 60.0


class Bodies:
    """The bodies that are being read, of all requests."""

    def __init__(self, *, most: int = MAX_BODIES, arrive_s: float = ARRIVE_S) -> None:
        self._most = most
        self._arrive_s = arrive_s
        self._held = 0
        self._pool = Pool("reading", 1)

    async def read(self, request: web.Request) -> dict[str, Any]:
        """The object that a body holds; an empty one where there is no body.

        Raises:
            InvalidRequest: it is not a JSON object.
            Refused: it is too large, encoded, or takes too long to arrive.
            Overloaded: too much is being read at the moment.
        """
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused("unsupported_encoding", "a body is sent as it is, without a content-encoding")
        if (request.content_length or 0) > MAX_BODY:
            raise _too_large()
        held = 0
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._arrive_s):
                while part := await request.content.readany():
                    held += len(part)
                    self._held += len(part)
                    if held > MAX_BODY:
                        raise _too_large()
                    if self._held > self._most:
                        raise Overloaded("too many large bodies are being read; try again later", retry_after_s=1.0)
                    parts.append(part)
            raw = b"".join(parts)
            parts.clear()
            value = decode_object(raw) if len(raw) <= SMALL_BYTES else await self._pool.run(decode_object, raw)
        except TimeoutError:
            raise Refused(
                "request_timeout", f"the body did not arrive within {self._arrive_s:g} s", retryable=True
            ) from None
        except web.RequestPayloadError:
            raise InvalidRequest("the body is not what its headers say") from None
        finally:
            self._held -= held
        return value


def decode_object(raw: bytes) -> dict[str, Any]:
    """The object in a body.

    Raises:
        InvalidRequest: it is none.
    """
    text = raw.strip()
    if not text:
        return {}
    if not text.startswith(b"{"):
        raise InvalidRequest("a body is a JSON object")
    try:
        if len(text) > SMALL_BYTES:
            # One object and nothing behind it. `decode` bounds the values of a job's `input`, so that it gets a job.
            (_,) = items(text)
            value = decode(b'{"input":' + text + b"}")["input"]
        else:
            value = decode(text)
    except ValueError:
        raise InvalidRequest("the body is not JSON") from None
    if not isinstance(value, dict):  # so deep or so large that it was not read
        raise InvalidRequest("a body is a JSON object")
    return value


def _too_large() -> Refused:
    return Refused(
        "request_too_large",
        f"a body has at most {MAX_BODY:,} bytes; send a shorter one",
        headers={"connection": "close"},
    )
