"""`python -m builder [DIRECTORY]`: the model to DIRECTORY/weights, the encoders' tokenizers to DIRECTORY/encoders.

Reads arguments and environment, and calls the rest. MODEL_NAME, MODEL_REVISION, MODEL_SHA256, ALLOW_UNPINNED and
MODEL_SOURCE choose the model, HF_ENDPOINT the hub, HF_TOKEN the token.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from builder import manifest
from builder.assembly import assemble
from builder.encoders import ENCODERS
from builder.errors import BuildError, disk_error
from builder.hub import Hub
from builder.listing import Listing
from builder.local import Directory
from builder.pins import PINS, Pins, pin_files
from builder.snapshot import ModelChoice, select_files

#: where a build with `--mount=type=secret,id=hf_token` has the token; it is in no layer and no environment of the image
SECRET = Path("/run/secrets/hf_token")


def log(line: str) -> None:
    """Print a line in one write, so that lines of several threads do not mix."""
    print(line + "\n", end="", flush=True)


def build_weights(choice: ModelChoice, hub: Hub, directory: Path, pins: Pins) -> None:
    """Build the model's directory, unless it exists."""
    expected = choice.sha256
    # A pinned snapshot can be recognised without a request.
    if choice.pinned and not choice.source and manifest.is_complete(directory, choice.name, choice.revision, expected):
        log(f"{directory}: {choice.name} at {choice.revision} is in place")
        return
    source = Directory(choice.source) if choice.source else hub
    listing = pin_files(select_files(source.list(choice.name, choice.revision)), pins)
    if manifest.is_complete(directory, listing.name, listing.revision, expected):
        log(f"{directory}: {listing} is in place")
    else:
        assemble(listing, source, directory, log, expected)


def build_encoders(encoders: Mapping[str, Listing], hub: Hub, directory: Path) -> None:
    """Build each encoder's directory, unless it exists."""
    for name, listing in encoders.items():
        if manifest.is_complete(directory / name, listing.name, listing.revision):
            log(f"{directory / name}: {listing} is in place")
        else:
            assemble(listing, hub, directory / name, log)


def read_token(environ: Mapping[str, str], secret: Path) -> str | None:
    """The hub's token: from the build's secret, else from HF_TOKEN, for use outside of a build.

    Raises:
        BuildError: the value cannot be a token.
    """
    found = (secret.read_text(encoding="utf-8") if secret.is_file() else environ.get("HF_TOKEN", "")).strip()
    if not (found.isascii() and found.isprintable() and " " not in found):
        raise BuildError(f"{secret if secret.is_file() else 'HF_TOKEN'} does not hold a token of the hub")
    return found or None


def main(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    encoders: Mapping[str, Listing] = ENCODERS,
    pins: Pins = PINS,
    secret: Path = SECRET,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Build what is missing; returns the exit status, 0 where everything is in place."""
    parser = argparse.ArgumentParser("python -m builder", description="Fetch and verify the model for an image.")
    parser.add_argument("directory", nargs="?", type=Path, default=Path("/opt/models"))
    parser.add_argument("--only", choices=("weights", "encoders"), help="build one of the two")
    chosen = parser.parse_args(arguments)
    directory: Path = chosen.directory
    try:
        hub = Hub(environ.get("HF_ENDPOINT") or "https://huggingface.co", read_token(environ, secret), wait)
        if chosen.only != "encoders":
            build_weights(ModelChoice.from_environment(environ), hub, directory / "weights", pins)
        if chosen.only != "weights":
            build_encoders(encoders, hub, directory / "encoders")
    except OSError as error:
        return _fail(disk_error(error, directory))
    except BuildError as error:
        return _fail(error)
    return 0


def _fail(error: BuildError) -> int:
    print(f"builder: {error}", file=sys.stderr)
    return 1


def _interrupt(*_: object) -> None:
    # The library would end every download that has begun, gigabytes of them, before it let KeyboardInterrupt through.
    os._exit(_fail(BuildError("interrupted; run again: complete files are kept")))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _interrupt)
    sys.exit(main(sys.argv[1:], os.environ))
