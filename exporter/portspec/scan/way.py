"""Whether silence counts: only where a probe could leave this machine, and an answer could come in.

An engine takes the way to an address before its first probe, and asks it before silence is believed. No socket: what
the kernel knows comes from a :class:`Network`.
"""

from __future__ import annotations

import enum
import errno
import math
import os
from typing import TYPE_CHECKING, Protocol, TypeVar

from portspec.scan.job import Failure, Reason
from portspec.scan.netlink import Neighbour

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from portspec.scan.netlink import Link, Route

T = TypeVar("T")

PAUSE = 0.25  # seconds between two questions about a neighbour
_AGE = 0.05  # seconds that an answer about link or next hop holds for ways that are taken
_MOST_ANSWERS = 4096
# How long the kernel's decision about a neighbour is waited for, in seconds. Linux asks three times, a second apart,
# and a neighbour that was known not before 5 seconds (arp(7): mcast_solicit, ucast_solicit, delay_first_probe_time).
LONGEST = {Neighbour.UNRESOLVED: 4.0, Neighbour.UNSURE: 10.0}
_RESOLVED = {Neighbour.KNOWN, Neighbour.UNSURE}
MOST_TIMES = 3  # silent ports are asked anew so often because the way had changed

NO_RESOURCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
NO_PERMISSION = {errno.EPERM, errno.EACCES}
NO_ROUTE = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.EHOSTDOWN,
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
    errno.EOPNOTSUPP,
    errno.ENODEV,
    errno.ENXIO,
    errno.EINVAL,  # a blackhole route
}


class Silence(enum.Enum):
    """What to do with silence. Where nothing could have been heard, it is a Failure instead."""

    COUNTS = enum.auto()
    ASK_AGAIN = enum.auto()  # the way was interrupted meanwhile: every silent port from the beginning
    ASK_LATER = enum.auto()  # at `ask_at`: the kernel does not know yet


class Network(Protocol):
    """What the kernel is asked; route.Netlink is the real one. Each raises OSError."""

    def route(self, address: str) -> Route:
        """Give the route to an address."""
        ...

    def link(self, index: int) -> Link:
        """Tell how an interface is."""
        ...

    def neighbour(self, route: Route) -> Neighbour:
        """Tell what is known of the next hop of a route."""
        ...


class Ways:
    """Makes ways, and asks about what they share (links, gateways) once for many. Times in seconds."""

    __slots__ = ("_answers", "network")

    def __init__(self, network: Network) -> None:
        self.network = network
        self._answers: dict[Hashable, tuple[float, object]] = {}

    def to(self, address: str, now: float) -> Way:
        """Take the way to an address as it is now; OSError, with the errno of a send, if there is none."""
        return Way(self, address, now)

    def link(self, index: int, now: float, age: float = 0.0) -> Link:
        """Tell how an interface is, or was at most so long ago."""
        return self._once(index, now, age, lambda: self.network.link(index))

    def neighbour(self, route: Route, now: float, age: float = 0.0) -> Neighbour:
        """Tell what is known of the next hop of a route, or was at most so long ago."""
        return self._once((route.index, route.next_hop), now, age, lambda: self.network.neighbour(route))

    def _once(self, key: Hashable, now: float, age: float, ask: Callable[[], T]) -> T:
        answer = self._answers.get(key)
        if answer is None or now - answer[0] > age:
            if len(self._answers) >= _MOST_ANSWERS:
                self._answers.clear()
            answer = self._answers[key] = now, ask()
        return answer[1]  # type: ignore[return-value] # the key says which


class Way:
    """The way to one address: as it was when its ports were first asked, and whether it held since."""

    __slots__ = ("_changes", "_since", "_times", "_was_known", "_was_lost", "_ways", "address", "ask_at", "route")

    def __init__(self, ways: Ways, address: str, now: float) -> None:
        self._ways = ways
        self.address = address
        self.route = ways.network.route(address)
        # An older answer does no harm: what changed since has ports asked anew that need not be.
        link = ways.link(self.route.index, now, _AGE)
        self._changes = link.changes
        # What is sent while the next hop is asked for waits in a short queue, and most of it is lost.
        self._was_known = not link.has_neighbours or ways.neighbour(self.route, now, _AGE) in _RESOLVED
        self._times = 0  # asked anew
        self._since: float | None = None  # when a decision of the kernel was first waited for
        self._was_lost = False  # the next hop, as seen while it was waited for
        self.ask_at = -math.inf  # not before this

    def silence(self, now: float, *, has_answered: bool) -> Silence | Failure:
        """Say whether silence counts; `has_answered`: something of the address was heard since the way was taken.

        To be called at `ask_at` or later, for ports that were asked as often as they should be.
        """
        if now < self.ask_at:
            return Silence.ASK_LATER
        try:
            route = self._ways.network.route(self.address)
            link = self._ways.link(route.index, now)
            neighbour = self._ways.neighbour(route, now) if link.has_neighbours else Neighbour.KNOWN
        except OSError as error:
            return failure(self.address, error.errno or 0)
        was_reached = self._was_known or has_answered
        is_gone = neighbour is Neighbour.ABSENT and (self._was_lost or not was_reached)
        why = self._lost(route, link, has_neighbour=not is_gone and neighbour is not Neighbour.FAILED)
        if why:
            return why
        if neighbour is Neighbour.UNRESOLVED or (neighbour is Neighbour.UNSURE and not has_answered):
            return self._wait(now, route, link, neighbour)
        is_forgotten = neighbour is Neighbour.ABSENT and not has_answered
        has_changed = route != self.route or link.changes != self._changes
        if has_changed or is_forgotten or self._was_lost or not was_reached:
            return self._begin_anew(route, link, neighbour)
        return Silence.COUNTS

    def _lost(self, route: Route, link: Link, *, has_neighbour: bool) -> Failure | None:
        """Say why nothing can be heard now, if so."""
        if not link.is_up:
            return _no_route(f"no link to {self.address}: {link.name} is down")
        if route.source != self.route.source:
            return _no_route(
                f"this machine's address towards {self.address} changed from {self.route.source} to {route.source}"
            )
        return None if has_neighbour else self._unsent(route, link)

    def _wait(self, now: float, route: Route, link: Link, neighbour: Neighbour) -> Silence | Failure:
        """Wait for the kernel's decision about a neighbour, but not for ever."""
        if self._since is None:
            self._since = now
        if now - self._since >= LONGEST[neighbour]:
            return self._unsent(route, link)
        self._was_lost = self._was_lost or neighbour is Neighbour.UNRESOLVED
        # All who wait ask in the same moment, so that one question serves for a gateway.
        self.ask_at = (math.floor(now / PAUSE) + 1) * PAUSE
        return Silence.ASK_LATER

    def _begin_anew(self, route: Route, link: Link, neighbour: Neighbour) -> Silence | Failure:
        """Have the silent ports asked anew: what was sent until now may not have got away."""
        if self._times == MOST_TIMES:
            return _no_route(
                f"the way to {self.address} did not hold while it was scanned: the link {link.name}, or the route, "
                "changes again and again"
            )
        self._times += 1
        self.route, self._changes = route, link.changes
        self._was_known = neighbour in _RESOLVED
        self._since, self._was_lost = None, False
        return Silence.ASK_AGAIN

    def _unsent(self, route: Route, link: Link) -> Failure:
        how = "neighbour discovery" if ":" in route.next_hop else "ARP"
        if route.next_hop == self.address:
            return _no_route(f"{self.address} does not answer {how} on {link.name}: no probe was sent to it")
        return _no_route(
            f"the gateway {route.next_hop} does not answer {how} on {link.name}: no probe was sent to {self.address}"
        )


def failure(address: str, code: int) -> Failure:
    """Say what an error number of a send or of a look-up means for an address."""
    detail = f"no probe to {address}: {os.strerror(code).lower()}"
    if code in NO_RESOURCE:
        return Failure(Reason.LOCAL_LIMIT, detail)
    if code in NO_PERMISSION:
        return Failure(
            Reason.PERMISSION,
            f"{detail}; this machine's packet filter or routing table refuses it, or its connection table is full",
        )
    if code == errno.EINVAL:
        detail = f"no probe to {address}: the route is a blackhole"
    return Failure(Reason.NO_ROUTE if code in NO_ROUTE else Reason.INTERNAL, detail)


def rejected_here(address: str, *, is_filter: bool = False) -> Failure:
    """Say that this machine itself answered a probe to an address with an ICMP error; `is_filter`: as filters do."""
    if is_filter:
        return Failure(Reason.PERMISSION, f"a firewall of this machine rejects what it sends to {address}")
    return _no_route(
        f"no probe to {address}: this machine answers them itself with an ICMP error, as it does where the next hop "
        "does not answer ARP or neighbour discovery"
    )


def _no_route(detail: str) -> Failure:
    return Failure(Reason.NO_ROUTE, detail)
