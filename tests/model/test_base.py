"""A base checkpoint without a chat template, from its files to its replies."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from handler.api.failure import Failure
from handler.api.reply import to_wire
from handler.job import Jobs
from handler.model.snapshot import DEMO
from handler.report import Report
from handler.settings import Settings
from handler.start import start
from tests.operations.test_fidelity import answer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """The demo model without its chat template."""
    path = tmp_path_factory.mktemp("checkpoint") / "base"
    shutil.copytree(DEMO, path)
    (path / "chat_template.jinja").unlink()
    assert "chat_template" not in json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    worker = start(Settings.from_environment({"MODEL_PATH": str(path)}), Report())
    yield worker.jobs
    worker.engine.close()


def test_a_prompt_is_continued(base: Jobs) -> None:
    reply = answer(base, operation="generate", messages=None, prompt="a red fox", max_tokens=5, temperature=0)
    assert reply["usage"]["completion_tokens"] == 5
    assert reply["text"]


MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"operation": "chat", "messages": MESSAGES}, "messages"),
        ({"operation": "chat", "message": "hi"}, "message"),
        ({"operation": "generate", "messages": MESSAGES}, "messages"),
        ({"operation": "enhance", "messages": MESSAGES}, "messages"),
        ({"operation": "enhance", "prompt": "a fox", "system_prompt": "Rewrite."}, "prompt"),
        ({"operation": "enhance", "prompt": "a fox", "job_type": "sdxl_image_fast"}, "prompt"),
        ({"operation": "chat", "messages": MESSAGES, "dry_run": True}, "messages"),
    ],
)
def test_messages_are_refused_with_the_cure(base: Jobs, request_: dict[str, Any], field: str) -> None:
    failure = asyncio.run(base.answer({"id": "j", "input": request_}))
    assert isinstance(failure, Failure)
    assert (failure.code, failure.field) == ("unsupported", field)
    assert failure.message.endswith("send generate with a prompt, or serve an instruct model")


def test_info_is_answered(base: Jobs) -> None:
    reply = asyncio.run(base.answer({"id": "j", "input": {"operation": "info"}}))
    assert not isinstance(reply, Failure)
    assert to_wire(reply)["success"]
