"""What an engine is asked, what it answers, and what an engine is."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from portspec.ports import NO_PORTS, PortSet

if TYPE_CHECKING:
    from concurrent.futures import Future


class PortState(enum.StrEnum):
    """A TCP port's state as nmap defines it (Port Scanning Basics, nmap reference guide)."""

    OPEN = "open"
    CLOSED = "closed"
    FILTERED = "filtered"


class Reason(enum.StrEnum):
    """Why nothing can be said of an address: each is this side's trouble, never the state of a port."""

    RESOLVE = "resolve"
    NO_ROUTE = "no_route"
    LOCAL_LIMIT = "local_limit"
    PERMISSION = "permission"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Failure:
    """A reason, and one sentence for people."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class ScanJob:
    """One host to scan once: all `ports` on each of its addresses (IPv4 or IPv6 literals, no zone).

    `host_rate` is in probes per second over all the addresses (None = no limit); the same `seed` gives
    the same order of probes.
    """

    addresses: tuple[str, ...]
    ports: PortSet
    host_rate: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class AddressObservation:
    """What one address showed. Ports of `scanned` that are in neither set are closed.

    `answered` is true if the address itself answered any probe; `rtt` is the shortest time, in seconds,
    between a probe and its answer. With a `failure` nothing is concluded, and the sets hold only the ports
    whose state was seen until then.
    """

    address: str
    scanned: PortSet
    open: PortSet = NO_PORTS
    filtered: PortSet = NO_PORTS
    answered: bool = False
    rtt: float | None = None
    failure: Failure | None = None

    @property
    def closed(self) -> int:
        """The number of closed ports."""
        return len(self.scanned) - len(self.open) - len(self.filtered)

    def state(self, port: int) -> PortState:
        """Give the state of a scanned port."""
        if port in self.open:
            return PortState.OPEN
        return PortState.FILTERED if port in self.filtered else PortState.CLOSED


@dataclass(frozen=True, slots=True)
class Observation:
    """What one scan of a host showed; `duration` in seconds."""

    addresses: tuple[AddressObservation, ...]
    duration: float
    probes: int


@dataclass(slots=True)
class EngineStats:
    """Running totals of an engine, safe to read from any thread; ports count once for each address."""

    probes_sent: int = 0
    ports_submitted: int = 0
    ports_settled: int = 0


class Engine(Protocol):
    """A way to find open ports. Engines own a thread; their methods may be called from any other."""

    name: str
    stats: EngineStats

    def submit(self, job: ScanJob) -> Future[Observation]:
        """Start a job; cancelling the future ends it early. Raises RuntimeError after close()."""
        ...

    def close(self) -> None:
        """End all jobs (their futures are cancelled), close every socket and join the thread, at once."""
        ...
