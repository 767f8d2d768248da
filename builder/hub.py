"""The Hugging Face hub as a source: listings with sizes and hashes, downloads that go on where they broke off.

Files come over plain HTTP ranges, because what hf_hub_download has of a file is lost when its process ends. Knows no
directory layout.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from builder import __version__
from builder.errors import BuildError
from builder.listing import Digest, File, Listing, Tell

#: tries in a row that bring nothing, with pauses of 1, 2, 4 and 8 seconds between them
TRIES = 5
#: seconds, whatever a hub asks for: the window of its own limits
LONGEST_PAUSE = 300.0

T = TypeVar("T")


class _Short(Exception):
    """The hub ended a file before its end."""


class Hub:
    """A `Source`. `wait` sleeps so many seconds."""

    def __init__(self, endpoint: str, token: str | None, wait: Callable[[float], None] = time.sleep) -> None:
        self._endpoint, self._token, self._wait = endpoint.rstrip("/"), token, wait
        # False, and not None: a token that someone logged in with on this machine is not ours to send
        self._api = HfApi(self._endpoint, token or False, "runpod-qwen-worker", __version__)
        # bytes as they are, so that their count and ranges are the file's
        self._headers = {"user-agent": f"runpod-qwen-worker/{__version__}", "accept-encoding": "identity"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"  # httpx drops it where a redirect leaves the hub

    def list(self, name: str, revision: str | None) -> Listing:
        """As `Source.list`; a branch or tag is resolved to its commit."""
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        try:
            info = self._patiently(
                lambda: self._api.model_info(name, revision=revision, files_metadata=True, timeout=timeout),
                f"{name} at {revision or 'main'}",
            )
        except HFValidationError:
            raise BuildError(f"MODEL_NAME={name}: not a name on the hub, as Qwen/Qwen2.5-7B-Instruct is") from None
        except (ValueError, TypeError, KeyError):
            raise BuildError(f"{self._endpoint} does not answer as a hub does; check HF_ENDPOINT") from None
        files = tuple(
            File(
                sibling.rfilename,
                sibling.lfs.size if sibling.lfs else sibling.size or 0,
                Digest("sha256", sibling.lfs.sha256) if sibling.lfs else Digest("git", sibling.blob_id or ""),
                origin=sibling.rfilename,
            )
            for sibling in info.siblings or ()
        )
        licence = info.card_data.get("license") if info.card_data else None
        return Listing(name, info.sha, licence if isinstance(licence, str) else None, files)

    def fetch(self, listing: Listing, file: File, to: Path, tell: Tell) -> None:
        """As `Source.fetch`; goes on where `to` ends."""
        url = hf_hub_url(listing.name, file.origin, revision=listing.revision, endpoint=self._endpoint)
        to.touch()
        if to.stat().st_size > file.size:
            to.write_bytes(b"")
        self._patiently(
            lambda: self._stream(url, file, to, tell), f"{file.origin} of {listing}", lambda: to.stat().st_size
        )

    def _stream(self, url: str, file: File, to: Path, tell: Tell) -> None:
        have = to.stat().st_size
        if have == file.size:
            return
        headers = {**self._headers, "range": f"bytes={have}-"} if have else self._headers
        with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            hf_raise_for_status(response)
            if have and response.status_code != httpx2.codes.PARTIAL_CONTENT:
                tell(-have)
                have = 0
            with to.open("ab" if have else "wb") as opened:
                for chunk in response.iter_raw():
                    opened.write(chunk)
                    have += len(chunk)
                    tell(len(chunk))
        if have < file.size:
            raise _Short

    def _patiently(self, attempt: Callable[[], T], what: str, arrived: Callable[[], int] = lambda: 0) -> T:
        """Try again while what goes wrong may pass; what has `arrived` in between starts the count anew."""
        tries, before = 0, arrived()
        while True:
            try:
                return attempt()
            except (httpx2.TransportError, HfHubHTTPError, _Short, OfflineModeIsEnabled) as error:
                now = arrived()
                tries = 1 if now > before else tries + 1
                before = now
                if tries == TRIES or not _passes(error):
                    raise self._told(error, what) from None
                self._wait(_pause(error, tries))

    def _told(self, error: Exception, what: str) -> BuildError:
        token = (
            "pass one as the build secret hf_token, or as HF_TOKEN" if self._token is None else "see what it may read"
        )
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        match error:
            case OfflineModeIsEnabled():
                return BuildError("HF_HUB_OFFLINE is set: unset it, or name a directory with MODEL_SOURCE")
            case GatedRepoError():
                return BuildError(f"{what} is gated: accept its terms on the hub; it needs a token: {token}")
            case RevisionNotFoundError():
                return BuildError(f"{what}: the hub has no such revision; check MODEL_REVISION")
            case RepositoryNotFoundError():
                return BuildError(
                    f"{what}: the hub shows no such model; check MODEL_NAME; a private one needs a token: {token}"
                )
            case _Short():
                return BuildError(f"{what}: the hub sent less than the whole file, {TRIES} times; try again later")
            case httpx2.TransportError():
                reason = str(error) or type(error).__name__
                return BuildError(
                    f"{what}: no connection to {self._endpoint}, {TRIES} times ({reason}); check the network, or name"
                    " a mirror with HF_ENDPOINT or a directory with MODEL_SOURCE"
                )
        match status:
            case 401 | 403:
                return BuildError(f"{what}: the hub refuses access ({status}); it needs a token: {token}")
            case 404:
                return BuildError(f"{what}: the hub does not have it (404)")
            case 429:
                return BuildError(
                    f"{what}: the hub allows no more requests for now (429); wait, or use a token: {token}"
                )
            case _:
                return BuildError(f"{what}: the hub answered {status}; try again later")


def _passes(error: Exception) -> bool:
    """True where the same request may succeed in a moment."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return not isinstance(error, OfflineModeIsEnabled)


def _pause(error: Exception, tries: int) -> float:
    """Seconds until the next try: as the hub asks, or twice as long each time."""
    asked = None
    if isinstance(error, HfHubHTTPError):
        headers = error.response.headers
        # `RateLimit: "resolvers";r=0;t=51` (hub's documentation, "Rate limits") is on other answers too
        limit = headers.get("ratelimit", "") if error.response.status_code == 429 else ""
        asked = re.search(r"^\d+$", headers.get("retry-after", "")) or re.search(r"(?<=;t=)\d+", limit)
    return min(float(asked.group()) if asked else 2.0 ** (tries - 1), LONGEST_PAUSE)
