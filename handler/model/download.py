"""Fetches a checkpoint from Hugging Face at the start. The one part of the worker that asks a network for weights."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handler.errors import StartError

#: what serving reads; a repository may hold the same weights in other formats too
FILES = ("*.safetensors", "*.json", "*.jinja", "merges.txt")
#: seconds between two lines of progress
PACE = 10.0


def fetch(name: str, revision: str | None, say: Callable[[str], None]) -> Path:
    """Download a snapshot into the Hugging Face cache, or find it there; `say` gets lines of progress.

    Raises:
        StartError: it cannot be had.
    """
    from huggingface_hub import snapshot_download
    from tqdm import tqdm

    class Lines(tqdm):  # type: ignore[misc]
        """The hub's progress bars, of which the one that counts written bytes is told in lines."""

        told = 0.0

        def display(self, *_: Any, **__: Any) -> None:
            if self.unit == "B" and "Reconstr" in str(self.desc) and time.monotonic() - self.told >= PACE:
                self.told = time.monotonic()
                say(f"downloading {name}: {self.n / 1e9:.2f} of {(self.total or 0) / 1e9:.2f} GB")

        def close(self) -> None: ...

    say(f"downloading {name}, revision {revision or 'main'}")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES), tqdm_class=Lines))
    except Exception as error:  # the library lets its network library's errors through
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise StartError(
            f"{name} cannot be downloaded ({reason}): check MODEL_NAME, MODEL_REVISION, HF_TOKEN for a gated model, "
            "and the network"
        ) from None
