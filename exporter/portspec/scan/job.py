"""What an engine is asked, what it answers, and what an engine is."""

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
    """Why nothing can be said of an address, or not of all of it; never the state of a port.

    TIMEOUT: its time was over. CUT_OFF: it answered, and then nothing of it did, not even what had answered before.
    ANSWERS_EVERYTHING: somebody answers in its place. CANARY: it fell silent while nothing could be seen that always
    is.
    """

    RESOLVE = "resolve"
    NO_ROUTE = "no_route"
    LOCAL_LIMIT = "local_limit"
    PERMISSION = "permission"
    TIMEOUT = "timeout"
    CUT_OFF = "cut_off"
    ANSWERS_EVERYTHING = "answers_everything"
    CANARY = "canary"
    INTERNAL = "internal"


#: What was seen of an address before it failed so counts.
IN_PART = frozenset({Reason.CUT_OFF, Reason.CANARY, Reason.TIMEOUT})


@dataclass(frozen=True, slots=True)
class Failure:
    """A reason, and one sentence for people."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class ScanJob:
    """One host to scan once: all `ports` on each of its addresses (IPv4 or IPv6 literals, no zone).

    `host_rate` is in probes per second over all the addresses (None = no limit); a `pacer` in its stead is for jobs
    about one host that come one after the other. The same `seed` gives the same order of probes. An answer is waited
    for at least `patience` seconds. With a `hold` (only engines that connect know it) a port is open if the connection
    stays up for so many seconds and the peer takes data then; one that is reset before is closed.
    `on_slow` is called at most once, in the engine's thread, when the job has become slow; see work.SLOW. It must not
    block or raise.

    The ports of `first` are asked before the others: those that probably answer, so that it is known early whether the
    address lives. Those of `alive` have answered just now: while they are silent, the silence of no port counts.
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

    `unconfirmed` are those of `open` where a SYN was answered and yet no connection could be made: somebody on the way
    answers for others. `answered` is true if the address itself answered any probe; `rtt` is the shortest time, in
    seconds, between a probe and its answer. With a `failure` the sets hold only the ports whose state was seen until
    then. `pace` is that of an address that was cut off: probes per second until it was last heard. The `lost` are the
    ports that were open before, where an address was cut off that refuses them, as it did in `refusals` later scans.
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
        """True if what the sets hold counts: all was seen, or what was is not spoilt by the failure; see IN_PART."""
        return self.failure is None or self.failure.reason in IN_PART

    @property
    def accepting(self) -> PortSet:
        """The open ports but for the unconfirmed: those that count."""
        return self.open - self.unconfirmed if self.unconfirmed else self.open

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
    """Running totals of an engine, safe to read from any thread; ports count once for each address.

    `answers_dropped` are those that arrived faster than they were read.
    """

    probes_sent: int = 0
    answers_dropped: int = 0
    ports_submitted: int = 0
    ports_settled: int = 0


class Engine(Protocol):
    """A way to find open ports. Engines own a thread; their methods may be called from any other."""

    name: str
    stats: EngineStats
    timeout: float  # seconds
    retries: int

    def submit(self, job: ScanJob) -> Future[Observation]:
        """Start a job; cancelling the future ends it early. Raises RuntimeError after close()."""
        ...

    def add_ports(self, running: Future[Observation], ports: PortSet) -> None:
        """Scan more ports for a job that was submitted; one that is over by then stays as it is.

        Whether the ports were added shows in what was `scanned`.
        """
        ...

    def so_far(self, running: Future[Observation], failure: Failure) -> Future[Observation | None]:
        """Give what is known now of a job that was submitted; None if it is over.

        Addresses that are not settled have that `failure`, and hold only the ports whose state was seen.
        """
        ...

    def close(self) -> None:
        """End all jobs (their futures are cancelled), close every socket and join the thread, at once."""
        ...
