"""The routes, and the sockets they are served on."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from portspec.errors import ListenError, UsageError
from portspec.ports import MAX_PORT
from portspec.threads import in_daemon_thread
from portspec.web.connections import FIRST_REQUEST, MAX_CONNECTIONS, BoundedConnections
from portspec.web.pages import Pages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from portspec.metrics import Exposition
    from portspec.snapshot import Snapshot

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Listener:
    """Where to listen; host None is every address of the machine, port 0 any free one."""

    host: str | None
    port: int

    def __str__(self) -> str:
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def parse_listen_address(text: str) -> Listener:
    """Read ":10190", "127.0.0.1:10190" or "[::1]:10190"; UsageError if it is none of these."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    is_port = re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= MAX_PORT
    if not colon or not is_port or (":" in bare) != bracketed:
        raise UsageError(
            f'--web.listen-address: "{text}" is not an address and port '
            '(expected ":10190", "127.0.0.1:10190" or "[::1]:10190")'
        )
    return Listener(bare or None, int(port))


class WebServer:
    """Serves one Snapshot after the other, on any number of addresses."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        exposition: Exposition,
        listeners: Sequence[Listener],
        *,
        first_request: float = FIRST_REQUEST,
    ) -> None:
        self._snapshot = snapshot
        self._exposition = exposition
        self._listeners = tuple(listeners)
        self._pages = Pages()
        self._first_request = first_request
        self._runner: web.AppRunner | None = None
        self._servers: list[asyncio.Server] = []

    async def start(self) -> tuple[str, ...]:
        """Listen; gives the URLs, with the real ports. Raises ListenError, and then listens nowhere."""
        self._runner = web.AppRunner(self._application(), access_log=None, handle_signals=False, shutdown_timeout=0.2)
        await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("aiohttp has set up no server")
        self._connections = BoundedConnections(
            self._runner.server, limit=MAX_CONNECTIONS, first_request=self._first_request
        )
        try:
            for listener in self._listeners:
                await self._listen(listener)
        except BaseException:
            await self.stop()
            raise
        urls = (_url(sock.getsockname()) for server in self._servers for sock in server.sockets)
        return tuple(dict.fromkeys(urls))

    async def stop(self) -> None:
        """Close every connection and socket."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _listen(self, listener: Listener) -> None:
        try:
            hosts = await in_daemon_thread(lambda: _addresses(listener))
            server = await asyncio.get_running_loop().create_server(self._connections, hosts, listener.port)
        except (OSError, UnicodeError) as error:
            raise ListenError(str(listener), _why(error)) from None
        self._servers.append(server)

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._note_request])
        for path, handler in (
            ("/", self._index),
            ("/metrics", self._metrics),
            ("/-/healthy", self._healthy),
            ("/-/ready", self._ready),
        ):
            application.router.add_get(path, handler)
        return application

    @web.middleware
    async def _note_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._connections.heard(request)
        return await handler(request)

    async def _index(self, _: web.Request) -> web.Response:
        html = await in_daemon_thread(lambda: self._pages.index(self._snapshot()))
        return web.Response(text=html, content_type="text/html", headers=_PAGE_HEADERS)

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")
        body, content_type = await in_daemon_thread(lambda: self._exposition.write(accept))
        response = web.Response(body=body, headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="portspec is healthy.\n")

    async def _ready(self, _: web.Request) -> web.Response:
        if self._snapshot().is_complete:
            return web.Response(text="portspec is ready.\n")
        return web.Response(status=503, text="portspec is not ready: the first round of scans is not complete.\n")


_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def _addresses(listener: Listener) -> list[str]:
    """Look a listener's name up; the event loop would do that in a thread that stays, with all rights it began with."""
    found = socket.getaddrinfo(listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [str(socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]) for *_, address in found]


def _why(error: OSError | UnicodeError) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "no such address"
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _url(address: Sequence[object]) -> str:
    host, port = str(address[0]), address[1]
    if host in ("::", "0.0.0.0"):  # noqa: S104 - every address of this machine: one that a browser can open
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
