"""A small RunPod on loopback: for people, tests and benches.

It serves both sides of RunPod's queue. A worker finds the routes of runpod 1.12.0 as they were recorded: job-take,
job-stop, job-stream, job-done and ping. A client finds `/run`, `/runsync`, `/status`, `/stream`, `/cancel` and
`/health`, and `/openai/*`. Tests declare faults by route (`Fault`) and read the record of all requests. Where RunPod's
behaviour is not known, a comment says which one was chosen. It knows nothing of our handler: any worker that uses the
SDK can be its worker.

    async with Platform() as platform, platform.worker([sys.executable, "-u", "-m", "handler"]):
        platform.fault("done", status=429)
        print(await platform.runsync({"operation": "info"}))

`python -m runpod_local [--port 8600] [-- COMMAND …]` serves it until Ctrl-C, with COMMAND as its worker. Code that is
not asynchronous uses `Background`.

Read in this order: `queue` (jobs), `calls` (requests), `faults`, `server` (HTTP), `openai`, `worker` (processes).
"""

from runpod_local.background import Background
from runpod_local.faults import Fault, Route
from runpod_local.queue import Encoded
from runpod_local.server import Platform
from runpod_local.worker import Worker, eventually

__all__ = ["Background", "Encoded", "Fault", "Platform", "Route", "Worker", "eventually"]
