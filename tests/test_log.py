"""The log: JSON lines alone, of libraries too, with the job's id and without a caller's words."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handler import log

SECRET = "what a user sent"


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def process(script: str) -> list[Any]:
    """The log of a fresh interpreter whose libraries are captured, and which imports the SDK then."""
    start = "from handler import log; log.capture_libraries(); from handler.queue import sdk; sdk.load_sdk()\n"
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", start + script], env=environ, capture_output=True, text=True, check=False
    )
    return lines(done.stderr)


def test_a_line_has_the_jobs_id_of_its_task_a_level_and_facts(capsys: pytest.CaptureFixture[str]) -> None:
    async def job(id_: str) -> None:
        log.current_job.set(id_)
        await asyncio.sleep(0)
        log.info("begins", tokens=3)
        await asyncio.to_thread(log.warn, "in a thread")
        log.error("named", "another")

    async def jobs() -> None:
        await asyncio.gather(job("a"), job("b"))
        log.info("ends")

    asyncio.run(jobs())
    logged = [(line["requestId"], line["message"], line["level"]) for line in lines(capsys.readouterr().err)]
    for id_ in ("a", "b"):
        assert [line for line in logged if line[0] == id_] == [(id_, "begins", "INFO"), (id_, "in a thread", "WARN")]
    assert logged.count(("another", "named", "ERROR")) == 2
    assert logged[-1] == (None, "ends", "INFO")


def test_a_fact_that_is_not_json_does_not_cost_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.info("read", path=Path("/x"))
    assert lines(capsys.readouterr().err)[0]["path"] == "/x"


def test_a_defect_is_its_type_and_its_frames_and_never_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        log.defect(error, "j")
    text = capsys.readouterr().err
    (line,) = lines(text)
    assert (line["requestId"], line["message"], line["level"]) == ("j", "a defect of the worker: ValueError", "ERROR")
    assert "test_log.py" in line["frames"][-1]
    assert SECRET not in text


def test_libraries_log_into_it_in_spite_of_their_own_handlers_and_the_sdk_does_not_undo_that() -> None:
    logged = process(
        "import logging, warnings\n"
        "logger = logging.getLogger('library')\n"
        "logger.addHandler(logging.StreamHandler()); logger.propagate = False\n"
        "logger.setLevel(logging.DEBUG)\n"
        "logger.info('below'); logger.warning('old %s', 'driver'); logger.error('%s broke', 'it')\n"
        "logger.warning('%d', 'not a number')\n"
        "logging.getLogger('library.child').warning('child'); logging.getLogger('runpod').warning('sdk')\n"
        "logging.warning('root')\n"
        "warnings.warn('deprecated')\n"
    )
    assert [(line["message"], line["level"]) for line in logged[:-1]] == [
        ("library: old driver", "WARN"),
        ("library: it broke", "ERROR"),
        ("library: a record without a message (TypeError)", "WARN"),
        ("library.child: child", "WARN"),
        ("runpod: sdk", "WARN"),
        ("root: root", "WARN"),
    ]
    assert logged[-1]["message"].startswith("py.warnings: ")
    assert "deprecated" in logged[-1]["message"]


def test_an_exception_that_a_library_logs_or_that_ends_a_thread_or_the_process_is_logged_by_its_type_alone() -> None:
    logged = process(
        "import asyncio, logging, threading\n"
        "def fail(): raise ValueError('what a user sent')\n"
        "try: fail()\n"
        "except ValueError: logging.getLogger('library').exception('it was %s', 'what a user sent')\n"
        "async def main(): asyncio.create_task(asyncio.to_thread(fail)); await asyncio.sleep(0.1)\n"
        "asyncio.run(main())\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
        "fail()\n"
    )
    messages = [line["message"] for line in logged]
    defect = "a defect of the worker: ValueError"
    assert messages == ["library: ValueError", "asyncio: ValueError", defect, defect]
    assert SECRET not in json.dumps(logged)
