"""The HTTP application: its paths, its one key, and the shape of every error."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from handler import log
from handler.api.failure import Failure
from handler.engine.protocol import Status
from handler.errors import EngineFailed, Internal, WorkerError
from handler.openai.served import Served
from handler.queue.encoding import JsonObject
from handler.report import Report
from handler.settings import Settings
from handler.web import metrics, native, openai
from handler.web.answers import answer, json_response
from handler.web.bodies import Bodies
from handler.web.failures import Refused, body_of, headers_of, status_of
from handler.web.line import Line
from handler.web.routes import GETS, POSTS, REMOVED, Route

if TYPE_CHECKING:  # the port is bound before large libraries are imported
    from handler.job import Jobs

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Backend:
    """What answers requests, once the model is loaded."""

    jobs: "Jobs"
    #: requests that the engine runs at a time
    slots: int
    #: why the engine cannot go on; None while it can
    fault: Callable[[], str | None]
    status: Callable[[], Status]


class Face:
    """Answers requests, before, while and after there is a backend."""

    def __init__(self, settings: Settings, report: Report) -> None:
        self.report = report
        self.line = Line(lambda: report.state)
        self.backend: Backend | None = None
        self._bodies = Bodies()
        self._served: Served | None = None
        self._health_path = settings.health_check_path
        self._key = None if settings.api_key is None else settings.api_key.encode("utf-8", "surrogateescape")

    def application(self) -> web.Application:
        """The application, for aiohttp to serve."""
        application = web.Application(middlewares=[self._middleware])
        # `client_max_size` is aiohttp's own and for its own reading; bodies are read by `Bodies`.
        router = application.router
        for path in dict.fromkeys(("/ping", self._health_path)):
            router.add_get(path, self._ping)
        for path, route in POSTS.items():
            router.add_post(path, self._native(route))
        for path in GETS:
            if path != self._health_path:
                router.add_get(path, self._section)
        router.add_get("/metrics", self._metrics)
        router.add_route("*", openai.PREFIX + "{tail:.*}", self._openai)
        return application

    # -- every request ---------------------------------------------------------------------------------------------

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path not in ("/ping", self._health_path) and not self._allowed(request):
                raise Refused(
                    "unauthorized",
                    "send the worker's API_KEY as Authorization: Bearer KEY",
                    headers={"www-authenticate": "Bearer"},
                )
            return await handler(request)
        except ConnectionError:
            raise  # the client left
        except Refused as refused:
            return await self._fail(request, refused.failure, refused.headers)
        except WorkerError as error:
            return await self._fail(request, Failure.of(error))
        except web.HTTPException as error:
            wrong = _refusal(request, error)
            return await self._fail(request, wrong.failure, wrong.headers)
        except Exception as error:
            log.defect(error)
            return await self._fail(request, Failure.of(Internal()))

    def _allowed(self, request: web.Request) -> bool:
        if self._key is None:
            return True
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        sent = key.strip().encode("utf-8", "surrogateescape")
        return hmac.compare_digest(sent, self._key) and scheme.lower() == "bearer"

    async def _fail(
        self, request: web.Request, failure: Failure, headers: dict[str, str] | None = None
    ) -> web.StreamResponse:
        if request.path.startswith(openai.PREFIX):
            status, body, own = openai.failed(failure)
        else:
            status, body, own = status_of(failure), body_of(failure), headers_of(failure)
        response = json_response(body, status, {**own, **(headers or {})})
        if not request.content.is_eof():
            response.force_close()  # the rest of a body that nobody reads
        return await answer(request, response)

    def _ready(self) -> "Jobs":
        """The line of jobs.

        Raises:
            Overloaded: the model is loading.
        """
        if self.backend is None:
            self.line.check()
            raise EngineFailed("the worker did not start")
        return self.backend.jobs

    # -- paths -----------------------------------------------------------------------------------------------------

    async def _ping(self, _: web.Request) -> web.Response:
        """RunPod's question: 204 while loading, 200, or 503 where no request is to be sent here."""
        match self.report.state:
            case "loading":
                return web.Response(status=204)
            case "healthy":
                return json_response({"status": "healthy"})
            case state:
                return json_response({"status": state}, status=503)

    def _native(self, route: Route) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await native.run(route, request, self._ready, self.line, self._bodies)

        return handle

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        jobs = self._ready()
        if self._served is None:
            core = jobs.operations.core
            self._served = Served.of(core.model, core.engine, core.worker.version)
        return await openai.run(request, jobs, self._served, self.line, self._bodies)

    async def _section(self, request: web.Request) -> web.StreamResponse:
        name = GETS[request.path]
        if self.backend is None and name == "health":
            return await answer(request, json_response(self._loading()))
        return await answer(request, await native.section(name, self._ready()))

    def _loading(self) -> JsonObject:
        return {
            "success": True,
            "status": self.report.state,
            "model_loaded": False,
            "active_jobs": 0,
            "uptime": self.report.uptime_s,
        }

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        status = cache = None
        if self.backend is not None:
            status = self.backend.status()
            use = self.backend.jobs.operations.core.enhancer.rewriter.cache
            cache = metrics.CacheUse(use.hits, use.misses)
        text = metrics.exposition(self.report, self.line, status, cache)
        headers = {"content-type": metrics.CONTENT_TYPE}
        return await answer(request, web.Response(body=text.encode(), headers=headers))


def _refusal(request: web.Request, error: web.HTTPException) -> Refused:
    """An error of the library in this worker's shape."""
    if reason := REMOVED.get(request.path):
        return Refused("unknown_url", reason)
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Refused("method_not_allowed", f"this path takes {allowed}", headers={"allow": allowed})
    if error.status == 404:
        there = ", ".join(sorted({*POSTS, *GETS, "/v1/chat/completions"}))
        return Refused("unknown_url", f"there is no such path; there are {there}")
    return Refused("invalid_request", error.reason)
