"""The routes, and the sockets they are served on."""

from __future__ import annotations

import errno
import math
import os
import re
import resource
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from portspec.errors import ListenError, NoThreadError, PortspecError, UsageError
from portspec.metrics import HttpStatus, Page, negotiated
from portspec.ports import MAX_PORT
from portspec.threads import computed, in_daemon_thread
from portspec.web.accepting import Acceptor, bind, bind_unix
from portspec.web.api import Api, accepted, send_metrics
from portspec.web.audits import TAKES_BODY, AuditRoutes
from portspec.web.connection import Connection
from portspec.web.connections import BoundedConnections
from portspec.web.headers import is_of_another_site, protect
from portspec.web.limits import REASONS, Limits
from portspec.web.pages import Pages
from portspec.web.renderings import GoneError, Renderings, RenderingsBusyError
from portspec.web.sending import Sending, Text

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence

    from portspec.web.backend import Backend

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen; host None is every address of the machine, port 0 any free one."""

    host: str | None
    port: int

    def __str__(self) -> str:
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def parse_listen_address(text: str) -> ListenAddress:
    """Read ":10190", "127.0.0.1:10190" or "[::1]:10190"; UsageError if it is not one of these."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    is_port = re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= MAX_PORT
    if not colon or not is_port or (":" in bare) != bracketed:
        raise UsageError(
            f'--web.listen-address: "{text}" is not an address and port '
            '(expected ":10190", "127.0.0.1:10190" or "[::1]:10190")'
        )
    return ListenAddress(bare or None, int(port))


class WebServer:
    """Serves what a service gives, on any number of addresses, and on a Unix socket at the path `control`.

    Until the service is `ready`, /-/healthy is 200 and all else 503: nothing of the service is asked.
    """

    def __init__(
        self,
        service: Backend,
        listeners: Sequence[ListenAddress],
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        ready: asyncio.Event | None = None,
        control: str | None = None,
    ) -> None:
        self._service = service
        self._listeners = tuple(listeners)
        self._pages = Pages()
        self._may_answer = ready
        self._control = control
        self._renderings = Renderings[Text]()
        # Every scrape has a page of its own, shared by those who ask in the same way while the last one is written.
        self._scrapes = Renderings[Page](concurrent=1, waiting=_MAX_WAITING_SCRAPES)
        self._chosen_scrapes = Renderings[Page](concurrent=1)
        self._sending = Sending(_give_up)
        self._limits = limits or Limits.under(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._clock = clock
        self._runner: web.AppRunner | None = None
        self._connections: dict[str, BoundedConnections] = {}
        self._acceptors: list[Acceptor] = []

    async def start(self) -> tuple[str, ...]:
        """Listen; returns the URLs, with the real ports. Raises ListenError, and then listens nowhere."""
        self._runner = web.AppRunner(self._application(), access_log=None, handle_signals=False, shutdown_timeout=0.2)
        await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("aiohttp has set up no server")
        try:
            for listener in self._listeners:
                await self._listen(listener)
            urls = [_url(sock.getsockname()) for acceptor in self._acceptors for sock in acceptor.sockets]
            if self._control:
                await self._listen_at(self._control)
        except BaseException:
            await self.stop()
            raise
        return tuple(dict.fromkeys(urls))

    async def stop(self) -> None:
        """Close every connection and socket."""
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None
        for connections in self._connections.values():
            connections.stop()
        self._connections.clear()

    async def _listen(self, listener: ListenAddress) -> None:
        try:
            self._accept(bind(await in_daemon_thread(lambda: _addresses(listener))), "web")
        except (OSError, UnicodeError) as error:
            raise ListenError(str(listener), _why(error)) from None

    async def _listen_at(self, path: str) -> None:
        """Listen on a Unix socket that is for this user and root; one that an earlier process left is replaced."""
        try:
            self._accept([await in_daemon_thread(lambda: bind_unix(path))], "control")
        except OSError as error:
            raise PortspecError(f"cannot listen on {path}, which `portspec reload` uses: {_why(error)}") from None

    def _accept(self, sockets: Sequence[socket.socket], group: str) -> None:
        """Accept connections from sockets within the limits of a group of listeners. Raises OSError."""
        acceptor = Acceptor(sockets, self._group(group))
        self._acceptors.append(acceptor)
        acceptor.start()

    def _group(self, name: str) -> BoundedConnections:
        if name not in self._connections:
            if self._runner is None or self._runner.server is None:
                raise RuntimeError("aiohttp has set up no server")
            self._connections[name] = BoundedConnections(
                self._runner.server, self._limits, name=name, clock=self._clock
            )
        return self._connections[name]

    @property
    def status(self) -> HttpStatus:
        """The state of the connections."""
        groups = self._connections.values()
        closed = {reason: sum(group.closed[reason] for group in groups) for reason in REASONS}
        return HttpStatus({group.name: len(group) for group in groups}, closed)

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._answer], client_max_size=_MAX_BODY)
        application.on_response_prepare.append(protect)
        for path, handler in (
            ("/", self._index),
            ("/metrics", self._metrics),
            ("/-/healthy", self._healthy),
            ("/-/ready", self._ready),
        ):
            application.router.add_get(path, handler)
        Api(self._service, self._renderings, self._sending).add_to(application.router)
        AuditRoutes(self._service).add_to(application.router)
        return application

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if refusal := self._refusal(request):
            return refusal
        try:
            if isinstance(request.protocol, Connection) and request.method in ("GET", "HEAD"):
                async with request.protocol.while_open():  # nothing is done for a client that has gone
                    return await handler(request)
            return await handler(request)
        except RenderingsBusyError:
            return _busy(request, "too many requests at once; retry later.\n")
        except NoThreadError as error:
            return _busy(request, f"temporarily unavailable: {error}.\n")
        except GoneError:  # nobody gets this answer
            return _later("the client has disconnected.\n", 5)

    def _refusal(self, request: web.Request) -> web.Response | None:
        """Return the answer to a request that is not handled now, or not at all."""
        is_reserved = isinstance(request.protocol, Connection) and request.protocol.is_reserved
        if is_reserved and request.path not in _VITAL:
            return _busy(request, "too many connections at once; retry later.\n")
        if self._may_answer and not self._may_answer.is_set() and request.path != _HEALTHY:
            return _later("portspec is not ready: it is starting.\n", 1, is_json=request.path.startswith("/api/"))
        if (request.method == "POST" or request.path == "/probe") and is_of_another_site(request):
            return web.Response(status=403, text="cross-site requests are not allowed.\n")
        if request.path not in TAKES_BODY and _unread(request) > _MAX_BODY:
            answer = web.Response(status=413, text="no body is expected here; send none.\n")
            answer.force_close()
            return answer
        return None

    async def _index(self, request: web.Request) -> web.StreamResponse:
        snapshot = self._service.snapshot

        def write() -> Text:
            return Text(self._pages.index(snapshot).encode())

        parts = (snapshot.hosts, snapshot.audits)
        page = await self._renderings.page(request, "index", parts, lambda: computed(write))
        return await self._sending.send(request, page, _PAGE_HEADERS)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        names = frozenset(request.query.getall("name[]", ()))
        accept, encoding = accepted(request)

        def write() -> Page:
            return self._service.exposition.write(accept, encoding, names, http=self.status)

        scrapes = self._chosen_scrapes if names else self._scrapes
        key = (*negotiated(accept, encoding), names)
        page = await scrapes.page(request, key, None, lambda: computed(write))
        return await send_metrics(self._sending, request, page)

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="portspec is healthy.\n")

    async def _ready(self, _: web.Request) -> web.Response:
        if self._service.is_ready:
            return web.Response(text="portspec is ready.\n")
        return web.Response(status=503, text="portspec is not ready: the first round of scans is not complete.\n")


_HEALTHY = "/-/healthy"
_VITAL = frozenset({_HEALTHY, "/-/ready", "/metrics"})  # answered on the reserved connections, too
_MAX_BODY = 16 << 10  # bytes of a body that nobody reads: curl -d sends a few
_MAX_WAITING_SCRAPES = 1 << 20  # the limit of connections is much lower
_PAGE_HEADERS = {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store"}


def _give_up(request: web.BaseRequest) -> None:
    """Close the connection of a client that reads too slowly while too many do."""
    if isinstance(connection := request.protocol, Connection):
        connection.give_up("memory")


def _unread(request: web.Request) -> float:
    """Return the bytes of the body of a request; infinity if it does not tell."""
    if not request.body_exists:
        return 0
    return math.inf if request.content_length is None else request.content_length


def _busy(request: web.Request, text: str) -> web.Response:
    return _later(text, 5, is_json=request.path.startswith("/api/"))


def _later(text: str, seconds: int, *, is_json: bool = False) -> web.Response:
    """Answer that it cannot be done now, and when to ask again (RFC 9110, 15.6.4)."""
    headers = {"Retry-After": str(seconds)}
    if is_json:
        return web.json_response({"error": "unavailable", "message": text.strip()}, status=503, headers=headers)
    return web.Response(status=503, text=text, headers=headers)


def _addresses(listener: ListenAddress) -> list[tuple[int, Any]]:
    """Look up a listen address; the event loop would use a thread that stays and keeps its initial privileges."""
    found = socket.getaddrinfo(listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, address) for family, *_, address in found]


def _why(error: OSError | UnicodeError) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "no such address"
    # asyncio of Python 3.13 passes over this one error and then raises one without a number.
    is_nobodys = error.errno is None and "could not bind on any address" in str(error)
    number = errno.EADDRNOTAVAIL if is_nobodys else error.errno
    return os.strerror(number).lower() if number else str(error)


def _url(address: Sequence[object]) -> str:
    host, port = str(address[0]), address[1]
    if host in ("::", "0.0.0.0"):  # noqa: S104 - every address of this machine: one that a browser can open
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
