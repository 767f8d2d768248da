"""docs/edge.mjs, the client that callers copy: run by Node against a worker on the loopback platform."""

import asyncio
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runpod_local import Platform

ROOT = Path(__file__).parents[1]
EDGE = ROOT / "docs" / "edge.mjs"
ECHO, HANDLER = ([sys.executable, "-u", "-m", module] for module in ("tests.support.echo", "handler"))

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")

#: prints the values that one call returns or yields, a line of JSON each
SCRIPT = """
const [file, how, url, input, within_ms] = process.argv.slice(1);
const edge = await import(file);
const print = (value) => console.log(JSON.stringify(value));
try {
  const made = edge[how]({ url, key: "k" }, JSON.parse(input), Number(within_ms));
  if (how === "ask") print(await made);
  else for await (const piece of made) print(piece);
} catch (error) {
  if (!(error instanceof edge.JobError)) throw error;
  print({ code: error.code, message: error.message, retryable: error.retryable, field: error.field });
}
"""


async def node(how: str, platform: Platform, given: dict[str, Any], within_ms: int = 30_000) -> list[dict[str, Any]]:
    return await run(SCRIPT, str(EDGE), how, platform.url, json.dumps(given), str(within_ms))


async def run(script: str, *arguments: str) -> list[Any]:
    process = await asyncio.create_subprocess_exec(
        *("node", "--input-type=module", "-e", script, "--", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return [json.loads(line) for line in out.decode().splitlines()]


@asynccontextmanager
async def serving(command: list[str], **env: str) -> AsyncIterator[Platform]:
    env = {"PYTHONPATH": str(ROOT), **env}
    async with Platform(hold_s=5) as platform, platform.worker(command, env=env) as worker:
        await worker.ready()
        yield platform


def readme_example(url: str) -> str:
    """The README's example with its placeholders filled in; it prints its two answers."""
    code: str
    (code,) = re.findall(r"```js\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    filled = {
        '"./edge.mjs"': json.dumps(str(EDGE)),
        "`https://api.runpod.ai/v2/${ENDPOINT_ID}`": json.dumps(url),
        "RUNPOD_API_KEY": '"k"',
        "messages,": 'messages: [{ role: "user", content: "Who are you?" }], temperature: 0,',
        "  // text as it comes": "  if (reply) console.log(JSON.stringify(reply.response)); //",
    }
    for mark, value in filled.items():
        assert mark in code
        code = code.replace(mark, value)
    return code.replace("for await", "console.log(JSON.stringify(response));\nfor await")


def test_it_asks_and_streams_and_reads_the_workers_errors() -> None:
    chat = {"operation": "chat", "message": "Who are you?", "temperature": 0, "seed": 7}

    async def scenario() -> None:
        async with serving(HANDLER, MODEL_PATH="demo") as platform:
            (whole,) = await node("ask", platform, chat)
            *deltas, last = await node("stream", platform, chat)
            assert "".join(piece["delta"] for piece in deltas) == whole["response"] == last["reply"]["response"]
            assert len(deltas) > 1
            assert await run(readme_example(platform.url)) == [whole["response"], whole["response"]]
            for how in ("ask", "stream"):
                (refused,) = await node(how, platform, {**chat, "temperature": 5})
                assert (refused["code"], refused["field"], refused["retryable"]) == (
                    "invalid_request",
                    "temperature",
                    False,
                )

    asyncio.run(scenario())


def test_it_polls_a_job_that_is_not_done_cancels_one_that_is_too_late_and_throws_runpods_errors() -> None:
    async def scenario() -> None:
        async with serving(ECHO) as platform:
            slow = json.dumps({"id": await platform.run({"say": 1, "sleep": 1}), "status": "IN_PROGRESS"})
            platform.fault("runsync", body=slow, content_type="application/json")
            assert await node("ask", platform, {}) == [{"say": 1, "runs": 1}]
            (late,) = await node("ask", platform, {"sleep": 60}, within_ms=500)
            assert (late["code"], late["retryable"]) == ("too_late", True)
            assert [job.state for job in platform.jobs.values()] == ["COMPLETED", "CANCELLED"]
            (failure,) = await node("ask", platform, {"fail": 1})
            assert (failure["code"], failure["message"]) == ("failed", "as told")
            platform.fault("runsync", status=401)
            (failure,) = await node("ask", platform, {"say": 1})
            assert (failure["code"], failure["retryable"]) == ("http_401", False)

    asyncio.run(scenario())


def test_a_stream_with_chunks_lost_and_doubled_ends_with_the_whole_reply() -> None:
    async def scenario() -> None:
        async with serving(ECHO) as platform:
            doubled, lost = {"status": 502, "after": True, "times": 2}, {"status": 413}
            for fault, there in ((doubled, [0, 1, 2, 3]), (lost, [1, 2, 3])):
                platform.fault("stream", **fault)
                *pieces, last = await node("stream", platform, {"say": 1, "chunks": 4, "pace": 0.1})
                assert [piece["index"] for piece in pieces] == there
                assert last == {"reply": {"say": 1, "runs": 1}}
            (late,) = await node("stream", platform, {"sleep": 60}, within_ms=500)
            assert late["code"] == "too_late"
            assert [job.state for job in platform.jobs.values()] == ["COMPLETED", "COMPLETED", "CANCELLED"]

    asyncio.run(scenario())


def test_a_completed_reply_with_an_error_of_its_own_is_a_reply() -> None:
    job: dict[str, Any] = {"say": 1, "reply": {"success": False, "error": "the queue is full"}}
    reply = {"say": 1, "runs": 1, **job["reply"]}

    async def scenario() -> None:
        async with serving(ECHO) as platform:
            assert await node("ask", platform, job) == [reply]
            assert await node("stream", platform, job) == [{"reply": reply}]

    asyncio.run(scenario())
