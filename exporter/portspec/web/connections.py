"""Limits for connections to the web server: their number, and the time until the first request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

MANY_DESCRIPTORS = 16384  # from which on MAX_CONNECTIONS is allowed; a scan uses at most half of the descriptors
MAX_CONNECTIONS = 1024
MAX_CONNECTIONS_FEW_DESCRIPTORS = 128  # well below the descriptors that the scan leaves free
FIRST_REQUEST_TIMEOUT = 10.0  # seconds until a new connection must have sent a complete request header


def connection_limit(descriptors: int) -> int:
    """Return how many connections may be open at once under a limit of file descriptors (RLIMIT_NOFILE)."""
    return MAX_CONNECTIONS if descriptors >= MANY_DESCRIPTORS else MAX_CONNECTIONS_FEW_DESCRIPTORS


class BoundedConnections:
    """Makes the protocol of each new connection of an aiohttp server."""

    def __init__(self, server: web.Server, *, limit: int, first_request: float) -> None:
        self._server = server
        self._limit = limit
        self._first_request = first_request
        self._new = 0
        self._silent: dict[asyncio.Protocol, asyncio.TimerHandle] = {}

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol; a connection beyond the limit is closed at once."""
        if len(self._server.connections) + self._new >= self._limit:
            return _Refusal()
        protocol = self._server()
        loop = asyncio.get_running_loop()
        # The server counts a connection in the next turn of the loop; a whole backlog is accepted in this one.
        self._new += 1
        loop.call_soon(self._count_one_less)
        self._silent[protocol] = loop.call_later(self._first_request, self._close_silent, protocol)
        return protocol

    def _count_one_less(self) -> None:
        self._new -= 1

    def heard(self, request: web.BaseRequest) -> None:
        """Stop the timer of a connection, which has sent a request."""
        if timer := self._silent.pop(request.protocol, None):
            timer.cancel()

    def _close_silent(self, protocol: web.RequestHandler) -> None:
        del self._silent[protocol]
        protocol.force_close()


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
