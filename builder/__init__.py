"""Fetches and verifies what an image contains besides code: the model and the encoders' tokenizers.

`python -m builder` runs it. Read in this order: `__main__` (arguments and environment), `assembly` (builds one
directory), `hub` and `local` (the two sources of files), `manifest` (what the worker reads of the result). The builder
shares no code with the worker; the two meet in manifest.json.
"""

__version__ = "0.1.0"
