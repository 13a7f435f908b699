"""The HTTP server: listen addresses, and the connections to each service."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

from aiohttp import web

from portspec.errors import ListenError, UsageError
from portspec.metrics import HttpStatus
from portspec.web.accepting import Acceptor
from portspec.web.address import ListenerName
from portspec.web.connections import BoundedConnections
from portspec.web.limits import REASONS, Limits
from portspec.web.site import Sites
from portspec.web.sockets import bound, bound_unix, url_of, why

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Sequence

    from portspec.web.address import ListenAddress
    from portspec.web.backend import Backend
    from portspec.web.gate import Gate
    from portspec.web.sockets import Inherited

ALL = "web"  # the group of listeners that serve everything
CONTROL = "control"  # and that of the Unix socket


class WebServer:
    """Serves what a backend gives, on any number of addresses, and on a Unix socket at the path `control`.

    `inherited` are sockets that a service manager has passed. TLS is that of the `gate`; the Unix socket has none. The
    listeners of each service are a group, with limits of connections of its own.
    """

    def __init__(  # noqa: PLR0913 - half of them are what tests replace
        self,
        backend: Backend,
        listeners: Sequence[ListenAddress],
        *,
        gate: Gate,
        inherited: Sequence[Inherited] = (),
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        ready: asyncio.Event | None = None,
        control: str | None = None,
    ) -> None:
        self._addresses = tuple(listeners)
        self._inherited = tuple(inherited)
        self._gate = gate
        self._sites = Sites(backend, gate, lambda: self.status, ready, wall_clock)
        self._limits = limits or Limits.under(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._clock = clock
        self._control = control
        self._runners: list[web.AppRunner] = []
        self._groups: dict[str, BoundedConnections] = {}
        self._acceptors: list[Acceptor] = []

    async def start(self) -> tuple[str, ...]:
        """Listen; returns the URLs, with the real ports. Raises ListenError, and then listens nowhere."""
        urls: list[str] = []
        try:
            for given in self._inherited:
                urls += await self._serve(_service_of(given), str(given.socket.getsockname()), [given.socket])
            for address in self._addresses:
                urls += await self._serve(address.service, str(address), await bound(address))
            if self._control:
                control = await bound_unix(self._control)
                self._accept([control], await self._group(CONTROL, None), self._control, is_plain=True)
        except BaseException:
            await self.stop()
            raise
        return tuple(dict.fromkeys(urls))

    async def stop(self) -> None:
        """Close every connection and socket."""
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()
        for group in self._groups.values():
            group.stop()
        self._groups.clear()

    @property
    def status(self) -> HttpStatus:
        """The state of the connections, and how many requests were refused."""
        groups = self._groups.values()
        closed = {reason: sum(group.closed[reason] for group in groups) for reason in REASONS}
        return HttpStatus({group.name: len(group) for group in groups}, closed, dict(self._gate.refused))

    async def _serve(self, service: ListenerName | None, name: str, sockets: Sequence[socket.socket]) -> list[str]:
        self._accept(sockets, await self._group(service or ALL, service), name)
        return [url_of(sock, is_encrypted=self._gate.is_encrypted) for sock in sockets]

    def _accept(
        self, sockets: Sequence[socket.socket], group: BoundedConnections, name: str, *, is_plain: bool = False
    ) -> None:
        """Accept connections from sockets within the limits of a group. Raises ListenError."""
        acceptor = Acceptor(sockets, group, context=(lambda: None) if is_plain else self._gate.tls)
        self._acceptors.append(acceptor)
        try:
            acceptor.start()
        except OSError as error:  # of two that listen at the same address the second fails here
            raise ListenError(name, why(error)) from None

    async def _group(self, name: str, service: ListenerName | None) -> BoundedConnections:
        if name not in self._groups:
            runner = web.AppRunner(
                self._sites.application(service, is_control=name == CONTROL),
                access_log=None,
                handle_signals=False,
                shutdown_timeout=0.2,
            )
            self._runners.append(runner)
            await runner.setup()
            if runner.server is None:
                raise RuntimeError("aiohttp has set up no server")
            self._groups[name] = BoundedConnections(
                runner.server,
                self._limits,
                name=name,
                trusted=lambda: self._gate.config.trusted_proxies,
                clock=self._clock,
            )
        return self._groups[name]


def _service_of(given: Inherited) -> ListenerName | None:
    """Return what the name of a socket says; the names that systemd gives by itself say nothing (systemd.socket(5))."""
    if given.name in set(ListenerName):
        return ListenerName(given.name)
    if given.name in ("", "unknown", "connection") or given.name.endswith(".socket"):
        return None
    known = ", ".join(ListenerName)
    raise UsageError(
        f'--web.systemd-socket: FileDescriptorName= is "{given.name}", which does not name what is served '
        f"(known: {known})"
    )
