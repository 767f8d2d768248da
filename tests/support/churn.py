"""Clients of the HTTP face that come, stream, stall and vanish."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.support.facing import Client

PATHS = ("/chat", "/generate", "/enhance", "/v1/chat/completions")


def request(draw: random.Random) -> tuple[str, dict[str, Any]]:
    """A path and a body with a text of its own."""
    path, text = draw.choice(PATHS), f"{draw.random()} fox"
    body: dict[str, Any] = {"max_tokens": draw.randint(1, 60), "temperature": 1.5, "seed": draw.randrange(2**31)}
    match path:
        case "/generate":
            body["prompt"] = text
        case "/enhance":
            body |= {"prompt": text, "job_type": "sdxl_image_fast"}
        case "/v1/chat/completions":
            body["messages"] = [{"role": "user", "content": text}]
        case _:
            body["message"] = text
    return path, body


class Churn:
    """So many clients at once; counts how each request ended."""

    def __init__(self, client: Client, seed: int) -> None:
        self.client = client
        self.ended: Counter[str] = Counter()
        #: answers that are neither a reply nor a typed error
        self.wrong: list[str] = []
        self._draw = random.Random(seed)
        self._over = False

    async def run(self, at_once: int, seconds: float) -> None:
        """Send requests for so long, and wait until the last one has ended."""
        kinds: list[Callable[[], Awaitable[None]]] = [self._whole, self._streamed, self._vanishes, self._stalls]
        until = asyncio.get_running_loop().time() + seconds

        async def one() -> None:
            while asyncio.get_running_loop().time() < until and not self._over:
                await self._draw.choice(kinds)()

        await asyncio.gather(*(one() for _ in range(at_once)))

    def end(self) -> None:
        """Begin no request any more: the worker has been told to end."""
        self._over = True

    async def _whole(self) -> None:
        path, body = request(self._draw)
        try:
            answer = await self.client.post(path, body)
        except aiohttp.ClientConnectionError:
            self._refused("whole")
            return
        self._judge("whole", answer.status, answer.text, streamed=False)

    async def _streamed(self) -> None:
        path, body = request(self._draw)
        try:
            answer = await self.client.post(path, {**body, "stream": True})
        except aiohttp.ClientConnectionError:
            self._refused("streamed")
            return
        self._judge("streamed", answer.status, answer.text, streamed=True)

    async def _vanishes(self) -> None:
        """Leave at any moment."""
        path, body = request(self._draw)
        call = self.client.post(path, {**body, "stream": self._draw.random() < 0.5, "max_tokens": 500})
        with suppress(TimeoutError, aiohttp.ClientConnectionError):
            async with asyncio.timeout(self._draw.uniform(0, 0.3)):
                await call
        self.ended["vanished"] += 1

    async def _stalls(self) -> None:
        """Send half a request, or read none of the answer, for a while; then leave."""
        path, body = request(self._draw)
        raw = json.dumps({**body, "stream": True, "max_tokens": 500}).encode()
        half = self._draw.random() < 0.5
        place = urlsplit(self.client.url)
        writer = None
        with suppress(OSError):
            _, writer = await asyncio.open_connection(place.hostname, place.port, limit=1024)
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
            writer.write(head.encode() + (raw[: len(raw) // 2] if half else raw))
            await writer.drain()
            await asyncio.sleep(self._draw.uniform(0.2, 1.0))
        if writer is not None:
            writer.transport.abort()
        self.ended["stalled"] += 1

    def _refused(self, kind: str) -> None:
        """No connection: only after the worker was told to end."""
        self.ended[f"{kind}: not connected"] += 1
        if not self._over:
            self.wrong.append(f"{kind}: the connection was lost")

    def _judge(self, kind: str, status: int, text: str, *, streamed: bool) -> None:
        events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
        last: Any = events[-1] if streamed and status == 200 and events else json.loads(text or "null")
        if status == 200 and (_is_reply(last) or "data: [DONE]" in text):
            self.ended[kind] += 1
        elif isinstance(last, dict) and (code := _code(last)):
            self.ended[f"{kind}: {code}"] += 1
        else:
            self.wrong.append(f"{kind}: {status} {text[-500:]}")


def _is_reply(last: Any) -> bool:
    return isinstance(last, dict) and (last.get("success") is True or "choices" in last)


def _code(last: dict[str, Any]) -> str | None:
    error = last.get("error")
    code = error.get("code") if isinstance(error, dict) else last.get("code")
    return code if isinstance(code, str) else None
