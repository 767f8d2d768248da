"""What was sent is what is applied, and what was answered can be had again: down to the sampler, up to RunPod."""

import asyncio
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from handler.api.reply import Reply, to_wire
from handler.engine.sampling import Distribution, Sampling
from handler.inference.sampler import Sampler
from handler.job import Jobs
from handler.model.snapshot import DEMO
from handler.report import Report
from handler.settings import Settings
from handler.start import start
from runpod_local import Platform

Json = dict[str, Any]
HI: Json = {"messages": [{"role": "user", "content": "a red fox in the snow"}]}
every_operation = pytest.mark.parametrize("operation", ["chat", "generate", "enhance"])

#: the values of generation_config.json that have a field of ours: what `sampling_defaults: "model"` means
THEIRS: Json = {"temperature": 1.9, "top_p": 0.31, "top_k": 3, "min_p": 0.2, "repetition_penalty": 1.7}
#: all else by which a checkpoint can bend what `generate` draws, or how long it goes on
FORCE: Json = {
    "do_sample": True, "typical_p": 0.2, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1, "presence_penalty": 1.5,
    "frequency_penalty": 1.5, "no_repeat_ngram_size": 1, "encoder_repetition_penalty": 1.5,
    "bad_words_ids": [[1], [2], [3]], "suppress_tokens": [*range(4, 200)], "begin_suppress_tokens": [*range(200, 400)],
    "forced_bos_token_id": 500, "forced_eos_token_id": 501, "sequence_bias": [[[7], 9.0]], "min_length": 300,
    "min_new_tokens": 300, "max_length": 3, "max_new_tokens": 3, "exponential_decay_length_penalty": [1, 2.0],
    "guidance_scale": 3.0, "renormalize_logits": True, "stop_strings": ["a", "e"], "seed": 5, "max_time": 0.001,
}  # fmt: skip
SENT: Json = {
    "max_tokens": 30, "temperature": 1.25, "top_p": 0.875, "top_k": 50, "min_p": 0.03125, "repetition_penalty": 1.125,
    "presence_penalty": 0.5, "frequency_penalty": 0.25, "seed": 2**63 + 2**62 + 1, "stop": ["never said"],
    "stop_token_ids": [3],
}  # fmt: skip
#: the values that the worker draws by where nothing was sent
WORKERS: Json = {
    "temperature": 0.7, "top_k": 0, "top_p": 0.9, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}  # fmt: skip
#: columns of the sampler's rows; the last is whether a token is drawn at all
COLUMNS = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip


def serve(path: Path | str) -> Iterator[Jobs]:
    worker = start(Settings.from_environment({"MODEL_PATH": str(path)}), Report())
    yield worker.jobs
    worker.engine.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[Jobs]:
    yield from serve(DEMO)


@pytest.fixture(scope="module")
def bent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """The demo model, with a generation_config that tries to set all there is."""
    path = tmp_path_factory.mktemp("checkpoint") / "bent"
    shutil.copytree(DEMO, path)
    file = path / "generation_config.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**told, **FORCE, **THEIRS}), encoding="utf-8")
    yield from serve(path)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[Json]:
    """What the sampler's rows held, for each request in turn."""
    seen: list[Json] = []
    assign = Sampler.assign

    def spy(sampler: Sampler, row: int, sampling: Sampling, *ids: Sequence[int]) -> None:
        assign(sampler, row, sampling, *ids)
        *options, drawn = sampler._options[row].tolist()
        assert drawn
        seen.append({**dict(zip(COLUMNS, options, strict=True)), "seed": int(sampler._seeds[row]) % 2**64})

    monkeypatch.setattr(Sampler, "assign", spy)
    return seen


def answer(jobs: Jobs, **request: Any) -> Json:
    reply = asyncio.run(jobs.answer({"id": "j", "input": {**HI, **request}}))
    assert isinstance(reply, Reply), reply
    return to_wire(reply)


def text_of(reply: Json) -> str:
    return str(reply.get("response", reply.get("text", reply.get("enhanced_prompt"))))


# -- nothing of the checkpoint's ---------------------------------------------------------------------------------------


@every_operation
def test_what_was_sent_reaches_the_samplers_row_and_nothing_of_the_generation_config_does(
    operation: str, bent: Jobs, rows: list[Json]
) -> None:
    reply = answer(bent, operation=operation, **SENT)
    assert rows == [{name: SENT[name] for name in (*COLUMNS, "seed")}]
    assert reply["sampling"] == SENT


@every_operation
def test_what_was_not_sent_is_the_workers_default_whatever_the_generation_config_says(
    operation: str, bent: Jobs, rows: list[Json]
) -> None:
    reply = answer(bent, operation=operation, seed=1)
    expected = {**{name: WORKERS[name] for name in COLUMNS}, "seed": 1}
    assert rows == [pytest.approx(expected, abs=1e-7)]
    limit = 200 if operation == "enhance" else 512
    assert reply["sampling"] == {**expected, "max_tokens": limit, "stop": []}


@every_operation
def test_the_models_own_defaults_are_applied_and_shown_where_they_were_asked_for(
    operation: str, bent: Jobs, rows: list[Json]
) -> None:
    reply = answer(bent, operation=operation, sampling_defaults="model", seed=1, max_tokens=5)
    expected = {**dict(Distribution()), **THEIRS, "seed": 1}
    assert rows == [pytest.approx(expected, abs=1e-7)]
    assert reply["sampling"] == {**expected, "max_tokens": 5, "stop": []}
    answer(bent, operation=operation, sampling_defaults="model", **SENT)
    assert rows[1] == {name: SENT[name] for name in (*COLUMNS, "seed")}


@every_operation
@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 3}, SENT], ids=["greedy", "default", "everything"])
def test_a_bent_checkpoint_says_what_a_plain_one_says(operation: str, options: Json, bent: Jobs, plain: Jobs) -> None:
    one, other = (answer(jobs, operation=operation, **{"seed": 1, **options}) for jobs in (bent, plain))
    assert text_of(one) == text_of(other) != ""
    for told in ("finish_reason", "sampling", "prompt_sha256", "system_prompt_used"):
        assert one.get(told) == other.get(told)


# -- again, through RunPod ---------------------------------------------------------------------------------------------

COMMAND = [sys.executable, "-u", "-m", "handler"]
#: parts of a reply that tell of this run, not of the request; log-probabilities do in their last digits
OF_THE_RUN = ("message_id", "timing", "processing_time", "generation_time", "created_at", "cached_tokens", "logprob")
ASKED: list[Json] = [
    {"operation": "chat", "message": "a red fox", "system_prompt": "Be odd.", "logprobs": True},
    {"operation": "generate", "prompt": "a fox and", "min_p": 0.001},
    {"operation": "enhance", "prompt": "a red fox", "system_prompt": "Rewrite for SDXL.", "top_k": 400},
]
#: the demo model is so sure of what it was taught that it says it with any seed; these make it look for other words
DOUBT: Json = {"repetition_penalty": 3.0, "presence_penalty": 2.0, "frequency_penalty": 2.0}


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in float32, where what is computed beside a request, and before it, changes none of its tokens."""
    path = tmp_path_factory.mktemp("checkpoint") / "exact"
    shutil.copytree(DEMO, path)
    AutoModelForCausalLM.from_pretrained(DEMO, local_files_only=True, dtype=torch.float32).save_pretrained(path)
    return path


def lasting(reply: Json) -> bytes:
    """A reply without what tells of its run, as bytes."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: strip(inner) for name, inner in value.items() if name not in OF_THE_RUN}
        return [strip(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(strip(reply), ensure_ascii=False).encode()


@pytest.mark.parametrize("streaming", [False, True], ids=["object", "stream"])
def test_a_request_and_its_seed_get_the_same_bytes_and_without_a_seed_never(exact: Path, streaming: bool) -> None:
    async def scenario() -> None:
        environ = {"MODEL_PATH": str(exact)}
        async with Platform() as platform, platform.worker(COMMAND, env=environ) as worker:
            await worker.ready()

            async def ask(request: Json, **more: Any) -> Json:
                wish = {**DOUBT, "temperature": 1, "max_tokens": 30, "stream": streaming, **request, **more}
                job = await platform.wait(await platform.run(wish))
                assert job["status"] == "COMPLETED", job
                if not streaming:
                    return dict(job["output"])
                *chunks, reply = job["output"]
                assert "".join(chunk["delta"] for chunk in chunks) == text_of(reply)
                return dict(reply)

            for request in ASKED:
                first, again = await ask(request, seed=7), await ask(request, seed=7)
                assert lasting(first) == lasting(again)

                others = await asyncio.gather(*(ask(request, seed=seed) for seed in range(12)))
                assert len({text_of(reply) for reply in others}) == 12
                assert lasting(others[7]) == lasting(first)

                unseeded = await asyncio.gather(*(ask(request) for _ in range(6)))
                assert len({text_of(reply) for reply in unseeded}) == 6
                assert len({reply["sampling"]["seed"] for reply in unseeded}) == 6
                echoed = await asyncio.gather(*(ask({**request, **reply["sampling"]}) for reply in unseeded))
                assert [*map(lasting, echoed)] == [*map(lasting, unseeded)]

    asyncio.run(scenario())
