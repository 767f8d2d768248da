"""`python -m handler`: reads arguments, starts the worker, and serves or answers one job."""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from pydantic import JsonValue

from handler import log
from handler.errors import DeviceLost, StartError
from handler.queue.leaving import leave
from handler.queue.watchdog import Watchdog
from handler.report import Report, process_age
from handler.settings import Settings, on_runpod, without_effect
from handler.start import Worker, restart_on_plain_torch, set_cpu_library_defaults, start


def main() -> int:
    """Start, then answer one local job or serve RunPod; returns the exit status.

    Threads may run on: the process ends by `leave`, which waits for none, and needs no engine to be closed.
    """
    # The kernel does not end PID 1 by a signal for which it has no handler, and loading takes a while.
    # No exception: where it is raised in a finalizer, Python would drop it. No job is taken yet that could be lost.
    signal.signal(signal.SIGTERM, lambda *_: leave(128 + signal.SIGTERM))
    log.capture_libraries()
    set_cpu_library_defaults()
    report = Report(age_s=process_age())
    try:
        settings = Settings.from_environment(os.environ)
        for sentence in without_effect(os.environ):
            log.warn(sentence)
        job = _local_job(settings)
        try:
            if job is None and settings.face == "http":
                return _serve_http(settings, report)
            worker = start(settings, report)
        except DeviceLost as error:
            restart_on_plain_torch(error, settings, os.environ)
    except Exception as error:
        if not isinstance(error, StartError):
            log.defect(error)
        # No caller has sent anything yet, so that the log may quote any error.
        log.error(f"cannot start: {error}")
        return 1
    try:
        if job is None:
            return _serve(worker, settings, report)
        from handler import local

        report.ready()
        return asyncio.run(local.print_events(worker.jobs.run(job)))
    except Exception as error:
        log.defect(error)
        return 1


def _local_job(settings: Settings) -> dict[str, JsonValue] | None:
    """The one job to answer; None where the worker is to serve."""
    parser = argparse.ArgumentParser(prog="python -m handler", description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--test_input")
    parser.add_argument("--rp_serve_api", action="store_true")
    arguments, others = parser.parse_known_args()  # the SDK reads the others
    serves = settings.face == "http" or on_runpod(os.environ)
    if arguments.rp_serve_api or (arguments.test_input is None and serves):
        return None
    if others:
        raise StartError(f"{others[0]} is no argument; there are --test_input and --rp_serve_api")
    from handler import local

    return local.read_job(arguments.test_input, Path("test_input.json"))


def _serve(worker: Worker, settings: Settings, report: Report) -> int:
    with report.phase("sdk"):
        from handler.queue import output, sdk

        sdk.load_sdk()
    return sdk.serve(
        output.handler(worker.jobs, worker.jobs.served()),
        slots=worker.config.rows,
        fault=Watchdog(worker.engine, settings.step_timeout_s, pools=worker.pools),
        settled=worker.engine.settled,
        health=report,
        grace_s=settings.shutdown_grace_s,
    )


def _serve_http(settings: Settings, report: Report) -> int:
    """Serve HTTP, from before the model is loaded: a balancer asks how the worker is."""
    from handler.web.face import Backend
    from handler.web.server import serve

    def load() -> Backend:
        worker = start(settings, report)
        fault = Watchdog(worker.engine, settings.step_timeout_s, pools=worker.pools)
        return Backend(worker.jobs, worker.config.rows, fault, worker.engine.status)

    return serve(settings, report, load)


def status_of(ended: SystemExit) -> int:
    """The exit status that Python would give a process that ends so."""
    if ended.code is None or isinstance(ended.code, int):
        return ended.code or 0
    sys.stderr.write(f"{ended.code}\n")
    return 1


if __name__ == "__main__":
    try:
        status = main()
    except SystemExit as ended:  # the SDK's fitness checks, an argument that is wrong
        status = status_of(ended)
    leave(status)
