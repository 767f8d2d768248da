"""Hostile bodies: the worker lives, and every error has the shape that its callers parse."""

import asyncio
import os
from collections import Counter

from handler.web.bodies import MAX_BODY
from handler.web.failures import STATUS
from tests.support.facing import Answer
from tests.support.hostile_bodies import bodies
from tests.support.http_worker import HttpWorker, http_worker

#: two thousand by `make hostile-http`
COUNT = int(os.environ.get("HOSTILE_BODIES", "300"))
AT_ONCE = 8


def check(path: str, answer: Answer) -> None:
    """The answer is a reply, or an error of the right shape, and no defect of the worker's."""
    if answer.status == 200:
        assert answer.text
        return
    body = answer.json
    if path.startswith("/v1/"):
        error = body["error"]
        assert error["type"] == ("invalid_request_error" if answer.status < 500 else "server_error")
        assert {*error} >= {"message", "type", "param", "code"}
    else:
        assert body["success"] is False
        error = {"message": body["error"], "code": body["code"]}
        assert isinstance(body["retryable"], bool)
    assert error["message"]
    assert isinstance(error["message"], str)
    assert STATUS[error["code"]] == answer.status
    assert answer.status != 500, answer.text


def test_the_worker_lives_and_every_error_is_in_shape() -> None:
    async def scenario(worker: HttpWorker) -> None:
        statuses: Counter[int] = Counter()
        waiting = iter([*bodies(COUNT, seed=19)])

        async def send() -> None:
            for path, body, headers in waiting:
                answer = await worker.client.post(path, body, headers=headers)
                statuses[answer.status] += 1
                try:
                    check(path, answer)
                except Exception as error:
                    error.add_note(f"{path} {body[:300]!r}: {answer.status} {answer.text[:500]}")
                    raise

        await asyncio.gather(*(send() for _ in range(AT_ONCE)))
        assert statuses[200] >= COUNT / 20
        assert statuses[400] >= COUNT / 3
        large = b'{"message":"' + b"a" * (MAX_BODY - 14) + b'"}'
        answer = await worker.client.post("/chat", large)
        assert (len(large), answer.status, answer.json["code"]) == (MAX_BODY, 400, "context_length_exceeded")
        for path in ("/chat", "/v1/chat/completions"):
            answer = await worker.client.post(path, large + b" ")
            assert answer.status == 413
            check(path, answer)
        health = await worker.at_rest()
        assert health["status"] == "healthy"
        assert health["engine"]["pages_used"] == 0
        assert "a defect of the worker" not in worker.log
        assert await worker.stop() == 0
        print(dict(statuses))  # noqa: T201

    async def served() -> None:
        async with http_worker() as worker:
            await scenario(worker)

    asyncio.run(served())
