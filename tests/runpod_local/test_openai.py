"""`/openai/*` of the loopback RunPod, with a worker of the stock SDK that streams, as RunPod's own workers do."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from runpod_local import Platform

WORKER = """
import asyncio
import runpod

async def stream(job):
    route, body = job["input"]["openai_route"], job["input"].get("openai_input", "missing")
    if isinstance(body, dict) and "raise" in body:
        raise ValueError(body["raise"])
    if isinstance(body, dict) and body.get("stream"):
        for index in range(3):
            yield f"data: {index}\\n\\n"
            await asyncio.sleep(0.05)
        if "late" in body:
            raise ValueError(body["late"])
        yield "data: [DONE]\\n\\n"
    else:
        yield {"route": route, "body": body}

runpod.serverless.start({"handler": stream, "return_aggregate_stream": True})
"""


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[Platform, aiohttp.ClientSession]]:
    script = path / "worker.py"
    script.write_text(WORKER)
    async with (
        Platform(hold_s=1.0) as platform,
        aiohttp.ClientSession() as client,
        platform.worker([sys.executable, "-u", str(script)], grace_s=0.2) as worker,
    ):
        await worker.ready()
        yield platform, client


def test_a_call_is_a_job_and_what_its_worker_posts_is_the_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (platform, client):
            url = f"{platform.url}/openai/v1/chat/completions"

            async def post(**body: Any) -> tuple[int, str, str]:
                async with client.post(url, json=body, headers={"Authorization": "Bearer x"}) as response:
                    return response.status, response.content_type, await response.text()

            status, kind, text = await post(a=1)
            assert (status, kind) == (200, "application/json")
            assert text == '{"route": "/v1/chat/completions", "body": {"a": 1}}'
            streamed = "data: 0\n\ndata: 1\n\ndata: 2\n\n"
            assert await post(stream=True) == (200, "text/event-stream", f"{streamed}data: [DONE]\n\n")
            assert await post(stream=True, late="x") == (200, "text/event-stream", streamed)
            assert (await post(**{"raise": "x"}))[0] == 500
            async with client.get(f"{platform.url}/openai/v1/models") as response:
                assert await response.json() == {"route": "/v1/models", "body": "missing"}
            async with client.post(url, data="{") as response:
                assert response.status == 400
            platform.fault("openai", status=503)
            assert (await post(a=1))[0] == 503
            assert platform.counts["openai"] == 7

    asyncio.run(scenario())
