"""A small RunPod control plane on loopback, so that the real worker process can be started against it.

It speaks both sides of the queue: to the worker, the wire of runpod 1.12.0 as it was recorded (job-take, job-stop,
job-stream, job-done, ping); to clients, `/run`, `/runsync`, `/status`, `/stream`, `/cancel` and `/health`. Faults are
declared per route (`Fault`), and every request is recorded. Where RunPod's behaviour is not known, a comment says which
one was chosen. It knows nothing of our handler: any worker built on the SDK runs against it.

    async with Platform() as platform, platform.worker([sys.executable, "-u", "-m", "handler"]):
        platform.fault("done", status=429)
        print(await platform.runsync({"operation": "info"}))

`python -m runpod_local [--port 8600] [-- COMMAND …]` serves it to a developer and starts COMMAND as its worker.
Code that is not asynchronous wraps it in `Background`.
"""

from runpod_local.background import Background
from runpod_local.calls import Fault, Route
from runpod_local.plane import Platform
from runpod_local.worker import Worker, eventually

__all__ = ["Background", "Fault", "Platform", "Route", "Worker", "eventually"]
