"""Listening sockets: how connections are accepted, a few at a time, also when descriptors are used up."""

from __future__ import annotations

import asyncio
import errno
import socket
from functools import partial
from typing import TYPE_CHECKING, Final

from portspec import log

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from portspec.web.connection import Connection
    from portspec.web.connections import BoundedConnections

BACKLOG: Final = 1024  # connections that the kernel keeps until they are accepted; net.core.somaxconn may be less
MAX_PER_TURN: Final = 16  # connections accepted before the event loop serves those that there are
PAUSE: Final = 0.1  # seconds without accepting after the process ran out of descriptors or memory
HANDSHAKE_TIMEOUT: Final = 10.0  # seconds for TLS
_SHORT: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}  # accept(2)

_log = log.get("web")


class Acceptor:
    """Accepts connections from sockets that are bound, within the limits of `connections`.

    A connection is no more than a socket until its client sends something. Those of a flood never do, and the transport
    and the task that reads requests would cost twice as much as all the rest (`benchmarks abuse connections`).

    `context` gives the TLS context for the next connection, None for none: what it gives may change at any time.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        connections: BoundedConnections,
        *,
        context: Callable[[], ssl.SSLContext | None],
    ) -> None:
        self.sockets = tuple(sockets)
        self._connections = connections
        self._context = context
        self._silent: dict[socket.socket, Connection] = {}  # those whose client has sent nothing yet
        self._beginning: set[asyncio.Task[None]] = set()
        self._resuming: dict[socket.socket, asyncio.TimerHandle] = {}
        self._throttle = log.Throttle()

    def start(self) -> None:
        """Listen. Raises OSError."""
        loop = asyncio.get_running_loop()
        for sock in self.sockets:
            sock.listen(BACKLOG)
            loop.add_reader(sock, self._accept, sock)

    def close(self) -> None:
        """Close the sockets, and the connections that have sent nothing or whose TLS handshake has not ended."""
        loop = asyncio.get_running_loop()
        for sock in self.sockets:
            if resuming := self._resuming.pop(sock, None):
                resuming.cancel()
            if sock.fileno() >= 0:
                loop.remove_reader(sock)
            sock.close()
        for client in tuple(self._silent):
            self._forget(client)
        for task in self._beginning:
            task.cancel()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(MAX_PER_TURN):
            try:
                client, address = sock.accept()
            except OSError as error:
                # All others concern one connection that is over already, or are that none is there (accept(2)).
                if error.errno in _SHORT:
                    self._pause(sock, error)
                return
            self._take(client, address[0] if isinstance(address, tuple) else None)

    def _take(self, client: socket.socket, address: str | None) -> None:
        connection = self._connections.admit(address)
        if connection is None:
            client.close()
            return
        client.settimeout(0)
        self._silent[client] = connection
        connection.end_start = partial(self._forget, client)
        asyncio.get_running_loop().add_reader(client.fileno(), self._start, client)

    def _start(self, client: socket.socket) -> None:
        """Read from a connection whose client has sent something; one that was closed before that is over."""
        if not _has_sent(client):
            self._forget(client)
            return
        asyncio.get_running_loop().remove_reader(client.fileno())
        connection = self._silent.pop(client)
        connection.begin()
        task = asyncio.create_task(self._begin(client, connection))
        connection.end_start = task.cancel
        self._beginning.add(task)
        task.add_done_callback(partial(self._on_begun, client, connection))

    def _forget(self, client: socket.socket) -> None:
        if connection := self._silent.pop(client, None):
            asyncio.get_running_loop().remove_reader(client.fileno())
            client.close()
            connection.connection_lost(None)

    async def _begin(self, client: socket.socket, connection: Connection) -> None:
        limits: dict[str, float] = {}
        if context := self._context():
            limits = {"ssl_handshake_timeout": HANDSHAKE_TIMEOUT, "ssl_shutdown_timeout": HANDSHAKE_TIMEOUT}
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: connection, client, ssl=context, **limits)

    def _on_begun(self, client: socket.socket, connection: Connection, task: asyncio.Task[None]) -> None:
        self._beginning.discard(task)
        connection.end_start = None
        if task.cancelled() or (error := task.exception()):
            client.close()
            connection.connection_lost(None)
            if not task.cancelled():
                self._connections.on_handshake_error(error)

    def _pause(self, sock: socket.socket, error: OSError) -> None:
        """Accept nothing for a moment: the socket stays readable, and the event loop would turn without end."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock)
        self._resuming[sock] = loop.call_later(PAUSE, self._resume, sock)
        self._connections.make_room()
        if (unlogged := self._throttle.take()) is not None:
            more = {"unlogged": unlogged} if unlogged else {}
            _log.error("cannot accept connections", why=(error.strerror or str(error)).lower(), **more)

    def _resume(self, sock: socket.socket) -> None:
        self._resuming.pop(sock, None)
        asyncio.get_running_loop().add_reader(sock, self._accept, sock)


def _has_sent(client: socket.socket) -> bool:
    """Return whether there is a byte to read; False at the end, and after a reset."""
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True  # woken in vain: the transport waits for it
    except OSError:
        return False
