"""The Hugging Face hub as a source: lists a snapshot's files with sizes and hashes, and downloads them.

`huggingface_hub.hf_hub_download` does the transfer, with the library's own retries and protocols. This module adds what
a build needs: it tries again where the library gives up early, stops a file that is longer than listed, refuses another
commit than the one that was asked for, and names the cause and the cure of a failure in one line. It does not verify
files. The only module of the builder that imports `huggingface_hub` and `httpx2`.
"""

import logging
import re
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars, tqdm

from builder import __version__
from builder.errors import BuildError
from builder.listing import Digest, File, Listing, is_commit

LIBRARY = "runpod-qwen-worker"
#: attempts, with pauses of 1, 2, 4 and 8 seconds between them
ATTEMPTS = 5
#: files that are fetched at the same time
PARALLEL = 8
#: seconds; the hub's rate limits have windows of five minutes
LONGEST_PAUSE = 300.0
#: "try again later", in HTTP
BUSY = frozenset({408, 429})

T = TypeVar("T")


class _Incomplete(Exception):
    """The hub sent less of a file than it announced."""


class Hub:
    """A `Source`. `wait` sleeps so many seconds."""

    def __init__(self, endpoint: str, token: str | None, wait: Callable[[float], None] = time.sleep) -> None:
        self._endpoint, self._wait = endpoint.rstrip("/"), wait
        # False, not None: with None the library sends a token that somebody logged in with on this machine.
        self._token: str | Literal[False] = token or False
        self._api = HfApi(self._endpoint, self._token, LIBRARY, __version__)
        # The library's warnings show signed URLs, which give access to files for a while.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)

    def list(self, name: str, revision: str | None) -> Listing:
        """As `Source.list`; a branch or tag is resolved to its commit."""
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        try:
            info = self._retry(
                lambda: self._api.model_info(name, revision=revision, files_metadata=True, timeout=timeout),
                f"{name} at {revision or 'main'}",
            )
        except HFValidationError:
            raise BuildError(f"MODEL_NAME={name}: not a name on the hub, as Qwen/Qwen2.5-7B-Instruct is") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise self._not_a_hub() from None
        if not (isinstance(info.sha, str) and is_commit(info.sha)):
            raise self._not_a_hub()
        if revision is not None and is_commit(revision) and info.sha != revision:
            raise BuildError(
                f"{name}: {self._endpoint} was asked for {revision} and lists {info.sha}; check HF_ENDPOINT: a hub"
                " answers with the commit that is asked for"
            )
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

    def fetch(self, listing: Listing, files: Sequence[File], directory: Path) -> None:
        """As `Source.fetch`. The library's notes stay in `directory`/.cache, for the caller to remove."""

        def download_one(file: File) -> None:
            hf_hub_download(
                listing.name,
                file.origin,
                revision=listing.revision,
                local_dir=directory,
                endpoint=self._endpoint,
                token=self._token,
                library_name=LIBRARY,
                library_version=__version__,
                tqdm_class=_limit(file, listing),
            )

        def download() -> None:
            # After a failure no further file is begun; those that have begun are waited for.
            with disable_progress_bars(), ThreadPoolExecutor(PARALLEL) as pool:
                for _ in pool.map(download_one, files):
                    pass

        # The library itself waits where the hub is busy, as long as the hub asks and five times.
        self._retry(download, str(listing), final=BUSY)

    def _retry(self, attempt: Callable[[], T], what: str, final: Collection[int] = ()) -> T:
        """Call `attempt` again while it fails for a reason that may pass.

        Args:
            what: the subject of an error's message.
            final: statuses that are not tried again.

        Raises:
            BuildError: the last attempt failed, or the reason will not pass.
            OSError: the disk failed.
        """
        for count in range(1, ATTEMPTS + 1):
            try:
                return attempt()
            except (httpx2.HTTPError, OSError, RuntimeError, _Incomplete) as raised:
                error = _cause(raised)
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                if count == ATTEMPTS or not _may_pass(error, final):
                    raise self._build_error(error, what) from None
                self._wait(_pause(error, count))
        raise AssertionError("the last attempt returns or raises")

    def _build_error(self, error: BaseException, what: str) -> BuildError:
        token = "see what it may read" if self._token else "pass one as the build secret hf_token, or as HF_TOKEN"
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
            case HfHubHTTPError():
                return _status_error(error.response, what, token)
            case httpx2.TransportError():
                reason = str(error) or type(error).__name__
                return BuildError(
                    f"{what}: no connection to {self._endpoint}, {ATTEMPTS} times ({reason}); check the network, or"
                    " name a mirror with HF_ENDPOINT or a directory with MODEL_SOURCE"
                )
            case FileMetadataError():
                return self._not_a_hub()
            case _Incomplete():
                return BuildError(f"{what}: the hub sent only a part, {ATTEMPTS} times ({error}); try again later")
            case _:
                # first line, and of a URL no query: there a signature would be
                reason = re.sub(r"\?\S+", "", str(error).partition("\n")[0]) or type(error).__name__
                return BuildError(f"{what}: the download failed ({reason}); try again later")

    def _not_a_hub(self) -> BuildError:
        return BuildError(f"{self._endpoint} does not answer as a hub does; check HF_ENDPOINT")


def _limit(file: File, listing: Listing) -> type[tqdm]:
    """A progress bar, as the library takes one for a file, that ends the download of more bytes than are listed."""

    class Limit(tqdm):
        def __init__(self, *arguments: Any, initial: int = 0, **options: Any) -> None:
            super().__init__(*arguments, initial=initial, **options)  # type: ignore[no-untyped-call]
            self._arrived = initial

        def update(self, n: float | None = 1) -> bool:
            """Called with the bytes of each chunk, before it is written."""
            self._arrived += int(n or 0)
            if self._arrived > file.size:
                raise BuildError(
                    f"{file.origin} of {listing}: the hub sends more than the {file.size} bytes that it lists; check"
                    " HF_ENDPOINT"
                )
            return bool(super().update(n))

    return Limit


def _cause(error: BaseException) -> BaseException:
    """The error that the library hides behind "not on this disk", and behind a size that does not match."""
    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    if type(error) is OSError and error.errno is None:
        return _Incomplete(str(error).partition("\n")[0])
    return error


def _may_pass(error: BaseException, final: Collection[int]) -> bool:
    """True where the same request may succeed in a moment."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status not in final and (status in BUSY or status >= 500)
    return isinstance(error, httpx2.TransportError | _Incomplete)


def _pause(error: BaseException, count: int) -> float:
    """Seconds before the next attempt: as the hub asks, or twice as long each time."""
    asked = None
    if isinstance(error, HfHubHTTPError):
        headers = error.response.headers
        # `RateLimit: "resolvers";r=0;t=51` (the hub's documentation, "Rate limits") comes with other statuses too.
        limit = headers.get("ratelimit", "") if error.response.status_code == 429 else ""
        asked = re.search(r"^\d+$", headers.get("retry-after", "")) or re.search(r"(?<=;t=)\d+", limit)
    return min(float(asked.group()) if asked else 2.0 ** (count - 1), LONGEST_PAUSE)


def _status_error(response: httpx2.Response, what: str, token: str) -> BuildError:
    # A file's own URL ends in its name; a storage URL, to which the hub redirects, in a hash.
    _, resolved, path = response.url.path.partition("/resolve/")
    if resolved:
        what = f"{path.partition('/')[2]} of {what}"
    match response.status_code:
        case 401 | 403 as status:
            return BuildError(f"{what}: the hub refuses access ({status}); it needs a token: {token}")
        case 404:
            return BuildError(f"{what}: the hub does not have it (404)")
        case 429:
            return BuildError(f"{what}: the hub allows no more requests for now (429); wait, or use a token: {token}")
        case status:
            return BuildError(f"{what}: the hub answered {status}; try again later")
