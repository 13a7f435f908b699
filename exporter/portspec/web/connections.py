"""The open connections of one group of listeners: who gets a place, and who loses it."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter, OrderedDict
from functools import lru_cache
from itertools import chain, takewhile
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.audit.ingest import network_of
from portspec.web.connection import Connection
from portspec.web.limits import REASONS, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from aiohttp import web

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

_log = log.get("web")
_MALFORMED: Final = "malformed request"
_FAULT: Final = "a request failed"
_REMEMBERED: Final = 1024  # addresses that were parsed: a client opens many connections


class BoundedConnections:
    """The connections to an aiohttp server over one group of listeners, which is called `name`.

    A new connection takes a place if one is free, else that of the one that has waited longest for its client, be it
    for a request or for the rest of one; and within the share of its address that of the longest waiting one of the
    same address. Addresses of the `trusted` networks, proxies that many clients come through, have no share, nor have
    those that are `exempt`: on loopback are proxies and Prometheus. What serves a request is never displaced: if all
    do, a few more connections are accepted for requests that are answered under any load (`is_reserved`).
    """

    def __init__(
        self,
        server: web.Server,
        limits: Limits,
        *,
        name: str = "web",
        trusted: Callable[[], Collection[Network]] = tuple,
        exempt: Collection[Network] = LOOPBACK,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.name = name
        self.now = clock
        self.exempt = exempt
        self._trusted = trusted
        self.closed = Counter[str](dict.fromkeys(REASONS, 0))  # by reason
        self._server = server
        # The one that has made no progress for longest is first, in each of these:
        self._open: OrderedDict[Connection, None] = OrderedDict()
        self._waiting: OrderedDict[Connection, None] = OrderedDict()  # those that no request is answered on
        self._resting: OrderedDict[Connection, None] = OrderedDict()  # those of them that may be closed at any time
        self._held: Counter[str] = Counter()  # by network
        self._reserved = 0
        self._timer: asyncio.TimerHandle | None = None
        self._throttles = {text: log.Throttle(clock=clock) for text in (_MALFORMED, _FAULT)}

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._open)

    def admit(self, address: str | None) -> Connection | None:
        """Return the protocol for a connection from an address (None: a Unix socket); None if it gets no place."""
        network = self._network(address)
        has_share = network is None or self._held[network] < self.limits.share
        if not has_share and not self._displace(lambda other: other.network == network):
            self.closed["share"] += 1
            return None
        is_reserved = False
        if len(self._open) - self._reserved >= self.limits.places:
            is_reserved = not self._displace(lambda other: not other.is_reserved)
        if is_reserved and self._reserved >= self.limits.reserve and not self._displace(attrgetter("is_reserved")):
            self.closed["limit"] += 1
            return None
        connection = Connection(self._server, self, network)
        connection.is_reserved = is_reserved
        self._open[connection] = None
        self.touch(connection)
        self._reserved += is_reserved
        if network is not None:
            self._held[network] += 1
        if self._timer is None:
            self._watch()
        return connection

    def make_room(self) -> None:
        """Close the connection that has waited longest: the process is short of file descriptors."""
        self.closed["descriptors"] += 1
        self._displace(lambda _: True)

    def touch(self, connection: Connection) -> None:
        """Note that a connection makes progress now."""
        connection.since = self.now()
        if connection not in self._open:
            return
        self._open.move_to_end(connection)
        for among, belongs in ((self._waiting, connection.is_waiting), (self._resting, connection.is_resting)):
            if belongs:
                among[connection] = None
                among.move_to_end(connection)
            else:
                among.pop(connection, None)

    def close(self, connection: Connection, reason: str) -> None:
        """Close a connection for a reason of limits.REASONS; its place is free at once."""
        self.closed[reason] += 1
        self.remove(connection)
        connection.abort()

    def remove(self, connection: Connection) -> None:
        """Give back the place of a connection, once."""
        if connection not in self._open:
            return
        del self._open[connection]
        self._waiting.pop(connection, None)
        self._resting.pop(connection, None)
        self._reserved -= connection.is_reserved
        if (network := connection.network) is not None:
            self._held[network] -= 1
            if not self._held[network]:
                del self._held[network]

    def check(self) -> None:
        """Close the connections that exceed a limit of time."""
        now = self.now()
        for connection in tuple(self._open):
            if reason := connection.overdue(now):
                self.close(connection, reason)

    def stop(self) -> None:
        """Close every connection, and check no more."""
        if self._timer:
            self._timer.cancel()
        for connection in tuple(self._open):
            self.remove(connection)
            connection.abort()

    def on_error(self, address: str | None, error: BaseException | None, *, is_malformed: bool, told: str = "") -> None:
        """Log a malformed request as a line, a fault with its traceback; both a few times a minute."""
        text = _MALFORMED if is_malformed else _FAULT
        if is_malformed:
            self.closed["malformed"] += 1
        unlogged = self._throttles[text].take()
        if unlogged is None:
            return
        more = {"unlogged": unlogged} if unlogged else {}
        if is_malformed:
            _log.info(text, origin=address or "unknown", why=_first_line(error), **more)
        else:
            _log.error(text, origin=address or "unknown", why=told or repr(error), exc_info=error, **more)

    def on_handshake_error(self, error: BaseException | None) -> None:
        """Count a connection that ended in its TLS handshake: a port scan, or a client that distrusts the server."""
        self.closed["tls"] += 1
        if not isinstance(error, OSError):
            self.on_error(None, error, is_malformed=False)

    def _network(self, address: str | None) -> str | None:
        """Return what the share of an address is counted for, None if it has none."""
        if address is None:
            return None
        found = _parsed(address)
        if any(found in network for network in (*self.exempt, *self._trusted())):
            return None
        return network_of(address)

    def _displace(self, belongs: Callable[[Connection], bool]) -> bool:
        """Close the connection that has waited longest, of those for which `belongs` is true; return whether one was.

        A flood of connections calls this for each, so it looks at none that is too young to be closed.
        """
        now = self.now()
        others = chain(takewhile(lambda other: other.is_old(now), self._waiting), self._resting)
        found = next((other for other in others if belongs(other) and other.gives_way(now)), None)
        if found is not None:
            self.close(found, "displaced")
        return found is not None

    def _watch(self) -> None:
        self.check()
        self._timer = asyncio.get_running_loop().call_later(self.limits.interval, self._watch) if self._open else None


@lru_cache(maxsize=_REMEMBERED)
def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address.partition("%")[0])


def _first_line(error: BaseException | None) -> str:
    """Return what is wrong with a request; the lines after it show the bytes of the client."""
    text = str(getattr(error, "message", "") or error or "").partition("\n")[0]
    return text.rstrip(":") or type(error).__name__
