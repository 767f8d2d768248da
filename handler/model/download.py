"""Downloads a checkpoint from Hugging Face at the start. The only module of the worker that downloads weights."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handler.errors import StartError
from handler.model.one_line import reason

#: the files that serving reads; a repository may contain the same weights in other formats too
FILES = ("*.safetensors", "*.json", "*.jinja", "merges.txt")
#: the patterns above match in folders too, where a repository keeps other models
FOLDERS = "*/*"
#: seconds between two lines of progress
PROGRESS_S = 10.0


def fetch(name: str, revision: str | None, report: Callable[[str], None]) -> Path:
    """Download a snapshot into the Hugging Face cache, or find it there; `report` gets lines of progress.

    Raises:
        StartError: the download failed.
    """
    from huggingface_hub import snapshot_download
    from tqdm import tqdm

    class Lines(tqdm):  # type: ignore[misc]
        """Writes the progress bar that counts written bytes as lines, and hides the others."""

        reported = 0.0

        def display(self, *_: Any, **__: Any) -> None:
            if self.unit == "B" and "Reconstr" in str(self.desc) and time.monotonic() - self.reported >= PROGRESS_S:
                self.reported = time.monotonic()
                report(f"downloading {name}: {self.n / 1e9:.2f} of {(self.total or 0) / 1e9:.2f} GB")

        def close(self) -> None: ...

    report(f"downloading {name}, revision {revision or 'main'}")
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=list(FILES), ignore_patterns=FOLDERS, tqdm_class=Lines
            )
        )
    except Exception as error:  # the library also raises errors of its network library
        raise StartError(
            f"{name} cannot be downloaded ({reason(error)}): check MODEL_NAME, MODEL_REVISION and the network, and "
            "HF_TOKEN for a gated model"
        ) from None
