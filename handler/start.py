"""Starts a worker: settings → snapshot → model → engine → line. Knows no queue and no command line.

Modules that need a large library are imported inside functions, once the checkpoint is found: a wrong setting fails at
once, and files are read ahead and hashed while libraries load.
"""

import asyncio
import gc
import importlib
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pydantic import JsonValue

from handler import __version__, log
from handler.errors import ContextLengthExceeded, DeviceLost, StartError, WorkerError
from handler.model import manifest
from handler.model.download import fetch
from handler.model.readahead import Readahead
from handler.model.snapshot import Snapshot, find
from handler.model.trial import Trial
from handler.report import Report
from handler.settings import LOST_DEVICE, Settings, lost_device, on_runpod

if TYPE_CHECKING:
    from handler.enhancement.encoder import Encoders
    from handler.enhancement.packs import Packs
    from handler.enhancement.rewrite import Rewritten, Unusable
    from handler.inference.config import EngineConfig
    from handler.inference.kernel_check import KernelCheck
    from handler.inference.loop import BatchingEngine
    from handler.job import Jobs
    from handler.model.weights import Loaded
    from handler.pool import Pool

#: the packs that come with the code
PACKS = Path(__file__).parents[1] / "packs"
#: the modules of the `imports` phase of the ledger; functions below import them again, which costs nothing by then
IMPORTS = (
    "handler.enhancement.enhancer",
    "handler.inference.loop",
    "handler.job",
    "handler.machine.device",
    "handler.machine.memory",
    "handler.model.weights",
    "handler.operations.operations",
)


#: Seconds after which Python lets another of its threads run. With its own 0.005 the event loop and the engine's thread
#: waited twice as long beside threads that work on texts.
SWITCH_INTERVAL_S = 0.0005


@dataclass(frozen=True, slots=True)
class Worker:
    """A model that is loaded and can answer jobs."""

    engine: "BatchingEngine"
    config: "EngineConfig"
    jobs: "Jobs"

    @property
    def pools(self) -> "tuple[Pool, ...]":
        """The threads that jobs wait for, beside the engine's."""
        core = self.jobs.operations.core
        return core.encoding, core.enhancer.rewriter.pool


def start(settings: Settings, report: Report) -> Worker:
    """Load the model, size the engine for the memory that is left, and build the line over it.

    Raises:
        StartError: the cause and what to do, in one line.
        DeviceLost: the device failed, and `restart_on_plain_torch` may help.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with report.phase("find"):
        snapshot = locate(settings)
    readahead = Readahead(snapshot.shards())
    hashing = verify(snapshot, settings)
    # Libraries that are imported from here on find their files on this machine, or fail.
    os.environ["HF_HUB_OFFLINE"] = "1"
    trial = Trial(snapshot.path)
    with report.phase("imports"):
        for module in IMPORTS:
            importlib.import_module(module)
        trial.wait(snapshot.name)
    with report.phase("device"):
        gpu = check_device(snapshot)
    compiled = record_compiled_kernels() if gpu else []
    with report.phase("weights") as facts:
        loaded = load_weights(snapshot, readahead, facts, settings.rope_scaling)
    with report.phase("packs"):
        packs, encoders = read_packs(settings, snapshot, loaded)
    with report.phase("engine"):
        engine, config, check = build_engine(settings, loaded)
    if check is not None:
        with report.phase("self-check") as facts:
            facts |= check.wait(settings.step_timeout_s)
    with report.phase("warm-up") as facts:
        warm_up(engine, settings, loaded)
        facts |= {"graphs": engine.status().details["graphs"], "compiled": [*compiled]}
    if hashing:
        with report.phase("verify"):
            hashing.wait()
    size = {**config.describe(), "attention": engine.status().details["attention"]}
    log.info(f"{loaded.info.name} ({loaded.info.dtype}) runs on {loaded.info.device}", engine=size)
    jobs = build_jobs(settings, report, loaded, engine, size, packs, encoders)
    # The objects of the start live as long as the process: a collection that visits all of them stops it for 0.1 s.
    gc.freeze()
    return Worker(engine, config, jobs)


def set_cpu_library_defaults() -> None:
    """Set the environment variables of a CPU's libraries that the operator has not set; before torch is imported."""
    # oneDNN keeps what it compiles for each shape of a batch, by the thousand, and torch keeps it once more: together
    # half of the memory, for less than a tenth of the speed.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "1")


def locate(settings: Settings) -> Snapshot:
    """The checkpoint to serve, with every file of its manifest there and of the right size.

    Raises:
        StartError: see `find` and `Manifest.check_sizes`.
    """
    on_platform = on_runpod(os.environ)

    def download(name: str, revision: str | None) -> Path:
        return fetch(name, revision, log.info)

    snapshot = find(
        settings.model_path,
        name=settings.model_name,
        revision=settings.model_revision,
        on_runpod=on_platform,
        download=download if settings.allow_download or not on_platform else None,
    )
    log.info(
        f"model {snapshot.name}, revision {snapshot.revision}, from {snapshot.source}",
        model=snapshot.name,
        revision=snapshot.revision,
        source=snapshot.source,
        path=str(snapshot.path),
    )
    if snapshot.manifest is not None:
        snapshot.manifest.check_sizes()
    return snapshot


def verify(snapshot: Snapshot, settings: Settings) -> manifest.Hashing | None:
    """Hash every file in threads, where VERIFY_WEIGHTS=hash; a wrong one ends the process. None where it is not set.

    Raises:
        StartError: there is no manifest to compare the files with.
    """
    if settings.verify_weights != "hash":
        return None
    if snapshot.manifest is None:
        raise StartError(
            f"VERIFY_WEIGHTS=hash, but {snapshot.path} has no {manifest.FILE}: unset it, or build an image with weights"
        )

    def failed(error: StartError) -> None:
        # The main thread cannot be interrupted while a library loads; no job is taken yet, and none is lost.
        log.error(f"cannot start: {error}")
        os._exit(1)

    return manifest.Hashing(snapshot.manifest, failed)


def check_device(snapshot: Snapshot) -> bool:
    """True where there is a GPU.

    Raises:
        StartError: it has too little memory for the model, does not work, or is missing where the model needs one.
    """
    from handler.machine import device

    found = device.read()
    found.check(snapshot.name, snapshot.bytes(), on_runpod=on_runpod(os.environ))
    return found.gpu is not None


def record_compiled_kernels() -> list[str]:
    """The names of the kernels that are compiled from now on; the list grows."""
    compiled: list[str] = []
    if find_spec("triton"):
        from handler.precompile import cache

        cache.hash_compiler()
        cache.listen(lambda name, anew, _: compiled.append(name) if anew else None)
    return compiled


def load_weights(
    snapshot: Snapshot,
    readahead: Readahead,
    facts: dict[str, JsonValue],
    rope_scaling: Mapping[str, JsonValue] | None = None,
) -> "Loaded":
    """The model on its device; `facts` gets the bytes of its files, those that were read ahead, and its end tokens.

    Raises:
        StartError: see `weights.load`.
    """
    from handler.model import weights

    loaded = weights.load(snapshot, rope_scaling=rope_scaling)
    readahead.stop()
    facts |= {"bytes": snapshot.bytes(), "read_ahead": readahead.read}
    facts["end_tokens"] = [
        {"token_id": end.token_id, "token": end.token, "sources": [*end.sources]} for end in loaded.info.end_tokens
    ]
    return loaded


def read_packs(settings: Settings, snapshot: Snapshot, loaded: "Loaded") -> "tuple[Packs, Encoders]":
    """The enhancement packs, and the tokenizers of their encoders.

    Raises:
        StartError: one of them cannot be read.
    """
    from handler.enhancement import encoder
    from handler.enhancement import packs as pack_files

    packs = pack_files.load(Path(settings.packs_dir or PACKS))
    directory = Path(settings.encoders_dir or snapshot.encoders())
    return packs, encoder.load(directory, "demo" if snapshot.source == "demo" else "qwen", loaded.template.count)


def build_engine(settings: Settings, loaded: "Loaded") -> "tuple[BatchingEngine, EngineConfig, KernelCheck | None]":
    """An engine of the size that the settings ask for, or else that the device and the model allow.

    On a GPU its thread begins with the self-check that is returned too.

    Raises:
        StartError: that size does not fit.
    """
    from handler.inference.config import EngineOptions
    from handler.inference.kernel_check import KernelCheck, sizes_of
    from handler.inference.loop import BatchingEngine
    from handler.inference.plan import plan
    from handler.machine import memory

    model, template, info = loaded
    config = plan(
        EngineOptions(**{name: getattr(settings, name) for name in EngineOptions.__dataclass_fields__}),
        model.shape,
        device="cuda" if model.device.type == "cuda" else "cpu",
        free_bytes=memory.free(model.device),
    )
    tokens, check = template.tokens_in_vocab, None
    if model.device.type == "cuda":
        sizes = sizes_of(model, info, config.page_size, tokens)
        check = KernelCheck(sizes, settings.attention, lost=lost_device(os.environ))
    engine = BatchingEngine(model, info, template.token_bytes, config, tokens_in_vocab=tokens, check=check)
    return engine, config, check


def warm_up(engine: "BatchingEngine", settings: Settings, loaded: "Loaded") -> None:
    """Wait until the engine has captured its first graphs, and see whether its first logits are finite.

    Raises:
        StartError: one of the two takes longer than a step may take, the engine fails, or a logit is not finite.
        DeviceLost: the engine failed because its device did.
    """
    from handler.engine import probe
    from handler.inference.faults import device_is_lost
    from handler.model.template import Turn

    name, limit_s = loaded.info.name, settings.step_timeout_s
    late = StartError(f"the engine is not warm after STEP_TIMEOUT_S={limit_s:g}: start another worker")
    try:
        warm = engine.warm_up(limit_s)
    except StartError as error:
        if isinstance(error.__cause__, Exception) and device_is_lost(error.__cause__):
            raise DeviceLost(_first_line(error.__cause__)) from error
        raise
    if not warm:
        raise late
    try:
        template, room = loaded.template, engine.max_model_len - probe.TOKENS
        rendered = template.chat([Turn("user", "Hello")], room) if template.chats else template.raw("Hello", room)
        prompt = rendered.prompt
        finite = asyncio.run(asyncio.wait_for(probe.computes_finite_logits(engine, prompt), limit_s))
    except ContextLengthExceeded:
        return  # MAX_MODEL_LEN is smaller than the shortest chat; nothing can be asked
    except TimeoutError:
        raise late from None
    except WorkerError as error:
        raise StartError(f"{name}: the engine failed at its first request; the log shows where") from error
    if not finite:
        raise StartError(
            f"{name} computes logits that are not finite: its weights or config.json are damaged; fetch it again"
        )


def build_jobs(
    settings: Settings,
    report: Report,
    loaded: "Loaded",
    engine: "BatchingEngine",
    size: dict[str, JsonValue],
    packs: "Packs",
    encoders: "Encoders",
) -> "Jobs":
    """The line over an engine: what each job goes through."""
    from handler.enhancement.cache import Cache
    from handler.enhancement.enhancer import Enhancer
    from handler.enhancement.rewrite import Rewriter
    from handler.job import Jobs
    from handler.operations.core import Core, WorkerConstants
    from handler.operations.operations import Operations

    template, model = loaded.template, loaded.info
    constants = WorkerConstants(
        version=__version__,
        engine=size,
        python=platform.python_version(),
        libraries={library: version(library) for library in ("torch", "transformers", "runpod")},
    )
    cache: Cache[Rewritten | Unusable] = Cache(settings.enhance_cache_entries, settings.enhance_cache_evict)
    enhancer = Enhancer(packs, encoders, Rewriter(engine, template, cache), model)
    default_system = template.default_system if settings.model_default_system else None
    core = Core(
        engine,
        template,
        model,
        report,
        constants,
        enhancer,
        default_system,
        prefix_sharing=settings.prefix_sharing,
    )
    return Jobs(Operations(core), report)


def restart_on_plain_torch(error: DeviceLost, settings: Settings, environ: Mapping[str, str]) -> NoReturn:
    """Replace this process, once, by one that runs the same command without kernels. Its id stays, and so does its age.

    Only a new process can use the device again. It runs no kernel of ours, which may be what the device failed on.

    Raises:
        StartError: this process is that one, or the operator wants the kernels.
    """
    if lost_device(environ) is not None:
        raise StartError(f"the device failed on plain torch too ({error}): start another worker")
    if settings.attention == "kernel":
        raise StartError(
            f"ATTENTION=kernel, but the device failed in the warm-up ({error}): start another worker, or set "
            "ATTENTION=auto, which starts again on plain torch"
        )
    log.warn(f"the device failed in the warm-up ({error}): the worker starts again, on plain torch", reason=str(error))
    # A library may have opened the device so that a new program inherits it, and with it the memory that is in use.
    for descriptor in os.listdir("/proc/self/fd"):
        if int(descriptor) > 2:
            with suppress(OSError):  # the directory's own descriptor is closed by now
                os.set_inheritable(int(descriptor), False)
    sys.stdout.flush()
    os.execve(
        sys.executable,
        [sys.executable, *sys.orig_argv[1:]],
        {**environ, "ATTENTION": "reference", LOST_DEVICE: str(error)},
    )


def _first_line(error: Exception) -> str:
    """`Type: message` without the lines that advise developers."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
