"""The real worker over HTTP: its start, a crowd of clients of every kind, and its end."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.support.churn import Churn
from tests.support.facing import clients
from tests.support.http_worker import HttpWorker, endless, http_worker

#: two minutes by `make hostile-http`
CHURN_S = float(os.environ.get("CHURN_S", "8"))
AT_ONCE = 64
LONG = {"prompt": "a", "max_tokens": 2000, "temperature": 2.0}


def test_the_port_answers_before_the_model_is_loaded_on_both_ports() -> None:
    async def scenario() -> None:
        with_health = {"PORT_HEALTH": str(_free_port()), "HEALTH_CHECK_PATH": "/alive"}
        async with http_worker(wait=False, **with_health) as worker:
            _, health_url = await worker.addresses()
            async with clients(health_url) as health:
                assert health.url.endswith(with_health["PORT_HEALTH"])
                assert (await health.get("/alive")).status == 204
                assert (await worker.client.get("/ping")).status == 204
                assert (await worker.health())["status"] == "loading"
                early = await worker.client.post("/chat", {"message": "hi"})
                assert (early.status, early.headers["retry-after"]) == (503, "5")
                await worker.ready()
                assert (await health.get("/alive")).status == 200
            assert (await worker.client.post("/chat", {"message": "hi"})).json["response"]
            assert await worker.stop() == 0

    asyncio.run(scenario())


def test_a_port_that_is_taken_and_a_model_that_is_not_there_end_the_start_with_one_line() -> None:
    async def scenario() -> None:
        async with http_worker(wait=False) as worker:
            port = worker.client.url.rpartition(":")[2]
            with pytest.raises(RuntimeError, match=f"PORT={port} cannot be bound"):
                async with http_worker(PORT=port):
                    pass
        with pytest.raises(RuntimeError, match="cannot start"):
            async with http_worker(MODEL_PATH="/nowhere") as gone:
                await gone.ready()

    asyncio.run(scenario())


def test_a_crowd_that_comes_streams_stalls_and_vanishes_loses_nothing_and_sigterm_answers_every_one() -> None:
    async def scenario(worker: HttpWorker) -> None:
        await Churn(worker.client, seed=1).run(AT_ONCE, 4)  # the threads have begun, and the caches are filled
        before = worker.rss()
        churn = Churn(worker.client, seed=2)
        await churn.run(AT_ONCE, CHURN_S)
        assert not churn.wrong
        for kind in ("whole", "streamed", "vanished", "stalled"):
            assert churn.ended[kind] > AT_ONCE / 4, churn.ended
        health = await worker.at_rest()
        assert health["engine"]["pages_used"] == 0
        assert "qwen_worker_http_requests 0\n" in (await worker.client.get("/metrics")).text
        growth = worker.rss() - before
        print(dict(churn.ended), f"grew by {growth / 1e6:.0f} MB")  # noqa: T201
        assert growth < 60e6

        ending = Churn(worker.client, seed=3)
        running = asyncio.create_task(ending.run(AT_ONCE, 60))
        await asyncio.sleep(1.5)
        ending.end()
        status = await worker.stop()
        await running
        print(dict(ending.ended))  # noqa: T201
        assert status == 0
        assert not ending.wrong
        assert "a defect of the worker" not in worker.log

    async def served() -> None:
        async with http_worker(SHUTDOWN_GRACE_S="5", KV_CACHE_GB="0.03") as worker:  # full soon
            await scenario(worker)

    asyncio.run(served())


def test_sigterm_turns_the_ping_at_once_and_cuts_off_what_outlasts_the_grace_period(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with http_worker(MODEL_PATH=endless(tmp_path), SHUTDOWN_GRACE_S="1.0") as worker:
            whole = asyncio.create_task(worker.client.post("/generate", LONG))
            streamed = asyncio.create_task(worker.client.post("/generate", {**LONG, "stream": True}))
            while (await worker.health())["active_jobs"] < 2:  # noqa: ASYNC110  another process
                await asyncio.sleep(0.01)
            stopped = asyncio.create_task(worker.stop())
            while (await worker.client.get("/ping")).status == 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            late = await worker.client.post("/chat", {"message": "hi"})
            assert (late.status, late.json["code"]) == (503, "overloaded")
            assert ((await whole).status, (await whole).json["code"]) == (503, "engine_failed")
            assert (await streamed).status == 200
            assert (await streamed).events[-1]["code"] == "engine_failed"
            assert await stopped == 0

    asyncio.run(scenario())


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
