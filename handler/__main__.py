"""Wiring only: settings → weights → engine → job → worker loop. `python -m handler`."""

import argparse
import asyncio
import os
import platform
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from handler import __version__, local, worker
from handler.errors import StartError
from handler.report import Report
from handler.settings import Settings, on_runpod
from handler.watchdog import Watchdog

if TYPE_CHECKING:
    from handler.enhancement.rewrite import Answer, Bad
    from handler.inference.loop import BatchingEngine
    from handler.inference.sizing import EngineConfig
    from handler.job import Jobs

#: the packs that come with the code
PACKS = Path(__file__).parents[1] / "packs"


def main() -> int:
    """Start, then answer one local job or serve RunPod; returns the exit status."""
    # As PID 1 a process is not ended by a signal that it has no handler for, and loading takes a while.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    arguments = _arguments()
    report = Report()
    try:
        settings = Settings.from_environment(os.environ)
        local_job = None
        if not arguments.rp_serve_api and (arguments.test_input is not None or not on_runpod(os.environ)):
            local_job = local.read_job(arguments.test_input, Path("test_input.json"))
        engine, config, jobs = start(settings, report)
    except StartError as error:
        report.say(f"cannot start: {error}")
        return 1
    try:
        if local_job is None:
            status = worker.serve(
                jobs.stream if settings.streaming else jobs.answer,
                slots=config.rows,
                grace_s=settings.shutdown_grace_s,
                broken=Watchdog(engine, settings.step_timeout_s),
            )
            if status:
                worker.leave(status)  # a hung engine cannot be closed
            return 0
        if settings.streaming:
            return asyncio.run(local.print_stream(local_job, jobs.stream))
        return asyncio.run(local.print_answer(local_job, jobs.answer))
    finally:
        engine.close()


def start(settings: Settings, report: Report) -> "tuple[BatchingEngine, EngineConfig, Jobs]":
    """Load the model, size the engine for what memory is left, and put the line together.

    Raises:
        StartError: the cause and the cure, in one line.
    """
    with report.phase("imports"):
        from handler.enhancement import encoder, pack
        from handler.enhancement.cache import Cache
        from handler.enhancement.enhancer import Enhancer
        from handler.enhancement.rewrite import Rewriter
        from handler.inference import memory
        from handler.inference.loop import BatchingEngine
        from handler.inference.sizing import Wishes, plan
        from handler.info import Info
        from handler.job import Jobs
        from handler.model import weights
        from handler.model.snapshot import find
        from handler.operations import Operations
    with report.phase("weights"):
        snapshot = find(
            settings.model_path,
            name=settings.model_name,
            revision=settings.model_revision,
            on_runpod=on_runpod(os.environ),
        )
        model, template, info, _ = weights.load(snapshot)
    with report.phase("packs"):
        packs = pack.load(Path(settings.packs_dir or PACKS))
        encoders = encoder.load(
            Path(settings.encoders_dir or snapshot.path.parent / "encoders"),
            "demo" if snapshot.source == "demo" else "qwen",
            template.count,
        )
    with report.phase("engine"):
        wishes = Wishes(**{name: getattr(settings, name) for name in Wishes.__dataclass_fields__})
        config = plan(
            wishes,
            model.shape,
            device="cuda" if model.device.type == "cuda" else "cpu",
            free_bytes=memory.free(model.device),
        )
        engine = BatchingEngine(model, info, template.token_bytes, config, tokens_in_vocab=template.tokens_in_vocab)
    size = {**config.describe(), "attention": engine.status().details["attention"]}
    report.say(
        f"{info.name} ({info.dtype}) on {info.device}: " + " ".join(f"{key}={value}" for key, value in size.items())
    )
    facts = {
        "version": __version__,
        "face": "stream" if settings.streaming else "json",
        "engine": size,
        "python": platform.python_version(),
        **{library: version(library) for library in ("torch", "transformers", "runpod")},
    }
    default_system = template.default_system if settings.model_default_system else None
    cache: Cache[Answer | Bad] = Cache(settings.enhance_cache_entries, settings.enhance_cache_evict)
    enhancer = Enhancer(packs, encoders, Rewriter(engine, cache), info)
    operations = Operations(
        engine, template, info, Info(engine, info, report, facts, enhancer), enhancer, default_system
    )
    return engine, config, Jobs(operations, report, settings.streaming)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m handler", description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--test_input")
    parser.add_argument("--rp_serve_api", action="store_true")
    return parser.parse_known_args()[0]  # the SDK reads the others


if __name__ == "__main__":
    sys.exit(main())
