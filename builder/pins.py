"""Sizes and hashes that are known without a hub, so that no server of the files chooses them. Knows no network."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from builder.errors import BuildError
from builder.listing import Digest, File, Listing


@dataclass(frozen=True, slots=True)
class Pin:
    """One file as its commit has it."""

    #: bytes
    size: int
    #: 64 hex digits
    sha256: str


#: (model, commit) -> name of a file -> the file
Pins = Mapping[tuple[str, str], Mapping[str, Pin]]

#: The default model's configuration, tokenizer and chat template: each hash is published by several unrelated public
#: repositories as that of the hub's file. Those of its weights are not known here; MODEL_SHA256 pins them too.
PINS: Pins = {
    ("Qwen/Qwen2.5-7B-Instruct", "a09a35458c702b33eeacc393d103063234e8bc28"): {
        "config.json": Pin(663, "7463bb0ea78315365e6c6b74de4e73bbcc8359dfb0c5a737584e077d42c0b03c"),
        "generation_config.json": Pin(243, "3a8f9087e486054c8a4a08dae2e5a3ba62e23da212b5b8c08bc42cb983c3459f"),
        "merges.txt": Pin(1_671_839, "599bab54075088774b1733fde865d5bd747cbcc7a547c5bc12610e874e26f5e3"),
        "tokenizer.json": Pin(7_031_645, "c0382117ea329cdf097041132f6d735924b697924d6f6fc3945713e96ce87539"),
        "tokenizer_config.json": Pin(7_305, "5b5d4f65d0acd3b2d56a35b56d374a36cbc1c8fa5cf3b3febbbfabf22f359583"),
        "vocab.json": Pin(2_776_833, "ca10d7e9fb3ed18575dd1e277a2579c16d108e32f27439684afa0e10b1440910"),
    },
}


def pin_files(listing: Listing, pins: Pins) -> Listing:
    """The listing with the pinned hashes in place of those that its source lists.

    Raises:
        BuildError: the source lists another size or sha256 than the pinned one, or lacks a pinned file.
    """
    pinned = pins.get((listing.name, listing.revision or ""), {})
    if missing := sorted(pinned.keys() - {file.name for file in listing.files}):
        raise BuildError(f"{listing}: the source lacks {', '.join(missing)}; check HF_ENDPOINT or MODEL_SOURCE")
    return replace(listing, files=tuple(_pin(file, pinned.get(file.name), listing) for file in listing.files))


def _pin(file: File, pin: Pin | None, listing: Listing) -> File:
    if pin is None:
        return file
    listed = file.digest.hex if file.digest is not None and file.digest.kind == "sha256" else pin.sha256
    if (file.size, listed) != (pin.size, pin.sha256):
        raise BuildError(
            f"{listing}: the source lists {file.name} with {file.size} bytes and sha256 {listed}, but that commit has"
            f" {pin.size} bytes and {pin.sha256}; check HF_ENDPOINT or MODEL_SOURCE"
        )
    return replace(file, digest=Digest("sha256", pin.sha256))
