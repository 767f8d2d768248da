"""Fetches what the image bakes in: the model's snapshot and the encoders' tokenizers, verified (`python -m builder`).

Read in this order: `__main__` (the wiring), `assembly` (how a directory comes to be), `hub` and `local` (where files
come from), `manifest` (what the worker reads of it). Knows nothing of the worker but the manifest that it leaves.
"""

__version__ = "0.1.0"
