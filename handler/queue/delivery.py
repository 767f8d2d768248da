"""One message to the platform, sent until it arrives. Knows HTTP and time; knows no SDK and no message's content.

Sending again is safe where the platform keeps the first of two (results), or where the reader sees that one came twice
(our own chunks carry an index). For text that a caller reads as it comes there is `once`.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import aiohttp

#: The body is JSON; this label is the SDK's, and the only one that the platform is known to take.
HEADERS = {"Content-Type": "application/x-www-form-urlencoded", "charset": "utf-8"}
#: Statuses below 500 that do not blame the message: it may arrive later.
RETRYABLE = frozenset({408, 425, 429})
#: The one status below 500 that ends the tries at once
TOO_LARGE = 413
#: Statuses that say nothing of whether the message was taken: a gateway gives them for a server that it asked
UNCERTAIN_BELOW_500 = frozenset({408})
#: The status from 500 on with which a server says that it took nothing
NOT_TAKEN = 503


class Backoff:
    """Pauses that double, with jitter: workers that failed together do not come back together."""

    def __init__(self, first_s: float, longest_s: float, draw: Callable[[], float] = random.random) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._draw = draw
        self._next_s = first_s

    def pause(self) -> float:
        """Seconds to wait now: between half and all of a step that is twice the last one."""
        step, self._next_s = self._next_s, min(self._longest_s, self._next_s * 2)
        return step * (0.5 + self._draw() / 2)

    def reset(self) -> None:
        self._next_s = self._first_s


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a message is sent again, in seconds."""

    #: the platform's own outages last less than a minute
    give_up_s: float = 90.0
    #: tries that are made in any case: a worker that was paused (FlashBoot) wakes with every deadline in the past
    min_tries: int = 5
    #: how long a status that blames the message is retried: users report stray 400s, and a gateway that restarts knows
    #: neither key nor job for a moment
    refused_s: float = 5.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0
    #: how long the platform may take to answer a message that it was sent
    answer_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """The outcome of sending a message."""

    #: `refused`: the platform rejected it; `lost`: no answer that settles it came in time
    outcome: Literal["delivered", "refused", "lost"]
    #: the last problem: `HTTP 413`, `ServerDisconnectedError`; empty where there was none
    problem: str
    tries: int


@dataclass(frozen=True, slots=True)
class Post:
    """Sends messages over one session."""

    session: aiohttp.ClientSession
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    clock: Callable[[], float] = time.monotonic

    async def __call__(
        self, url: str, body: bytes, job_id: str, *, tries: int | None = None, once: bool = False
    ) -> Receipt:
        """Send `body` until it arrives, the policy gives up, or `tries` are made. Cancelling it ends it at once.

        `once`: it is not sent again where it may have been taken; then it is `lost` at once.
        """
        policy = self.policy
        # On the request, not on the session: other jobs post at the same time.
        headers = {**HEADERS, "X-Request-ID": job_id}
        timeout = aiohttp.ClientTimeout(total=policy.give_up_s, sock_connect=10, sock_read=policy.answer_s)
        backoff = Backoff(policy.first_pause_s, policy.longest_pause_s)
        started, tried = self.clock(), 0
        while True:
            tried += 1
            refused = certain = False
            try:
                async with self.session.post(url, data=body, headers=headers, timeout=timeout) as response:
                    status = response.status
                if status < 300:
                    return Receipt("delivered", "", tried)
                problem = f"HTTP {status}"
                refused = status < 500 and status not in RETRYABLE
                certain = status == NOT_TAKEN or (status < 500 and status not in UNCERTAIN_BELOW_500)
                if status == TOO_LARGE:
                    return Receipt("refused", problem, tried)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = type(error).__name__
                # Nothing was sent where there was no connection.
                certain = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            if once and not certain:
                return Receipt("lost", problem, tried)
            waited_s = self.clock() - started if tried >= policy.min_tries else 0
            if refused and waited_s >= policy.refused_s:
                return Receipt("refused", problem, tried)
            if waited_s >= policy.give_up_s or tried == tries:
                return Receipt("lost", problem, tried)
            await asyncio.sleep(backoff.pause())
