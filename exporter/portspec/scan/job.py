"""The interface of engines: the job that they get, the observation that they return, and their methods."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from portspec.ports import NO_PORTS, PortSet

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from portspec.scan.pacing import Pacer


class PortState(enum.StrEnum):
    """A TCP port's state as nmap defines it (Port Scanning Basics, nmap reference guide)."""

    OPEN = "open"
    CLOSED = "closed"
    FILTERED = "filtered"


class Reason(enum.StrEnum):
    """Why an address could not be scanned, or not completely; never the state of a port.

    DENIED: a discovered host leads to an address that the configuration denies to such hosts.
    TIMEOUT: the time limit expired. CUT_OFF: it answered and then stopped, on ports that had answered before, too.
    ANSWERS_EVERYTHING: a middlebox answers in its place. CANARY: it fell silent while no canary could be reached.
    """

    RESOLVE = "resolve"
    DENIED = "denied"
    NO_ROUTE = "no_route"
    LOCAL_LIMIT = "local_limit"
    PERMISSION = "permission"
    TIMEOUT = "timeout"
    CUT_OFF = "cut_off"
    ANSWERS_EVERYTHING = "answers_everything"
    CANARY = "canary"
    INTERNAL = "internal"


#: Reasons with which the part that was seen before counts.
IN_PART = frozenset({Reason.CUT_OFF, Reason.CANARY, Reason.TIMEOUT})


@dataclass(frozen=True, slots=True)
class Failure:
    """A reason, and one sentence for users."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class ScanJob:
    """One host to scan once: all `ports` on each of its addresses (IPv4 or IPv6 literals, no zone).

    Args:
        addresses: what to scan.
        ports: the ports of each address.
        host_rate: probes per second over all the addresses; None for no limit.
        seed: the same seed gives the same order of probes.
        pacer: used instead of `host_rate` by consecutive jobs of one host.
        patience: the least timeout of a probe, in seconds.
        hold: seconds for which a connection must stay up, and the peer must then accept data, for its port to be open;
            a port that resets it before is closed. Only engines that connect support it.
        first: ports to probe before the others. They probably answer, and so show early whether the address is up.
        alive: ports that have just answered. While they are silent, the silence of no port counts.
        on_slow: called at most once, in the engine's thread, when the job has become slow (see engine.py). It must not
            block or raise.
    """

    addresses: tuple[str, ...]
    ports: PortSet
    host_rate: float | None = None
    seed: int = 0
    pacer: Pacer | None = field(default=None, compare=False)
    patience: float = 0.0
    hold: float = 0.0
    first: PortSet = field(default=NO_PORTS, compare=False)
    alive: PortSet = field(default=NO_PORTS, compare=False)
    on_slow: Callable[[], object] = field(default=lambda: None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class AddressObservation:
    """What one address showed. Ports of `scanned` that are neither open nor filtered are closed.

    With a `failure` the sets hold only the ports whose state was seen before it.

    Attributes:
        answered: whether the address itself answered any probe.
        rtt: the shortest time between a probe and its answer, in seconds.
        unconfirmed: ports of `open` that answered a SYN but accepted no connection: a middlebox may have answered.
        pace: probes per second that an address got until its last answer, if it was cut off.
        lost: ports that were open before, if an address counts as cut off because it refuses them.
        refusals: how many later scans found them refused, too.
    """

    address: str
    scanned: PortSet
    open: PortSet = NO_PORTS
    filtered: PortSet = NO_PORTS
    answered: bool = False
    rtt: float | None = None
    failure: Failure | None = None
    unconfirmed: PortSet = NO_PORTS
    pace: float | None = None
    lost: PortSet = NO_PORTS
    refusals: int = 0

    @property
    def is_usable(self) -> bool:
        """True if the sets count: the scan is complete, or its failure leaves what was seen before valid (IN_PART)."""
        return self.failure is None or self.failure.reason in IN_PART

    @property
    def accepting(self) -> PortSet:
        """The open ports without the unconfirmed ones: those that count."""
        return self.open - self.unconfirmed if self.unconfirmed else self.open

    @property
    def closed(self) -> int:
        """The number of closed ports."""
        return len(self.scanned) - len(self.open) - len(self.filtered)

    def state(self, port: int) -> PortState:
        """Return the state of a scanned port."""
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
    """Running totals of an engine, safe to read from any thread; ports count once for each address.

    `answers_dropped` counts answers that arrived faster than they were read.
    """

    probes_sent: int = 0
    answers_dropped: int = 0
    ports_submitted: int = 0
    ports_settled: int = 0


class Engine(Protocol):
    """A way to find open ports. An engine owns a thread; its methods may be called from any other."""

    name: str
    stats: EngineStats
    timeout: float  # seconds
    retries: int

    @property
    def death(self) -> BaseException | None:
        """What ended the thread unexpectedly; None while it lives, before the first job, and after restart().

        The jobs in progress have failed with EngineStoppedError, and so does submit().
        """
        ...

    def restart(self) -> None:
        """Start the thread again if it has ended unexpectedly, with the same sockets. Raises NoThreadError."""
        ...

    def submit(self, job: ScanJob) -> Future[Observation]:
        """Start a job; cancelling the future ends it early. Raises RuntimeError after close()."""
        ...

    def add_ports(self, running: Future[Observation], ports: PortSet) -> None:
        """Scan more ports for a job that was submitted; a job that is over does not change.

        Compare `scanned` of the observation to see whether the ports were added.
        """
        ...

    def so_far(self, running: Future[Observation], failure: Failure) -> Future[Observation | None]:
        """Return what is known now of a job that was submitted; None if it is over.

        Addresses that are not settled have that `failure`, and only the ports whose state was seen.
        """
        ...

    def beat(self) -> int | None:
        """Return a number that differs from that of the last call unless the thread hangs; None before the first job.

        A turn of the thread takes far less than a second; a call wakes it if it has nothing to do.
        """
        ...

    def close(self) -> None:
        """End all jobs (their futures are cancelled), close every socket and join the thread, at once."""
        ...
