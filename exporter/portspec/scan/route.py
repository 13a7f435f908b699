"""Whether silence counts: only if probes could leave this machine and answers could arrive.

An engine takes a TrackedRoute to an address before its first probe, and checks it before it believes that a port is
silent. The check compares route, link and next hop with what they were:

    unusable    a Failure: no route, link down, other source address, next hop does not answer ARP or ND
    PENDING     the kernel still resolves the next hop: check again at `recheck_at`
    CHANGED     the link was lost and came back, or the route changed: probes may have been lost, so silent ports
                are probed again from the first try; after MAX_RESTARTS times a Failure
    STABLE      nothing changed since the first probe: silence counts

No socket: a Network (netlink.Netlink in production) says what the kernel knows.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Protocol, TypeVar

from portspec.scan.failures import no_route, send_failure
from portspec.scan.netlink import Neighbour

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from portspec.scan.job import Failure
    from portspec.scan.netlink import Link, Route

T = TypeVar("T")

RECHECK_INTERVAL = 0.25  # seconds between two look-ups of a neighbour that the kernel resolves
_CACHE_TTL = 0.05  # seconds for which a new TrackedRoute may use an earlier answer about a link or a next hop
_MAX_CACHED = 4096
# Seconds to wait for the kernel to resolve a neighbour. Linux sends three requests, a second apart; for a neighbour
# that it knew it begins after 5 seconds (arp(7): mcast_solicit, ucast_solicit, delay_first_probe_time).
MAX_RESOLUTION_TIME = {Neighbour.UNRESOLVED: 4.0, Neighbour.UNSURE: 10.0}
_RESOLVED = {Neighbour.KNOWN, Neighbour.UNSURE}
MAX_RESTARTS = 3  # times that the silent ports of an address are probed again because its route changed


class RouteStatus(enum.Enum):
    """What a check of a route means for the silent ports; a Failure instead where nothing could be received."""

    STABLE = enum.auto()  # silence counts
    CHANGED = enum.auto()  # probe every silent port again, from the first try
    PENDING = enum.auto()  # check again at `recheck_at`


class Network(Protocol):
    """What the kernel knows of routes; netlink.Netlink is the real one. Each method raises OSError."""

    def route(self, address: str) -> Route:
        """Return the route to an address."""
        ...

    def link(self, index: int) -> Link:
        """Return the state of an interface."""
        ...

    def neighbour(self, route: Route) -> Neighbour:
        """Return what is known of the next hop of a route."""
        ...


class RouteCache:
    """Tracks routes, and looks shared links and gateways up once for many of them. Times in seconds."""

    __slots__ = ("_cache", "network")

    def __init__(self, network: Network) -> None:
        self.network = network
        self._cache: dict[Hashable, tuple[float, object]] = {}

    def track(self, address: str, now: float) -> TrackedRoute:
        """Return the route to an address as it is now.

        Raises:
            OSError: there is none; the errno is that of a send.
        """
        return TrackedRoute(self, address, now)

    def link(self, index: int, now: float, max_age: float = 0.0) -> Link:
        """Return the state of an interface, at most `max_age` seconds old."""
        return self._cached(index, now, max_age, lambda: self.network.link(index))

    def neighbour(self, route: Route, now: float, max_age: float = 0.0) -> Neighbour:
        """Return what is known of the next hop of a route, at most `max_age` seconds old."""
        return self._cached((route.index, route.next_hop), now, max_age, lambda: self.network.neighbour(route))

    def _cached(self, key: Hashable, now: float, max_age: float, look_up: Callable[[], T]) -> T:
        answer = self._cache.get(key)
        if answer is None or now - answer[0] > max_age:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            answer = self._cache[key] = now, look_up()
        return answer[1]  # type: ignore[return-value] # the key says which


class TrackedRoute:
    """The route to one address: as it was when its ports were first probed, and whether it has held since."""

    __slots__ = (
        "_changes", "_restarts", "_routes", "_waiting_since", "_was_known", "_was_lost",
        "address", "current", "recheck_at",
    )  # fmt: skip

    def __init__(self, routes: RouteCache, address: str, now: float) -> None:
        self._routes = routes
        self.address = address
        self.current = routes.network.route(address)
        # An older answer is safe: at worst a change counts that was before the first probe, and ports are probed again.
        link = routes.link(self.current.index, now, _CACHE_TTL)
        self._changes = link.changes
        # While the next hop is being resolved packets wait in a short queue, and most of them are dropped.
        self._was_known = not link.has_neighbours or routes.neighbour(self.current, now, _CACHE_TTL) in _RESOLVED
        self._restarts = 0
        self._waiting_since: float | None = None  # for the kernel to resolve the next hop
        self._was_lost = False  # the next hop was seen unresolved while this waited
        self.recheck_at = -math.inf  # do not check before

    def check(self, now: float, *, has_answered: bool) -> RouteStatus | Failure:
        """Return whether the silence of ports counts that were tried as often as needed.

        Args:
            now: the time of the engine's clock, `recheck_at` or later.
            has_answered: True if the address has answered any probe since this route was taken.
        """
        if now < self.recheck_at:
            return RouteStatus.PENDING
        try:
            route = self._routes.network.route(self.address)
            link = self._routes.link(route.index, now)
            neighbour = self._routes.neighbour(route, now) if link.has_neighbours else Neighbour.KNOWN
        except OSError as error:
            return send_failure(self.address, error.errno or 0)
        was_reached = self._was_known or has_answered
        is_gone = neighbour is Neighbour.ABSENT and (self._was_lost or not was_reached)
        why = self._unusable(route, link, has_neighbour=not is_gone and neighbour is not Neighbour.FAILED)
        if why:
            return why
        if neighbour is Neighbour.UNRESOLVED or (neighbour is Neighbour.UNSURE and not has_answered):
            return self._await_neighbour(now, route, link, neighbour)
        is_forgotten = neighbour is Neighbour.ABSENT and not has_answered
        has_changed = route != self.current or link.changes != self._changes
        if has_changed or is_forgotten or self._was_lost or not was_reached:
            return self._restart(route, link, neighbour)
        return RouteStatus.STABLE

    def _unusable(self, route: Route, link: Link, *, has_neighbour: bool) -> Failure | None:
        """Return why no answer can arrive now; None if one can."""
        if not link.is_up:
            return no_route(f"no link to {self.address}: {link.name} is down")
        if route.source != self.current.source:
            return no_route(
                f"this machine's address towards {self.address} changed from {self.current.source} to {route.source}"
            )
        return None if has_neighbour else self._unresolved(route, link)

    def _await_neighbour(self, now: float, route: Route, link: Link, neighbour: Neighbour) -> RouteStatus | Failure:
        """Wait for the kernel to resolve the next hop, at most MAX_RESOLUTION_TIME."""
        if self._waiting_since is None:
            self._waiting_since = now
        if now - self._waiting_since >= MAX_RESOLUTION_TIME[neighbour]:
            return self._unresolved(route, link)
        self._was_lost = self._was_lost or neighbour is Neighbour.UNRESOLVED
        # Aligned, so that all addresses behind one gateway are checked at the same time, with one look-up.
        self.recheck_at = (math.floor(now / RECHECK_INTERVAL) + 1) * RECHECK_INTERVAL
        return RouteStatus.PENDING

    def _restart(self, route: Route, link: Link, neighbour: Neighbour) -> RouteStatus | Failure:
        """Have the silent ports probed again, by the route as it is now: earlier probes may not have left."""
        if self._restarts == MAX_RESTARTS:
            return no_route(
                f"the route to {self.address} did not stay the same while it was scanned: the link {link.name}, or the "
                "route, changes again and again"
            )
        self._restarts += 1
        self.current, self._changes = route, link.changes
        self._was_known = neighbour in _RESOLVED
        self._waiting_since, self._was_lost = None, False
        return RouteStatus.CHANGED

    def _unresolved(self, route: Route, link: Link) -> Failure:
        how = "neighbour discovery" if ":" in route.next_hop else "ARP"
        if route.next_hop == self.address:
            return no_route(f"{self.address} does not answer {how} on {link.name}: no probe was sent to it")
        return no_route(
            f"the gateway {route.next_hop} does not answer {how} on {link.name}: no probe was sent to {self.address}"
        )
