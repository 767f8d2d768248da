"""Wiring only: settings → weights → engine → job → worker loop. `python -m handler`."""

import argparse
import asyncio
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from handler import __version__, local, worker
from handler.errors import StartError
from handler.report import Report
from handler.settings import Settings, on_runpod

if TYPE_CHECKING:
    from handler.job import Jobs


def main() -> int:
    """Start, then answer one local job or serve RunPod; returns the exit status."""
    arguments = _arguments()
    report = Report()
    try:
        settings = Settings.from_environment(os.environ)
        if arguments.rp_serve_api or (on_runpod(os.environ) and arguments.test_input is None):
            jobs = start(settings, report)
            worker.serve(jobs.stream if settings.streaming else jobs.answer, max_concurrent_requests=1)
            return 0
        job = local.read_job(arguments.test_input, Path("test_input.json"))
        jobs = start(settings, report)
    except StartError as error:
        report.say(f"cannot start: {error}")
        return 1
    if settings.streaming:
        return asyncio.run(local.print_stream(job, jobs.stream))
    return asyncio.run(local.print_answer(job, jobs.answer))


def start(settings: Settings, report: Report) -> "Jobs":
    """Load the model and put the line together.

    Raises:
        StartError: the cause and the cure, in one line.
    """
    with report.phase("imports"):
        from handler.inference import weights
        from handler.info import Info
        from handler.job import Jobs
        from handler.operations import Operations
        from tests.oracle import SerialEngine
    with report.phase("weights"):
        snapshot = weights.find(
            settings.model_path,
            name=settings.model_name,
            revision=settings.model_revision,
            on_runpod=on_runpod(os.environ),
        )
        loaded = weights.load(snapshot)
    with report.phase("engine"):
        engine = SerialEngine(loaded.model, loaded.info, loaded.template.token_bytes)
    facts = {
        "version": __version__,
        "face": "stream" if settings.streaming else "json",
        "python": platform.python_version(),
        **{library: version(library) for library in ("torch", "transformers", "runpod")},
    }
    info = Info(engine, loaded.info, report, facts)
    return Jobs(Operations(engine, loaded.template, loaded.info, info), report, settings.streaming)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m handler", description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--test_input")
    parser.add_argument("--rp_serve_api", action="store_true")
    return parser.parse_known_args()[0]  # the SDK reads the others


if __name__ == "__main__":
    sys.exit(main())
