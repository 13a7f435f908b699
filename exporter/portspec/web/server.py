"""The routes, and the sockets they are served on."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import resource
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from portspec.errors import ListenError, NoThreadError, PortspecError, UsageError
from portspec.ports import MAX_PORT
from portspec.threads import computed, in_daemon_thread
from portspec.web.api import Api, send_metrics
from portspec.web.audits import AuditRoutes
from portspec.web.connections import FIRST_REQUEST_TIMEOUT, BoundedConnections, connection_limit
from portspec.web.pages import Pages
from portspec.web.renderings import GoneError, Renderings, RenderingsBusyError

if TYPE_CHECKING:
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
        first_request: float = FIRST_REQUEST_TIMEOUT,
        max_connections: int | None = None,
        ready: asyncio.Event | None = None,
        control: str | None = None,
    ) -> None:
        self._service = service
        self._listeners = tuple(listeners)
        self._pages = Pages()
        self._first_request = first_request
        self._may_answer = ready
        self._control = control
        self._renderings = Renderings()
        self._max_connections = max_connections or connection_limit(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._runner: web.AppRunner | None = None
        self._servers: list[asyncio.Server] = []

    async def start(self) -> tuple[str, ...]:
        """Listen; returns the URLs, with the real ports. Raises ListenError, and then listens nowhere."""
        self._runner = web.AppRunner(self._application(), access_log=None, handle_signals=False, shutdown_timeout=0.2)
        await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("aiohttp has set up no server")
        self._connections = BoundedConnections(
            self._runner.server, limit=self._max_connections, first_request=self._first_request
        )
        try:
            for listener in self._listeners:
                await self._listen(listener)
            urls = [_url(sock.getsockname()) for server in self._servers for sock in server.sockets]
            if self._control:
                await self._listen_at(self._control)
        except BaseException:
            await self.stop()
            raise
        return tuple(dict.fromkeys(urls))

    async def stop(self) -> None:
        """Close every connection and socket."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _listen(self, listener: ListenAddress) -> None:
        try:
            hosts = await in_daemon_thread(lambda: _addresses(listener))
            server = await asyncio.get_running_loop().create_server(self._connections, hosts, listener.port)
        except (OSError, UnicodeError) as error:
            raise ListenError(str(listener), _why(error)) from None
        self._servers.append(server)

    async def _listen_at(self, path: str) -> None:
        """Listen on a Unix socket that is for this user and root; one that an earlier process left is replaced."""
        try:
            server = await asyncio.get_running_loop().create_unix_server(self._connections, path)
            self._servers.append(server)
            await in_daemon_thread(lambda: Path(path).chmod(0o600))
        except OSError as error:
            raise PortspecError(f"cannot listen on {path}, which `portspec reload` uses: {_why(error)}") from None

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._note_request])
        for path, handler in (
            ("/", self._index),
            ("/metrics", self._metrics),
            ("/-/healthy", self._healthy),
            ("/-/ready", self._ready),
        ):
            application.router.add_get(path, handler)
        Api(self._service, self._renderings).add_to(application.router)
        AuditRoutes(self._service).add_to(application.router)
        return application

    @web.middleware
    async def _note_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._connections.heard(request)
        if self._may_answer and not self._may_answer.is_set() and request.path != _HEALTHY:
            return _later("portspec is not ready: it is starting.\n", 1, is_json=request.path.startswith("/api/"))
        if request.method == "POST" and _is_of_another_site(request):
            return web.Response(status=403, text="cross-site requests are not allowed.\n")
        try:
            return await handler(request)
        except RenderingsBusyError:
            is_json = request.path.startswith("/api/")
            return _later("too many requests at once; retry later.\n", 5, is_json=is_json)
        except NoThreadError as error:
            return _later(f"temporarily unavailable: {error}.\n", 5, is_json=request.path.startswith("/api/"))
        except GoneError:  # nobody gets this answer
            return _later("the client has disconnected.\n", 5)

    async def _index(self, request: web.Request) -> web.Response:
        snapshot = self._service.snapshot

        def write() -> bytes:
            return self._pages.index(snapshot).encode()

        html = await self._renderings.page(request, "index", (snapshot.hosts, snapshot.audits), lambda: computed(write))
        return web.Response(body=html, content_type="text/html", charset="utf-8", headers=_PAGE_HEADERS)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        names = frozenset(request.query.getall("name[]", ()))
        return await send_metrics(
            request, lambda accept, encoding: self._service.exposition.write(accept, encoding, names)
        )

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="portspec is healthy.\n")

    async def _ready(self, _: web.Request) -> web.Response:
        if self._service.is_ready:
            return web.Response(text="portspec is ready.\n")
        return web.Response(status=503, text="portspec is not ready: the first round of scans is not complete.\n")


_HEALTHY = "/-/healthy"
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def _later(text: str, seconds: int, *, is_json: bool = False) -> web.Response:
    """Answer that it cannot be done now, and when to ask again (RFC 9110, 15.6.4)."""
    headers = {"Retry-After": str(seconds)}
    if is_json:
        return web.json_response({"error": "unavailable", "message": text.strip()}, status=503, headers=headers)
    return web.Response(status=503, text=text, headers=headers)


def _is_of_another_site(request: web.Request) -> bool:
    """Return whether a page of another site makes a browser send this (Fetch Metadata; older ones tell the origin)."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return True
    origin = request.headers.get("Origin")
    return origin is not None and origin.partition("://")[2].lower() != request.host.lower()


def _addresses(listener: ListenAddress) -> list[str]:
    """Look up a listen address; the event loop would use a thread that stays and keeps its initial privileges."""
    found = socket.getaddrinfo(listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [str(socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]) for *_, address in found]


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
