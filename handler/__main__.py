"""Wiring only: settings → weights → engine → job → worker loop. `python -m handler`."""

import argparse
import asyncio
import gc
import os
import platform
import signal
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from handler import __version__, local
from handler.errors import StartError
from handler.model import manifest
from handler.model.download import fetch
from handler.model.readahead import Readahead
from handler.model.snapshot import Snapshot, find
from handler.queue.watchdog import Watchdog
from handler.report import Report, process_age
from handler.settings import Settings, on_runpod

if TYPE_CHECKING:
    from handler.enhancement.rewrite import Rewritten, Unusable
    from handler.inference.loop import BatchingEngine
    from handler.inference.plan import EngineConfig
    from handler.job import Jobs

#: the packs that come with the code
PACKS = Path(__file__).parents[1] / "packs"


def main() -> int:
    """Start, then answer one local job or serve RunPod; returns the exit status."""
    # As PID 1 a process is not ended by a signal that it has no handler for, and loading takes a while.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    spare_memory()
    arguments, others = _arguments()
    report = Report(age_s=process_age())
    try:
        settings = Settings.from_environment(os.environ)
        local_job = None
        if not arguments.rp_serve_api and (arguments.test_input is not None or not on_runpod(os.environ)):
            if others:
                raise StartError(f"{others[0]} is no argument; there are --test_input and --rp_serve_api")
            local_job = local.read_job(arguments.test_input, Path("test_input.json"))
        engine, config, jobs = start(settings, report)
    except StartError as error:
        report.say(f"cannot start: {error}")
        return 1
    try:
        if local_job is None:
            with report.phase("sdk"):
                from handler.queue import sdk as worker

                worker.load_sdk()
            # What the start made stays: a collection that looked at all of it would hold everybody up for 0.1 s.
            gc.freeze()
            status = worker.serve(
                jobs.stream if settings.streaming else jobs.answer,
                slots=config.rows,
                grace_s=settings.shutdown_grace_s,
                broken=Watchdog(engine, settings.step_timeout_s),
                ready=report.ready,
            )
            if status:
                worker.leave(status)  # a hung engine cannot be closed
            return 0
        if settings.streaming:
            return asyncio.run(local.print_stream(local_job, jobs.stream))
        return asyncio.run(local.print_answer(local_job, jobs.answer))
    finally:
        engine.close()


def spare_memory() -> None:
    """Set what a CPU's libraries read of the environment, where the operator did not."""
    # What a CPU compiles for each shape of a batch is kept by oneDNN, by the thousand, and by torch once more: together
    # half of the memory, for less than a tenth of the speed.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "1")


def start(settings: Settings, report: Report) -> "tuple[BatchingEngine, EngineConfig, Jobs]":
    """Load the model, size the engine for what memory is left, and put the line together.

    Raises:
        StartError: the cause and the cure, in one line.
    """
    with report.phase("find"):
        snapshot = locate(settings, report)
    readahead = Readahead(snapshot.shards())
    hashing = verify(snapshot, settings, report)
    # Whatever is imported from here on finds its files here, or not at all.
    os.environ["HF_HUB_OFFLINE"] = "1"
    with report.phase("imports"):
        from handler.enhancement import encoder
        from handler.enhancement.cache import Cache
        from handler.enhancement.enhancer import Enhancer
        from handler.enhancement.packs import load as load_packs
        from handler.enhancement.rewrite import Rewriter
        from handler.inference.loop import BatchingEngine
        from handler.inference.plan import Wishes, plan
        from handler.job import Jobs
        from handler.machine import device, memory
        from handler.model import weights
        from handler.operations.core import Core, WorkerConstants
        from handler.operations.operations import Operations
    with report.phase("device"):
        found, weight_bytes = device.read(), snapshot.bytes()
        found.check(snapshot.name, weight_bytes, on_runpod=on_runpod(os.environ))
    compiled: list[str] = []
    if found.gpu is not None and find_spec("triton"):
        from handler.precompile import cache as ahead

        ahead.hash_compiler()
        ahead.listen(lambda name, anew, _: compiled.append(name) if anew else None)
    with report.phase("weights") as told:
        model, template, info = weights.load(snapshot)
        readahead.stop()
        told |= {"bytes": weight_bytes, "read_ahead": readahead.read}
    with report.phase("packs"):
        packs = load_packs(Path(settings.packs_dir or PACKS))
        encoders = encoder.load(
            Path(settings.encoders_dir or snapshot.encoders()),
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
    with report.phase("warm-up") as told:
        if not engine.warm_up(settings.step_timeout_s):
            raise StartError(
                f"the engine is not warm after STEP_TIMEOUT_S={settings.step_timeout_s:g}: start another worker"
            )
        told |= {"graphs": engine.status().details["graphs"], "compiled": [*compiled]}
    if hashing:
        with report.phase("verify"):
            hashing.wait()
    size = {**config.describe(), "attention": engine.status().details["attention"]}
    report.say(
        f"{info.name} ({info.dtype}) on {info.device}: " + " ".join(f"{key}={value}" for key, value in size.items())
    )
    worker = WorkerConstants(
        version=__version__,
        streaming=settings.streaming,
        engine=size,
        python=platform.python_version(),
        libraries={library: version(library) for library in ("torch", "transformers", "runpod")},
    )
    default_system = template.default_system if settings.model_default_system else None
    cache: Cache[Rewritten | Unusable] = Cache(settings.enhance_cache_entries, settings.enhance_cache_evict)
    enhancer = Enhancer(packs, encoders, Rewriter(engine, cache), info)
    operations = Operations(Core(engine, template, info, report, worker, enhancer, default_system))
    return engine, config, Jobs(operations, report, settings.streaming)


def locate(settings: Settings, report: Report) -> Snapshot:
    """The checkpoint to serve, whole and with every file as long as it should be.

    Raises:
        StartError: see `find` and `Manifest.check_sizes`.
    """
    on_platform = on_runpod(os.environ)

    def download(name: str, revision: str | None) -> Path:
        return fetch(name, revision, report.say)

    snapshot = find(
        settings.model_path,
        name=settings.model_name,
        revision=settings.model_revision,
        on_runpod=on_platform,
        download=download if settings.allow_download or not on_platform else None,
    )
    report.say(f"model: {snapshot.name}, revision {snapshot.revision}, from {snapshot.source} ({snapshot.path})")
    if snapshot.manifest is not None:
        snapshot.manifest.check_sizes()
    return snapshot


def verify(snapshot: Snapshot, settings: Settings, report: Report) -> manifest.Hashing | None:
    """Hash every file beside the rest of the start, where that is wished for; one that is wrong ends the process.

    Raises:
        StartError: there is nothing to hold the files against.
    """
    if settings.verify_weights != "hash":
        return None
    if snapshot.manifest is None:
        raise StartError(
            f"VERIFY_WEIGHTS=hash, but {snapshot.path} has no {manifest.FILE}: unset it, or build an image with weights"
        )

    def failed(error: StartError) -> None:
        # The main thread is deep in a library that loads; nothing is served yet, and nothing is lost.
        report.say(f"cannot start: {error}")
        os._exit(1)

    return manifest.Hashing(snapshot.manifest, failed)


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m handler", description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--test_input")
    parser.add_argument("--rp_serve_api", action="store_true")
    return parser.parse_known_args()  # the SDK reads the others


if __name__ == "__main__":
    sys.exit(main())
