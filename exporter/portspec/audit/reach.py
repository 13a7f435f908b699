"""Whether vulnerable code can be reached from outside: audit and scan of a host, joined by package. Pure.

    vulnerability ─ package ─► file ─► process ─► socket ─► address at which the scan saw the port open

A vulnerability is reachable if its package, or the source package of it, owns the executable or a library of a process
that listens on a port that the scan saw open. What the agent or the scan did not see is unknown, never unreachable.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from portspec.ports import PortSet, spell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

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
    """What the last conclusive scan saw of an address: which ports it settled, and which of them are open.

    A port that may be open, but accepted no connection, is not among the settled ones. Of an address that could not be
    scanned nothing is settled.
    """

    address: str
    settled: PortSet
    open: PortSet


OutsideView = tuple[SeenAddress, ...]  # nothing without a conclusive scan


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
        process, port = _short(self.listener.process or "unknown process"), self.listener.port
        socket = spell(port) if self.listener.protocol == "tcp" else f"{port}/{self.listener.protocol}"
        seen = f"open at {self.address}" if self.address else self.why
        return f"{_short(self.file)}, {process}, port {socket}, {seen}"


@dataclass(frozen=True, slots=True)
class Exposures:
    """The exposures of a host's packages: `by_name` of binary and source packages, and of paths of files.

    `other` is that of packages that own nothing of what listens, and `of_files` that of files which a process may have
    read without a trace, such as an archive of Java. What is known by its name is nearer than `other`, or as near.
    """

    by_name: Mapping[str, Exposure]
    other: Exposure
    of_files: Exposure

    def of(self, vulnerability: Vulnerability) -> Exposure:
        """Return the exposure of a vulnerability: of the files in which it was found, else of its package."""
        if not vulnerability.paths:
            return self.by_name.get(vulnerability.package, self.other)
        names = list(map(_absolute, vulnerability.paths))
        found = [self.by_name[name] for name in names if name in self.by_name]
        rest = self.other if _are_seen(vulnerability.paths) else self.of_files
        return min((*found, rest), key=lambda exposure: exposure.rank)


MAX_PATHS: Final = 20  # of a vulnerability, as audit.tools.result keeps: there may be more
_MAX_WORDS: Final = 120  # characters of a name or path in a reason, which stands beside each vulnerability
_NO_MAPPED_FILE: Final = re.compile(
    r"\.(?:jar|war|ear|par|py|js|json|lock|txt|toml|mod|gemspec|php)$|/(?:METADATA|PKG-INFO)$"
)


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


def _are_seen(paths: Sequence[str]) -> bool:
    """Return whether the agent would see that a process runs one of these files: executables and libraries alone."""
    return len(paths) < MAX_PATHS and not any(map(_NO_MAPPED_FILE.search, paths))


def _all_unknown(why: str) -> Exposures:
    unknown = Exposure(Reach.UNKNOWN, why)
    return Exposures(MappingProxyType({}), unknown, unknown)


NOTHING_KNOWN: Final = _all_unknown("the host has sent no audit")
_READ_BY_A_PROCESS: Final = Exposure(Reach.UNKNOWN, "a process that listens may have read such a file")
_INSTALLED: Final = Exposure(Reach.INSTALLED, "it owns nothing of what listens")


def names_of(vulnerabilities: Iterable[Vulnerability]) -> frozenset[str]:
    """Return the names by which the exposures of vulnerabilities are known: of packages, or paths of files."""
    return frozenset(
        name for item in vulnerabilities for name in (map(_absolute, item.paths) if item.paths else (item.package,))
    )


def exposures(
    listeners: Sequence[ListeningSocket] | None, view: OutsideView, names: frozenset[str] | None = None
) -> Exposures:
    """Join the listeners of an audit with what the scan saw; None are listeners that the agent could not gather.

    With `names` it is known of these alone, which takes less time.
    """
    if listeners is None:
        return _all_unknown("the audit does not tell what listens")
    other = _of_others(listeners, view)
    found: dict[str, Exposure] = {}
    judged = [(_reach(listener, listeners, view), listener) for listener in listeners if not _is_elsewhere(listener)]
    for (reach, why, address), listener in sorted(judged, key=lambda item: _RANKS[item[0][0]]):
        if _RANKS[reach] > other.rank:
            break  # what nobody has seen may use the same packages, and be nearer
        for file, package, source in _files(listener):
            if file in found:  # by a nearer socket, and its packages with it
                continue
            own = (file, *_packages(package, source))
            if names is not None and names.isdisjoint(own):
                continue
            exposure = Exposure(reach, why, listener, file, address)
            for name in own:
                found.setdefault(name, exposure)
    is_any = any(reach is Reach.REACHABLE or reach is Reach.UNKNOWN for (reach, _, _), _ in judged)
    return Exposures(found, other, _READ_BY_A_PROCESS if is_any and other is _INSTALLED else other)


def _is_elsewhere(listener: ListeningSocket) -> bool:
    """Return whether the files of a process are those of an image: docker-proxy passes on what it gets.

    A process whose libraries the agent has seen has files of the host, whatever its cgroup is called.
    """
    name = (listener.executable or listener.process or "").rpartition("/")[2]
    return bool(listener.container) and (listener.libraries is None or name == "docker-proxy")


def _reach(
    listener: ListeningSocket, listeners: Sequence[ListeningSocket], view: OutsideView
) -> tuple[Reach, str, str]:
    """Return the reach of a socket, why it is no farther, and the address at which it was seen open."""
    is_local = any(is_loopback(item.address) for item in view)  # the machine that scans, as in `localhost`
    if is_loopback(listener.address) and not is_local:
        return Reach.LISTENING, "it listens on a loopback address", ""
    if listener.protocol != "tcp":
        return Reach.UNKNOWN, f"{listener.protocol.upper()} is not scanned", ""
    if not view:
        return Reach.UNKNOWN, "no scan of the host reached a verdict", ""
    own = [item for item in view if _answers_at(listener, item.address)]
    if own or listener.address in _ANY:
        return _seen_at(listener.port, own)
    return _behind_nat(listener, listeners, view)


def _seen_at(port: int, addresses: Sequence[SeenAddress]) -> tuple[Reach, str, str]:
    """Return the reach of a socket that answers at some of the scanned addresses."""
    for item in addresses:
        if port in item.open:
            return Reach.REACHABLE, "", item.address
    if addresses and all(port in item.settled for item in addresses):
        return Reach.LISTENING, f"the scan did not find port {port} open", ""
    return Reach.UNKNOWN, f"the scan did not tell whether port {port} is open", ""


def _behind_nat(
    listener: ListeningSocket, listeners: Sequence[ListeningSocket], view: OutsideView
) -> tuple[Reach, str, str]:
    """Return the reach of a socket of an address that is not scanned: it may be what answers, unless another one is."""
    port = listener.port
    others = [item for item in listeners if item.protocol == "tcp" and item.port == port]
    is_told = any(_answers_at(item, seen.address) for item in others for seen in view)
    address = next((item.address for item in view if port in item.open), "")
    if address and not is_told and not is_link_local(listener.address):
        return Reach.REACHABLE, "", address
    return Reach.UNKNOWN, f"{listener.address} is not scanned", ""


def _answers_at(listener: ListeningSocket, address: str) -> bool:
    """Return whether a socket takes connections to an address of the host: :: takes those of IPv4, as a rule, too."""
    if listener.address == "0.0.0.0":  # noqa: S104 - told by an audit, not bound
        return ":" not in address
    return listener.address in _ANY or listener.address == address


def _files(listener: ListeningSocket) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield the files that a process runs, each with its package and source package."""
    if listener.executable:
        yield listener.executable, listener.package, listener.source
    for library in listener.libraries or ():
        yield library.path, library.package, library.source


def _packages(*names: str | None) -> Iterator[str]:
    """Yield the names of packages; dpkg has the architecture in them, as in libssl3:amd64."""
    for name in names:
        if name:
            yield name.partition(":")[0]


def _of_others(listeners: Sequence[ListeningSocket], view: OutsideView) -> Exposure:
    """Return the exposure of packages that own nothing that is known to listen."""
    for item in listeners:
        if item.libraries is None and not item.container:
            who = _short(item.process or "unknown process")
            return Exposure(Reach.UNKNOWN, f"the audit does not tell which files {who} on port {item.port} runs")
    scanned = {item.address for item in view}
    for seen in view:
        held = PortSet.of(
            item.port
            for item in listeners
            if item.protocol == "tcp"
            and (_answers_at(item, seen.address) or item.address not in _ANY | scanned)  # or behind NAT
        )
        if unheld := seen.open - held:
            port = next(iter(unheld))
            return Exposure(
                Reach.UNKNOWN, f"port {port} is open at {seen.address}, and the audit does not tell what listens there"
            )
    return _INSTALLED


def _short(text: str) -> str:
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}…"


@lru_cache(maxsize=1024)  # most sockets listen on one of a few addresses
def is_loopback(address: str) -> bool:
    """Return whether nobody else can reach an address; what is no address, such as `*`, is not."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


@lru_cache(maxsize=1024)
def is_link_local(address: str) -> bool:
    """Return whether an address means nothing beyond its link; what is no address does not."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_link_local
    except ValueError:
        return False
