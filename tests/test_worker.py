"""The real worker process, through the real SDK, against a control plane on loopback that speaks RunPod's wire."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from handler.model.snapshot import DEMO
from runpod_local import Platform, Worker

COMMAND = [sys.executable, "-u", "-m", "handler"]
HI: dict[str, Any] = {"operation": "chat", "messages": [{"role": "user", "content": "hi"}]}
SECRET = "what-a-user-sent"
#: for a model that never ends by itself: long enough to be caught in the middle
LONG = {"operation": "generate", "prompt": "a", "max_tokens": 2000, "temperature": 2.0}


def environment(**more: str) -> dict[str, str]:
    return {"MODEL_PATH": "demo", "MAX_CONCURRENT_REQUESTS": "64", **more}


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """The demo model, with no token that ends an answer."""
    path = tmp_path / "endless"
    shutil.copytree(DEMO, path)
    for name in ("config.json", "generation_config.json"):
        config = json.loads((path / name).read_text(encoding="utf-8"))
        (path / name).write_text(json.dumps({**config, "eos_token_id": None}), encoding="utf-8")
    return path


def requests(count: int) -> list[dict[str, Any]]:
    """The four operations, mixed."""
    kinds: list[dict[str, Any]] = [
        {**HI, "max_tokens": 20},
        {"operation": "generate", "prompt": "a fox", "max_tokens": 10, "seed": 1},
        {"operation": "enhance", "prompt": "a red fox", "system_prompt": "Rewrite for SDXL.", "max_tokens": 40},
        {"operation": "info"},
    ]
    return [kinds[index % 4] for index in range(count)]


def test_sixty_four_jobs_of_all_operations_at_once_are_all_answered_on_the_json_face() -> None:
    async def scenario() -> None:
        async with Platform() as platform, platform.worker(COMMAND, env=environment()) as worker:
            await worker.ready()
            ids = [await platform.run(request) for request in requests(64)]
            done = [await platform.wait(id_) for id_ in ids]
            assert [job["status"] for job in done] == ["COMPLETED"] * 64
            assert all(job["output"]["success"] is True for job in done)
            assert [set(job["output"]) >= {"response"} for job in done] == [True, False, False, False] * 16
            rated = {"operation": "generate", "prompt": "a", "score_text": " red fox"}
            scores = [await platform.runsync({**rated, **more}) for more in ({}, {"logprobs": True}, {"seed": 1})]
            assert [job["status"] for job in scores] == ["COMPLETED", "COMPLETED", "FAILED"]
            plain, listed = (job["output"] for job in scores[:2])
            assert plain["score"] == listed["score"]
            assert "logprobs" not in plain
            assert sum(one["logprob"] for one in listed["logprobs"]) == pytest.approx(plain["score"]["sum"], abs=1e-4)
            assert json.loads(scores[2]["error"])["field"] == "seed"
            bad = await platform.runsync({**HI, "top_p": 5, "stream": True})
            assert bad["status"] == "FAILED"
            assert json.loads(bad["error"])["field"] == "top_p"
            check_log_line(worker, done[0], "chat")
            assert logged(worker, bad["id"])["outcome"] == "invalid_request"
            assert (await platform.runsync({"operation": "info"}))["status"] == "COMPLETED"
            assert (await platform.runsync({**HI, "messages": [{"role": "user", "content": SECRET}]}))["output"][
                "success"
            ]
            assert SECRET not in worker.log

    asyncio.run(scenario())


def test_the_ledger_of_the_start_is_one_line_in_the_log_and_a_section_of_info() -> None:
    async def scenario() -> None:
        async with Platform() as platform, platform.worker(COMMAND, env=environment()) as worker:
            await worker.ready()
            await platform.runsync({**HI, "max_tokens": 5})
            startup = (await platform.runsync({"operation": "info", "sections": ["startup"]}))["output"]["startup"]
            lines = [json.loads(line) for line in worker.log.splitlines() if line.startswith("{")]
            (started,) = (line["startup"] for line in lines if "startup" in line)
            (first,) = (line["first_job"] for line in lines if "first_job" in line)
            phases = ["interpreter", "find", "imports", "device", "weights", "packs", "engine", "warm-up", "sdk"]
            assert list(started["phases_s"]) == phases
            assert sum(started["phases_s"].values()) <= started["ready_s"] + 0.01 * len(phases)
            assert started["weights"]["bytes"] > 5_000_000
            assert startup == {**started, "first_job": first}
            assert startup["ready_s"] <= first["done_s"]

    asyncio.run(scenario())


def test_jobs_that_are_streamed_send_indexed_chunks_that_fold_to_the_whole() -> None:
    async def scenario() -> None:
        async with Platform() as platform, platform.worker(COMMAND, env=environment()) as worker:
            await worker.ready()
            ids = [
                await platform.run({**request, "stream": True})
                for request in requests(64)
                if request["operation"] != "info"
            ]
            streams = await asyncio.gather(*(fold(platform, id_) for id_ in ids))
            for deltas, reply in streams:
                text = reply.get("response", reply.get("text", reply.get("enhanced_prompt", "")))
                assert [chunk["index"] for chunk in deltas] == list(range(len(deltas)))
                assert "".join(chunk["delta"] for chunk in deltas) == text
            assert sum(len(deltas) for deltas, _ in streams) > 64
            whole = await platform.wait(ids[0])
            assert whole["output"][-1] == streams[0][1]
            check_log_line(worker, whole, "chat")

            secret = await platform.run({**HI, "messages": [{"role": "user", "content": SECRET}], "stream": True})
            assert (await fold(platform, secret))[1]["success"]
            assert SECRET not in worker.log

            failed = await platform.run({**HI, "top_p": 5, "stream": True})
            *_, last_chunk = [chunk async for chunk in platform.chunks(failed)]
            assert last_chunk["failure"]["field"] == "top_p"
            assert json.loads((await platform.wait(failed))["error"])["field"] == "top_p"
            assert logged(worker, failed)["outcome"] == "invalid_request"

    asyncio.run(scenario())


def test_several_answers_stream_side_by_side_and_fold_to_their_variants() -> None:
    """With a bias and 20 alternatives; each answer alone is the same."""

    async def scenario() -> None:
        wish = {**LONG, "max_tokens": 12, "logprobs": True, "top_logprobs": 20, "seed": 5, "logit_bias": {"7": -100}}
        async with Platform() as platform, platform.worker(COMMAND, env=environment(STREAMING="true")) as worker:
            await worker.ready()
            deltas, reply = await fold(platform, await platform.run({**wish, "n": 8, "stream": True}))
            assert [chunk["index"] for chunk in deltas] == list(range(len(deltas)))
            for place, variant in enumerate(reply["variants"]):
                own = [chunk["delta"] for chunk in deltas if chunk["variant"] == place]
                assert "".join(own) == variant["text"]
                assert variant["seed"] == 5 + place
                assert {len(drawn["top"]) for drawn in variant["logprobs"]} == {20}
                assert 7 not in {drawn["token_id"] for drawn in variant["logprobs"]}
            order = [chunk["variant"] for chunk in deltas]
            assert order != sorted(order)
            assert reply["text"] == reply["variants"][0]["text"]
            assert reply["sampling"]["logit_bias"] == {"7": -100}
            alone = last(await platform.runsync({**wish, "seed": 8}))
            assert (alone["text"], "variants" in alone) == (reply["variants"][3]["text"], False)
            assert reply["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
            refused = await platform.runsync({**wish, "logit_bias": {"7": -100, "999999": 1}})
            assert json.loads(refused["error"])["field"] == "logit_bias.999999"

    asyncio.run(scenario())


def logged(worker: Worker, id_: str) -> dict[str, str]:
    """The figures in the one log line of a job, by name."""
    lines = [json.loads(line) for line in worker.log.splitlines() if line.startswith('{"requestId": ')]
    (message,) = [line["message"] for line in lines if line["requestId"] == id_ and "outcome=" in line["message"]]
    return dict(fact.split("=", 1) for fact in message.split(" "))


def check_log_line(worker: Worker, job: dict[str, Any], operation: str) -> None:
    figures, reply = logged(worker, job["id"]), last(job)
    assert (figures.pop("operation"), figures.pop("outcome")) == (operation, "ok")
    assert figures.pop("finish_reason") == reply["finish_reason"]
    assert float(figures.pop("total_ms")) >= reply["timing"]["total_ms"]
    wanted = {name: reply["timing"][name] for name in ("queue_ms", "ttft_ms")}
    wanted |= {name: reply["usage"][name] for name in ("prompt_tokens", "completion_tokens")}
    assert {name: float(value) for name, value in figures.items()} == wanted


async def fold(platform: Platform, id_: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    chunks = [chunk async for chunk in platform.chunks(id_)]
    return chunks[:-1], chunks[-1]


@pytest.mark.parametrize("streaming", [False, True], ids=["object", "stream"])
def test_a_cancelled_job_stops_in_the_engine_and_a_deadline_returns_what_there_is(
    streaming: bool, endless: Path
) -> None:
    env = environment(MODEL_PATH=str(endless))

    async def scenario() -> None:
        async with Platform() as platform, platform.worker(COMMAND, env=env) as worker:
            await worker.ready()
            cancelled = await platform.run({**LONG, "stream": streaming})
            await until_running(platform, 1)
            await platform.cancel(cancelled)
            await until_running(platform, 0)
            assert (await platform.wait(cancelled))["status"] == "CANCELLED"
            assert platform.calls("done", job=cancelled) == []

            late = last(await platform.runsync({**LONG, "deadline_ms": 500}))
            assert late["finish_reason"] == "deadline"
            assert 0 < late["usage"]["completion_tokens"] < 2000
            assert late["processing_time"] < 2

    asyncio.run(scenario())


async def until_running(platform: Platform, count: int) -> None:
    async with asyncio.timeout(20):
        while True:
            health = last(await platform.runsync({"operation": "info", "sections": ["health"]}))["health"]
            if health["active_jobs"] == count:
                return


def last(job: dict[str, Any]) -> dict[str, Any]:
    """The reply: where the job was streamed the output is a list that ends with it."""
    output = job["output"]
    reply: dict[str, Any] = output[-1] if isinstance(output, list) else output
    return reply
