"""Whether vulnerable code can be reached from outside: audit and scan of a host, joined by package. Pure.

    vulnerability ─ package ─► file ─► process ─► socket ─► address at which the scan saw the port open

A vulnerability is reachable if its package, or the source package of it, owns the executable or a library of a process
that listens on a port that the scan saw open. What the agent or the scan did not see is unknown, never unreachable.
"""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from portspec.ports import PortSet, spell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from portspec.audit.model import Vulnerability
    from portspec.audit.payload import ListeningSocket

_ANY: Final = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104 - told by audits, not bound


class Reach(enum.StrEnum):
    """How far from a network vulnerable code is; the nearest first."""

    REACHABLE = "reachable"
    UNKNOWN = "unknown"
    LISTENING = "listening"
    INSTALLED = "installed"


_RANKS: Final[Mapping[Reach, int]] = MappingProxyType({reach: rank for rank, reach in enumerate(Reach)})


@dataclass(frozen=True, slots=True)
class SeenAddress:
    """What the last conclusive scan saw of an address: which ports it scanned, and which of them are open."""

    address: str
    scanned: PortSet
    open: PortSet


OutsideView = tuple[SeenAddress, ...]  # of the addresses that could be scanned; none without a conclusive scan


@dataclass(frozen=True, slots=True)
class Exposure:
    """Whether a package faces the network, and the steps of the proof, as far as they are known.

    Attributes:
        reach: as far as audit and scan tell.
        why: what is missing to be reachable, or to know it; "" if it is reachable.
        listener: the socket, and the process that listens; None without one.
        file: the executable or library of the process that the package owns.
        address: where the scan saw the port open.
        rank: the place of its reach among all; 0 is the nearest.
    """

    reach: Reach
    why: str = ""
    listener: ListeningSocket | None = None
    file: str = ""
    address: str = ""
    rank: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", _RANKS[self.reach])

    @property
    def steps(self) -> str:
        """The steps from the file to the address, as "/usr/sbin/nginx, nginx, 443, open at 192.0.2.1"."""
        if self.listener is None:
            return ""
        process, port = self.listener.process or "unknown process", self.listener.port
        socket = spell(port) if self.listener.protocol == "tcp" else f"{port}/{self.listener.protocol}"
        seen = f"open at {self.address}" if self.address else self.why
        return f"{self.file}, {process}, port {socket}, {seen}"


@dataclass(frozen=True, slots=True)
class Exposures:
    """The exposures of a host's packages: `by_name` of binary and source packages, and of paths of files.

    `other` is that of packages that own nothing of what listens.
    """

    by_name: Mapping[str, Exposure]
    other: Exposure

    def of(self, vulnerability: Vulnerability) -> Exposure:
        """Return the exposure of a vulnerability: of the files in which it was found, else of its package."""
        if not vulnerability.paths:
            return self.by_name.get(vulnerability.package, self.other)
        names = [path if path.startswith("/") else f"/{path}" for path in vulnerability.paths]
        found = [self.by_name[name] for name in names if name in self.by_name]
        return min(found, key=lambda exposure: exposure.rank, default=self.other)


NOTHING_KNOWN: Final = Exposures(MappingProxyType({}), Exposure(Reach.UNKNOWN, "the host has sent no audit"))
_INSTALLED: Final = Exposure(Reach.INSTALLED, "it owns nothing of what listens")


def exposures(listeners: Sequence[ListeningSocket] | None, view: OutsideView) -> Exposures:
    """Join the listeners of an audit with what the scan saw; None are listeners that the agent could not gather."""
    if listeners is None:
        return Exposures(MappingProxyType({}), Exposure(Reach.UNKNOWN, "the audit does not tell what listens"))
    found: dict[str, Exposure] = {}
    judged = [(_reach(listener, view), listener) for listener in listeners if not listener.container]
    for (reach, why, address), listener in sorted(judged, key=lambda item: _RANKS[item[0][0]]):
        for file, package, source in _files(listener):
            if file in found:  # by a nearer socket, and its packages with it
                continue
            exposure = Exposure(reach, why, listener, file, address)
            for name in _names(file, package, source):
                found.setdefault(name, exposure)
    return Exposures(found, _of_others(listeners, view))


def _reach(listener: ListeningSocket, view: OutsideView) -> tuple[Reach, str, str]:
    """Return the reach of a socket, why it is no farther, and the address at which it was seen open."""
    is_local = any(is_loopback(item.address) for item in view)  # the machine that scans, as in `localhost`
    if is_loopback(listener.address) and not is_local:
        return Reach.LISTENING, "it listens on a loopback address", ""
    if listener.protocol != "tcp":
        return Reach.UNKNOWN, f"{listener.protocol.upper()} is not scanned", ""
    if not view:
        return Reach.UNKNOWN, "no scan of the host reached a verdict", ""
    # Behind NAT the host is scanned at an address that it does not have itself. Its sockets may be what answers there.
    own = [item for item in view if item.address == listener.address] if listener.address not in _ANY else []
    addresses = own or view
    for item in addresses:
        if listener.port in item.open:
            return Reach.REACHABLE, "", item.address
    if all(listener.port in item.scanned for item in addresses):
        return Reach.LISTENING, f"the scan did not find port {listener.port} open", ""
    return Reach.UNKNOWN, f"port {listener.port} is not scanned", ""


def _files(listener: ListeningSocket) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield the files that a process runs, each with its package and source package.

    Not of one in a container: its files are those of an image, and docker-proxy, which may hold its port, passes on
    what it gets.
    """
    if listener.executable:
        yield listener.executable, listener.package, listener.source
    for library in listener.libraries or ():
        yield library.path, library.package, library.source


@lru_cache(maxsize=20_000)
def _names(path: str, *packages: str | None) -> tuple[str, ...]:
    # dpkg has the architecture in the name, as in libssl3:amd64.
    return tuple(dict.fromkeys((path, *(name.partition(":")[0] for name in packages if name))))


def _of_others(listeners: Sequence[ListeningSocket], view: OutsideView) -> Exposure:
    """Return the exposure of packages that own nothing that is known to listen."""
    for item in listeners:
        if item.libraries is None and not item.container:
            who = item.process or "unknown process"
            return Exposure(Reach.UNKNOWN, f"the audit does not tell which files {who} on port {item.port} runs")
    held = PortSet.of(item.port for item in listeners if item.protocol == "tcp")
    for seen in view:
        if unheld := seen.open - held:
            port = next(iter(unheld))
            return Exposure(
                Reach.UNKNOWN, f"port {port} is open at {seen.address}, and the audit does not tell what listens there"
            )
    return _INSTALLED


@lru_cache(maxsize=1024)  # most sockets listen on one of a few addresses
def is_loopback(address: str) -> bool:
    """Return whether nobody else can reach an address; what is no address, such as `*`, is not."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback
