"""The worker behind a load-balancing endpoint on loopback."""

import asyncio
import sys
from pathlib import Path

import aiohttp
import pytest

from runpod_local.balancer import AFFINITY, Balancer
from tests.support.facing import clients
from tests.support.http_worker import endless

COMMAND = [sys.executable, "-u", "-m", "handler"]
ENV = {"FACE": "http", "MODEL_PATH": "demo", "BIND_ADDRESS": "127.0.0.1", "MAX_CONCURRENT_REQUESTS": "2"}
LONG = {"prompt": "a", "max_tokens": 1500, "temperature": 2.0, "stream": True}


def test_requests_without_a_worker_wait_and_then_are_answered_with_400() -> None:
    async def scenario() -> None:
        async with Balancer(wait_s=0.05) as balancer, clients(balancer.url) as client:
            answer = await client.post("/chat", {"message": "hi"})
            assert (answer.status, answer.json) == (400, {"error": "no workers available"})
            gone = await client.get("/ping", headers={AFFINITY: "strict lb-worker-9"})
            assert (gone.status, gone.json) == (404, {"error": "affinity_worker_gone"})

    asyncio.run(scenario())


def test_a_request_waits_for_a_cold_worker_and_one_that_drains_gets_no_more() -> None:
    async def scenario() -> None:
        async with Balancer(poll_s=0.05, wait_s=60, limit_s=60) as balancer, clients(balancer.url) as client:  # noqa: SIM117
            async with balancer.worker(COMMAND, env=ENV) as worker:
                assert worker.state == "initialising"
                cold = await client.post("/chat", {"message": "hi"})
                assert (cold.status, cold.headers[AFFINITY.lower()]) == (200, worker.id)
                assert (await client.get("/v1/models")).json["data"][0]["id"] == "demo"
                # The worker's own bound: two requests run, and one waits.
                running = [asyncio.create_task(client.post("/generate", LONG)) for _ in range(3)]
                while (await client.get("/health")).json["active_jobs"] < 3:  # noqa: ASYNC110  another process
                    await asyncio.sleep(0.01)
                full = await client.post("/chat", {"message": "hi"})
                assert (full.status, full.json["code"], full.headers["retry-after"]) == (503, "overloaded", "1")
                for one in running[:2]:
                    one.cancel()
                worker.process.terminate()
                await balancer.until(worker.id, "unhealthy", 10)
                balancer.wait_s = 0.05
                assert (await client.get("/health")).status == 400
                last = (await running[2]).events[-1]
                assert last["success"] is True or last["code"] == "engine_failed"
                assert await worker.process.wait() == 0

    asyncio.run(scenario())


def test_a_request_that_takes_too_long_is_cut(tmp_path: Path) -> None:
    env = {**ENV, "MODEL_PATH": endless(tmp_path)}

    async def scenario() -> None:
        async with Balancer(poll_s=0.05, wait_s=60) as balancer, clients(balancer.url) as client:  # noqa: SIM117
            async with balancer.worker(COMMAND, env=env, own_health_port=False) as worker:
                await balancer.until(worker.id, "healthy")
                balancer.limit_s = 0.2
                with pytest.raises(aiohttp.ClientError):
                    await client.post("/generate", LONG)
                assert (await client.post("/generate", {**LONG, "stream": False})).status == 524

    asyncio.run(scenario())
