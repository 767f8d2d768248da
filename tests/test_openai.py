"""OpenAI's own client against the worker on the loopback RunPod, with the demo model. `make clients` installs it."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from runpod_local import Platform
from tests.support.openai_bodies import HI

ROOT = Path(__file__).parents[1]
#: a Python with `openai`, in an environment of its own: its dependencies are not the worker's
PYTHON = ROOT / ".clients" / "openai" / "bin" / "python"
WORKER = [sys.executable, "-u", "-m", "handler"]
ENV = {"PYTHONPATH": str(ROOT), "MODEL_PATH": "demo", "RUNPOD_PING_INTERVAL": "1000"}


@pytest.mark.skipif(not PYTHON.exists(), reason="OpenAI's client is not installed; `make clients` does it")
def test_openais_client_reads_replies_that_are_strictly_valid() -> None:
    async def scenario() -> dict[str, Any]:
        async with Platform() as platform, platform.worker(WORKER, env=ENV) as worker:
            await worker.ready(120)
            process = await asyncio.create_subprocess_exec(
                *(PYTHON, ROOT / "tests" / "support" / "openai_client.py", f"{platform.url}/openai/v1"),
                stdout=asyncio.subprocess.PIPE,
            )
            printed, _ = await asyncio.wait_for(process.communicate(), 200)
            assert process.returncode == 0
            return dict(json.loads(printed))

    seen = asyncio.run(scenario())
    assert seen["plain"].startswith("I am Demo")
    assert seen["logprobs"] == [["I", " am", " D", "e", "mo"], "length"]
    text, tokens = seen["stream"]
    assert (text, tokens > 20) == (seen["plain"], True)
    assert seen["completion"] == "length"
    assert seen["models"] == ["demo"]
    # RunPod makes a 500 of each job that failed before its first chunk.
    for scene in ("refused", "wrong_model"):
        assert seen[scene][:2] == ["InternalServerError", 500]
    kind, _, code, param, _ = seen["refused_stream"]
    assert (kind, code, param) == ("APIError", "model_not_found", "model")


def test_calls_of_openais_api_are_answered_in_its_shape_beside_native_jobs() -> None:
    async def scenario() -> None:
        async with Platform() as platform, platform.worker(WORKER, env=ENV) as worker:
            await worker.ready(120)
            url = f"{platform.url}/openai/v1"
            asked = {"messages": HI, "temperature": 0, "user": "u"}
            native = {"operation": "chat", "messages": HI, "temperature": 0}
            async with aiohttp.ClientSession() as client:

                async def post(**fields: Any) -> tuple[int, str, str]:
                    async with client.post(f"{url}/chat/completions", json={**asked, **fields}) as response:
                        return response.status, response.content_type, await response.text()

                (status, kind, plain), (_, stream_kind, stream), job = await asyncio.gather(
                    post(), post(stream=True), platform.runsync(native)
                )
                reply = json.loads(plain)
                assert (status, kind, stream_kind) == (200, "application/json", "text/event-stream")
                text = reply["choices"][0]["message"]["content"]
                assert text == job["output"]["response"]
                assert reply["worker"]["prompt_sha256"] == job["output"]["prompt_sha256"]
                assert reply["worker"]["ignored"] == ["user"]
                *events, done = [line for line in stream.split("\n\n") if line]
                chunks = [json.loads(event.removeprefix("data: ")) for event in events]
                assert done == "data: [DONE]"
                assert "".join(one["choices"][0]["delta"].get("content", "") for one in chunks) == text

                neutral = {"n": 1, "logit_bias": {}, "tools": [], "response_format": {"type": "text"}, "stop": None}
                assert (
                    json.loads((await post(**neutral))[2])["worker"]["prompt_sha256"] == job["output"]["prompt_sha256"]
                )
                status, _, body = await post(temprature=1)
                error = json.loads(json.loads(body)["error"])["error"]
                assert (status, error["param"], error["type"]) == (500, "temprature", "invalid_request_error")
                async with client.get(f"{url}/models") as response:
                    models = await response.json()
                    assert [model["id"] for model in models["data"]] == ["demo"]
            assert "outcome=invalid_request" in worker.log

    asyncio.run(scenario())
