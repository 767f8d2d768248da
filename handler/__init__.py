"""A RunPod worker that serves a ChatML Qwen as a pure inference engine.

Read in this order: `contracts` and `replies` (what callers send and get), `job` (the one boundary) with its `door`,
`operations` (request → reply), `engine` (what we need of a model), then down into `inference` (the engine)
and `model` (the checkpoint that it runs: found, loaded, its template). `__main__` wires them together.
"""

__version__ = "0.1.0"
