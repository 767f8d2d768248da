"""A RunPod worker that serves a ChatML Qwen as a pure inference engine.

Read in this order: `api` (what callers send and get), `job` (one job), `operations` (a request becomes a reply),
`engine` (the interface of an engine), then down into `inference` (the engine) and `model` (the checkpoint: found,
loaded, its chat template). `start` puts them together, `queue` serves them on RunPod, and `openai` says the same in the
terms of OpenAI's API.
"""

__version__ = "0.1.0"
