"""What is served at a listen address: the routes of its service, and what holds for every request."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from aiohttp import web

from portspec.errors import NoThreadError
from portspec.metrics import Page, negotiated
from portspec.threads import computed
from portspec.web.address import ListenerName
from portspec.web.api import Api
from portspec.web.audits import TAKES_BODY, AuditRoutes
from portspec.web.connection import Connection
from portspec.web.gate import RefusedError, is_open, refusal_page, user_of
from portspec.web.headers import protect
from portspec.web.page_routes import PageRoutes
from portspec.web.pages import Pages
from portspec.web.problems import ProblemError, is_of_api, problem, routing_problem
from portspec.web.prometheus import PrometheusRoutes, accepted, send_metrics
from portspec.web.renderings import GoneError, Renderings, RenderingsBusyError
from portspec.web.sending import Sending, Text
from portspec.web.turns import Turns

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from portspec.metrics import HttpStatus
    from portspec.web.backend import Backend
    from portspec.web.gate import Gate

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Sites:
    """Makes the applications of one exporter: they share what is rendered and what is being received.

    `status` returns the state of the HTTP server. Until the backend is `ready`, /-/healthy is 200 and all else 503:
    nothing of the backend is asked.
    """

    def __init__(
        self,
        backend: Backend,
        gate: Gate,
        status: Callable[[], HttpStatus],
        ready: asyncio.Event | None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend = backend
        self._gate = gate
        self._status = status
        self._may_answer = ready
        self._renderings = Renderings[Text]()
        # Every scrape has a page of its own, shared by those who ask in the same way while the last one is written.
        self._scrapes = Renderings[Page](concurrent=1, waiting=_MAX_WAITING_SCRAPES)
        self._chosen_scrapes = Renderings[Page](concurrent=1)
        self._sending = Sending(_give_up)
        self._turns = Turns()
        self._api = Api(backend, self._renderings, self._sending, status, wall_clock)
        self._prometheus = PrometheusRoutes(backend, self._renderings, self._sending)
        self._pages = PageRoutes(
            backend, Pages(wall_clock), self._renderings, self._sending, status, gate.external_url, wall_clock
        )
        self._audits = AuditRoutes(backend)

    def application(self, service: ListenerName | None, *, is_control: bool = False) -> web.Application:
        """Return what serves one service, or all of them; on the control socket nobody has to be let in."""

        @web.middleware
        async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._answer(request, handler, is_control=is_control)

        application = web.Application(middlewares=[answer], client_max_size=_MAX_BODY)
        application.on_response_prepare.append(self._set_headers)
        router = application.router
        router.add_get(_HEALTHY, self._healthy)
        router.add_get("/-/ready", self._ready)
        if service in (None, ListenerName.METRICS):
            router.add_get("/metrics", self._metrics)
            self._prometheus.add_to(router)
        if service in (None, ListenerName.UI):
            self._pages.add_to(router)
            router.add_post("/-/reload", self._reload)
            self._api.add_to(router)
        if service in (None, ListenerName.AUDITS):
            self._audits.add_to(router)
        return application

    async def _set_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        await protect(request, response)
        response.headers.update(self._gate.config.headers)

    async def _answer(self, request: web.Request, handler: Handler, *, is_control: bool) -> web.StreamResponse:
        if (refusal := self._refusal(request)) is not None:  # an answer is false in aiohttp 3.10
            return refusal
        try:
            if request.path not in _VITAL:
                await self._turns.wait()
                _check_client(request)
            if not is_control and not is_open(request.path):
                await self._gate.admit(request)
            return await _handled(request, handler)
        except RefusedError as error:
            return refusal_page(request, error)
        except ProblemError as error:
            return problem(request, error.status, error.detail, headers=error.headers)
        except web.HTTPException as error:
            if not is_of_api(request.path):
                raise
            return routing_problem(request, error)
        except (GoneError, NoThreadError, RenderingsBusyError) as error:  # nobody gets an answer to the first
            return _busy(request, f"temporarily unavailable: {error}.\n")

    def _refusal(self, request: web.Request) -> web.Response | None:
        """Return the answer to a request that is not handled now, or not at all."""
        is_reserved = isinstance(request.protocol, Connection) and request.protocol.is_reserved
        if is_reserved and request.path not in _VITAL:
            return _busy(request, "too many connections at once; retry later.\n")
        if self._may_answer and not self._may_answer.is_set() and request.path != _HEALTHY:
            return _later(request, "portspec is not ready: it is starting.\n", 1)
        if request.path not in TAKES_BODY and _unread(request) > _MAX_BODY:
            text = "no body is expected here; send none.\n"
            answer = (
                problem(request, 413, _plain(text)) if is_of_api(request.path) else web.Response(status=413, text=text)
            )
            answer.force_close()
            return answer
        return None

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        names = frozenset(request.query.getall("name[]", ()))
        accept, encoding = accepted(request)

        def write() -> Page:
            return self._backend.exposition.write(accept, encoding, names, http=self._status())

        scrapes = self._chosen_scrapes if names else self._scrapes
        key = (*negotiated(accept, encoding), names)
        page = await scrapes.page(request, key, None, lambda: computed(write))
        return await send_metrics(self._sending, request, page)

    async def _reload(self, request: web.Request) -> web.Response:
        message = await self._backend.reload(user_of(request))
        if message is not None:
            return web.Response(status=500, text=f"reload failed; keeping the previous configuration:\n{message}\n")
        return web.Response(text="configuration reloaded.\n")

    async def _healthy(self, _: web.Request) -> web.Response:
        is_starting = self._may_answer is not None and not self._may_answer.is_set()
        if not is_starting and (hanging := self._backend.hanging):
            return web.Response(status=503, text=f"portspec is not healthy: {', '.join(hanging)}: no progress.\n")
        return web.Response(text="portspec is healthy.\n")

    async def _ready(self, _: web.Request) -> web.Response:
        if self._backend.is_ready:
            return web.Response(text="portspec is ready.\n")
        return web.Response(status=503, text="portspec is not ready: the first round of scans is not complete.\n")


_HEALTHY = "/-/healthy"
_VITAL = frozenset({_HEALTHY, "/-/ready", "/metrics"})  # answered on the reserved connections, too
_READING = ("GET", "HEAD")  # changes nothing: need not be done for a client that has gone
_MAX_BODY = 16 << 10  # bytes of a body that nobody reads: curl -d sends a few
_MAX_WAITING_SCRAPES = 1 << 20  # the limit of connections is much lower


def _give_up(request: web.BaseRequest) -> None:
    """Close the connection of a client that reads too slowly while too many do."""
    if isinstance(connection := request.protocol, Connection):
        connection.give_up("memory")


async def _handled(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a request. Raises GoneError when its client disconnects and nothing else comes of it."""
    if isinstance(request.protocol, Connection) and request.method in _READING:
        async with request.protocol.while_open():
            return await handler(request)
    return await handler(request)


def _check_client(request: web.Request) -> None:
    """Raise GoneError if nobody waits for an answer that nothing else comes of."""
    if request.method in _READING and (request.transport is None or request.transport.is_closing()):
        raise GoneError


def _unread(request: web.Request) -> float:
    """Return the bytes of the body of a request; infinity if it does not tell."""
    if not request.body_exists:
        return 0
    return math.inf if request.content_length is None else request.content_length


def _busy(request: web.Request, text: str) -> web.Response:
    return _later(request, text, 5)


def _later(request: web.Request, text: str, seconds: int) -> web.Response:
    """Answer that it cannot be done now, and when to ask again (RFC 9110, 15.6.4)."""
    headers = {"Retry-After": str(seconds)}
    if is_of_api(request.path):
        return problem(request, 503, _plain(text), headers=headers, error="unavailable")
    return web.Response(status=503, text=text, headers=headers)


def _plain(text: str) -> str:
    """Return a line of text as the detail of a problem."""
    return text.removesuffix("\n").removesuffix(".")
