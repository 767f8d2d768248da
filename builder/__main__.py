"""`python -m builder [DIRECTORY]`: the model to DIRECTORY/weights, the encoders' tokenizers to DIRECTORY/encoders.

Wiring alone. MODEL_NAME, MODEL_REVISION, ALLOW_UNPINNED and MODEL_SOURCE say which model, HF_ENDPOINT which hub.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from builder import manifest, snapshot
from builder.assembly import assemble
from builder.encoders import ENCODERS
from builder.errors import BuildError, of_disk
from builder.hub import Hub
from builder.listing import Listing
from builder.local import Directory

#: where a build with `--mount=type=secret,id=hf_token` has it; in no layer, and not in the image's environment
SECRET = Path("/run/secrets/hf_token")


def say(line: str) -> None:
    """Print a line whole, whichever thread says it."""
    print(line + "\n", end="", flush=True)


def weights(wish: snapshot.Wish, hub: Hub, directory: Path) -> None:
    """Build the model's directory, where it is not there yet."""
    if wish.pinned and not wish.source and manifest.stands(directory, wish.name, wish.revision):
        say(f"{directory}: {wish.name} at {wish.revision} is in place")
        return
    source = Directory(wish.source) if wish.source else hub
    listing = snapshot.choose(source.list(wish.name, wish.revision))
    if manifest.stands(directory, listing.name, listing.revision):
        say(f"{directory}: {listing} is in place")
    else:
        assemble(listing, source, directory, say)


def encoders(wished: Mapping[str, Listing], hub: Hub, directory: Path) -> None:
    """Build each encoder's directory, where it is not there yet."""
    for name, listing in wished.items():
        if manifest.stands(directory / name, listing.name, listing.revision):
            say(f"{directory / name}: {listing} is in place")
        else:
            assemble(listing, hub, directory / name, say)


def token(environ: Mapping[str, str], secret: Path) -> str | None:
    """The hub's token: the build's secret, else HF_TOKEN's, for use outside a build.

    Raises:
        BuildError: it cannot be one.
    """
    found = (secret.read_text(encoding="utf-8") if secret.is_file() else environ.get("HF_TOKEN", "")).strip()
    if not (found.isascii() and found.isprintable() and " " not in found):
        raise BuildError(f"{secret if secret.is_file() else 'HF_TOKEN'} does not hold a token of the hub's")
    return found or None


def main(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    wished_encoders: Mapping[str, Listing] = ENCODERS,
    secret: Path = SECRET,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """The exit status: 0 where all is in place."""
    parser = argparse.ArgumentParser("python -m builder", description="Fetch and verify what the image bakes in.")
    parser.add_argument("directory", nargs="?", type=Path, default=Path("/opt/models"))
    parser.add_argument("--only", choices=("weights", "encoders"), help="build one of the two")
    chosen = parser.parse_args(arguments)
    directory: Path = chosen.directory
    try:
        hub = Hub(environ.get("HF_ENDPOINT") or "https://huggingface.co", token(environ, secret), wait)
        if chosen.only != "encoders":
            weights(snapshot.Wish.from_environment(environ), hub, directory / "weights")
        if chosen.only != "weights":
            encoders(wished_encoders, hub, directory / "encoders")
    except OSError as error:
        return _fail(of_disk(error, directory))
    except BuildError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return _fail(BuildError("interrupted; run again: it goes on where it stopped"))
    return 0


def _fail(error: BuildError) -> int:
    print(f"builder: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
