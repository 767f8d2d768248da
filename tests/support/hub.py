"""A small Hugging Face hub on loopback, for tests of code that downloads: the builder, and a worker's start.

It serves directories as repositories at one commit each: the model's listing with sizes and hashes (`blobs=true`), the
tree, and files with ranges. Weights are LFS files, which another server (another port) stores and which take no token
there. Faults are declared per file. It knows nothing of its clients.

    with Hub({"Org/Name": Repo(directory)}) as hub:
        hub.fault("config.json", status=503, times=2)
        run(env={"HF_ENDPOINT": hub.url})

`python -m tests.support.hub DIRECTORY [--name Org/Name] [--revision COMMIT] [--host H] [--port N]` serves one to any
client.
"""

import argparse
import asyncio
import hashlib
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: the names under which requests for a model's listing and for its tree are recorded, and their faults declared
LISTING, TREE = "(listing)", "(tree)"
#: the hub's X-Error-Code by status, which its client reads
ERROR_CODES = {401: "RepoNotFound", 403: "GatedRepo", 404: "EntryNotFound"}
#: bytes from which a file is an LFS file; weights always are
LFS_FROM = 10 * 2**20
#: bytes of a body that does not end
ENDLESS = 50 * 2**20


def stored(file: str) -> str:
    """The name under which faults are declared of an LFS file where it is stored, to which the hub redirects."""
    return f"(stored) {file}"


@dataclass(frozen=True)
class Repo:
    """A directory, served at one commit, which is also `main`."""

    path: Path
    revision: str = COMMIT
    licence: str | None = "apache-2.0"
    #: of a gated model: the token that gives access
    token: str | None = None
    #: False: without the header that names the commit, as no hub answers
    commit_header: bool = True
    #: the commit that its listing says it has; None says `revision`
    claims: str | None = None


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request: a status, or a body that is cut, dropped or different."""

    status: int | None = None
    headers: Mapping[str, str] | None = None
    #: bytes sent before the connection is dropped
    drop_after: int | None = None
    #: bytes that are sent as if they were the whole file
    cut_to: int | None = None
    #: one byte is changed
    wrong: bool = False
    #: the Range header is ignored
    ignore_range: bool = False
    #: the second half of the body waits until `Hub.go_on` is set
    held: bool = False
    #: the body does not end, and its length is not announced; it stops at `ENDLESS` bytes, so that a test ends
    endless: bool = False


class Hub:
    """The server, on its own thread."""

    def __init__(self, repos: Mapping[str, Repo], host: str = "127.0.0.1", port: int = 0) -> None:
        self.repos = dict(repos)
        #: method, file (or LISTING or TREE), Range and Authorization of every request
        self.requests: list[tuple[str, str, str | None, str | None]] = []
        self.go_on = threading.Event()
        self._host, self._port = host, port
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    def fault(self, file: str, *, times: int = 1, **what: Any) -> None:
        """Declare a `Fault` of these fields for the next `times` requests for a file."""
        self._faults[file].extend([Fault(**what)] * times)

    def heal(self) -> None:
        """Drop all declared faults."""
        self._faults.clear()

    def asked(self, file: str) -> list[str | None]:
        """The Range of every GET of a file."""
        return [asked for method, name, asked, _ in self.requests if (method, name) == ("GET", file)]

    def __enter__(self) -> Self:
        self._thread.start()
        self._runner, self._port = self._do(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.go_on.set()
        self._do(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, coroutine: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result()

    async def _start(self) -> tuple[web.AppRunner, int]:
        application = web.Application()
        application.router.add_get("/api/models/{org}/{name}/revision/{revision:.+}", self._list)
        application.router.add_get("/api/models/{org}/{name}", self._list)
        application.router.add_get("/api/models/{org}/{name}/tree/{revision}", self._tree)
        application.router.add_get("/{org}/{name}/resolve/{revision}/{file:.+}", self._resolve)
        application.router.add_get("/blobs/{org}/{name}/{file:.+}", self._blob)
        runner = web.AppRunner(application, shutdown_timeout=0)
        await runner.setup()
        for port in (self._port, 0):
            await web.TCPSite(runner, self._host, port).start()
        (_, hub, *_), (_, store, *_) = runner.addresses
        self._store = f"http://{self._host}:{store}"
        return runner, hub

    # --- routes ----------------------------------------------------------------------------------------------------

    async def _list(self, request: web.Request) -> web.Response:
        repo = self._repo(request, LISTING)
        return web.json_response({
            "id": f"{request.match_info['org']}/{request.match_info['name']}",
            "sha": repo.claims or repo.revision,
            "cardData": {"license": repo.licence} if repo.licence else None,
            "siblings": [_sibling(repo, path, blobs=request.query.get("blobs") == "true") for path in _files(repo)],
        })  # fmt: skip

    async def _tree(self, request: web.Request) -> web.Response:
        repo = self._repo(request, TREE)
        return web.json_response([_entry(repo, path) for path in _files(repo)])

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["file"]
        repo = self._repo(request, name)
        path = self._path(repo, name)
        headers = {"ETag": f'"{git_of(path)}"'}
        if repo.commit_header:
            headers["X-Repo-Commit"] = repo.revision
        if _is_lfs(path):
            headers |= {"X-Linked-Size": str(path.stat().st_size), "X-Linked-Etag": f'"{sha256_of(path)}"'}
            org, model = request.match_info["org"], request.match_info["name"]
            raise web.HTTPFound(f"{self._store}/blobs/{org}/{model}/{name}", headers=headers)
        return await self._send(request, path, name, headers)

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        if "Authorization" in request.headers:
            raise _error(400)
        repo = self.repos[f"{request.match_info['org']}/{request.match_info['name']}"]
        name = request.match_info["file"]
        self._record(request, name)
        self._raise_fault(stored(name))
        return await self._send(request, self._path(repo, name), name, {})

    # --- their parts -----------------------------------------------------------------------------------------------

    def _record(self, request: web.Request, file: str) -> None:
        headers = request.headers
        self.requests.append((request.method, file, headers.get("Range"), headers.get("Authorization")))

    def _raise_fault(self, file: str) -> None:
        faults = self._faults[file]
        if faults and (status := faults[0].status):
            raise _error(status, faults.popleft().headers)

    def _repo(self, request: web.Request, file: str) -> Repo:
        authorization = request.headers.get("Authorization")
        self._record(request, file)
        self._raise_fault(file)
        repo = self.repos.get(f"{request.match_info['org']}/{request.match_info['name']}")
        if repo is None:
            raise _error(401)
        if repo.token and authorization != f"Bearer {repo.token}":
            raise _error(403)
        if request.match_info.get("revision", "main") not in ("main", repo.revision):
            raise _error(404, {"X-Error-Code": "RevisionNotFound"})
        return repo

    def _path(self, repo: Repo, name: str) -> Path:
        path = repo.path / name
        if ".." in Path(name).parts or not path.is_file():
            raise _error(404)
        return path

    async def _send(
        self, request: web.Request, path: Path, name: str, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        faults = self._faults[name]
        fault = faults.popleft() if faults and request.method == "GET" else Fault()
        content = _content(path, fault)
        start = 0 if fault.ignore_range else request.http_range.start or 0
        if start and start >= len(content):
            raise _error(416)
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if not fault.endless:
            response.content_length = len(content) - start
        await response.prepare(request)
        body = content[start:] if request.method == "GET" else b""
        if fault.held or fault.drop_after is not None:
            await response.write(body[: fault.drop_after if fault.drop_after is not None else len(body) // 2])
            if fault.held:
                await asyncio.to_thread(self.go_on.wait)
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(body)
        for _ in range(ENDLESS // 2**20 if fault.endless else 0):
            await response.write(bytes(2**20))
        await response.write_eof()
        return response


def _content(path: Path, fault: Fault) -> bytes:
    content = path.read_bytes()
    if fault.wrong:
        content = bytes([content[0] ^ 1]) + content[1:]
    return content[: fault.cut_to]


def _files(repo: Repo) -> list[Path]:
    return sorted(path for path in repo.path.rglob("*") if path.is_file())


def _sibling(repo: Repo, path: Path, *, blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": path.relative_to(repo.path).as_posix()}
    if blobs:
        sibling |= {"size": path.stat().st_size, "blobId": git_of(path)}
        if _is_lfs(path):
            sibling["lfs"] = {"sha256": sha256_of(path), "size": path.stat().st_size, "pointerSize": 135}
    return sibling


def _entry(repo: Repo, path: Path) -> dict[str, Any]:
    sibling = _sibling(repo, path, blobs=True)
    return {"type": "file", "path": sibling["rfilename"], "size": sibling["size"], "oid": sibling["blobId"]}


def _is_lfs(path: Path) -> bool:
    return path.suffix == ".safetensors" or path.stat().st_size >= LFS_FROM


def git_of(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _error(status: int, headers: Mapping[str, str] | None = None) -> web.HTTPException:
    """An answer in the form of the hub's errors."""

    class Answer(web.HTTPException):
        status_code = status

    code = {"X-Error-Code": ERROR_CODES[status]} if status in ERROR_CODES else {}
    return Answer(headers={**code, **(headers or {})}, text="refused")


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m tests.support.hub", description="Serve a directory as a model on a hub."
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--name", default="Qwen/Qwen2.5-7B-Instruct")
    parser.add_argument("--revision", default=COMMIT)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8700)
    chosen = parser.parse_args()
    hub = Hub({chosen.name: Repo(chosen.directory, chosen.revision)}, chosen.host, chosen.port)
    with hub:
        sys.stdout.write(f"HF_ENDPOINT={hub.url} MODEL_NAME={chosen.name} MODEL_REVISION={chosen.revision}\n")
        sys.stdout.flush()
        hub.go_on.wait()


if __name__ == "__main__":
    main()
