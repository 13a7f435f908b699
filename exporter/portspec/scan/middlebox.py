"""Finds addresses for which a middlebox answers on every port: a SYN proxy, a tarpit, a firewall.

The evidence is a port that must be closed and yet is open:

1. A scan has such ports anyway: all that it covers and the specification neither expects nor allows. An address that is
   closed on most of them is a host (needs_random_ports); ordinary scans cost no further probe.
2. Otherwise RANDOM_PORTS ports drawn at random are probed. If most of them are open, or more than half of the scanned
   ports that should be closed, a middlebox answers (middlebox_failure).
3. Then connections are made and *held*: a SYN proxy completes a handshake and resets it once its backend refuses. First
   to ports that cannot be open (witnesses); if most of them stay up, connections tell nothing, and no others are made.
   Otherwise the connections that stay up show the open ports of the host (ports_by_connection).

An address of which none of this tells the open ports fails with `answers_everything`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from portspec.ports import MAX_PORT, PortSet
from portspec.scan.job import AddressObservation, Failure, Reason
from portspec.scan.sharing import scan_all
from portspec.services import name_of

if TYPE_CHECKING:
    from portspec.limit import LimitSlot
    from portspec.scan.job import ScanJob
    from portspec.scan.sharing import SharedScans

RANDOM_PORTS: Final = 4
_LOWEST_RANDOM_PORT: Final = 1024  # below are the ports of services
_DRAWS: Final = 64
MANY_UNEXPECTED: Final = 16  # open ports that should be closed: more than a host has by mistake
MIN_SCANNED: Final = 100  # ports from which more than half of them open means a middlebox
WITNESSES: Final = 64  # ports to connect to first
# The least timeout of a connection in seconds, and in round-trip times. The kernel repeats its SYN twice within it: a
# port that the SYN engine found open must not be missed for one lost packet.
MIN_CONNECT_TIMEOUT: Final = 3.5
CONNECT_TIMEOUT_RTTS: Final = 3.0
# How long a connection must stay up, likewise. A SYN proxy connects to its backend when it has our ACK.
MIN_HOLD: Final = 0.5
HOLD_RTTS: Final = 5.0


@dataclass(frozen=True, slots=True)
class MiddleboxCheck:
    """The checked addresses, those of them known by connections alone, and the seconds that the check took."""

    addresses: tuple[AddressObservation, ...]
    by_connection: frozenset[str] = frozenset()
    duration: float = 0.0


@dataclass(frozen=True, slots=True)
class _Suspect:
    """An address behind a middlebox, what it showed on random ports, and the ports to connect to first."""

    item: AddressObservation
    on_random: AddressObservation | None
    witnesses: PortSet

    def connect_job(self, job: ScanJob, ports: PortSet) -> ScanJob:
        hold = max(MIN_HOLD, HOLD_RTTS * (self.item.rtt or 0.0))
        return replace(job, addresses=(self.item.address,), ports=ports, patience=connect_timeout(self.item), hold=hold)


class MiddleboxDetector:
    """Checks whether hosts answer, or middleboxes for them.

    `scans` has the engine of the scan, `connections` one that connects. Without the latter, the open ports of a host
    behind a middlebox stay unknown.
    """

    def __init__(self, scans: SharedScans, connections: SharedScans | None) -> None:
        self._scans = scans
        self._connections = connections

    async def check(
        self,
        seen: tuple[AddressObservation, ...],
        known: PortSet,
        job: ScanJob,
        place: LimitSlot,
        seed: int | str,
    ) -> MiddleboxCheck:
        """Probe random ports of addresses that may be behind a middlebox, and connect to those that are.

        Args:
            seen: what the scan saw.
            known: the ports that are expected or allowed to be open.
            job: the scan's job.
            place: for scans and connections.
            seed: the same seed draws the same ports, as far as they are not among those of the job or known.
        """
        to_check = [item for item in seen if needs_random_ports(item, known)]
        cut_off = {item.address: unseen(item, failure) for item in seen if (failure := cut_off_failure(item, known))}
        found = {item.address: item for item in seen} | cut_off
        if not to_check:
            return MiddleboxCheck(tuple(found.values()))
        rng = random.Random(seed)  # noqa: S311 - not a secret
        drawn = draw_ports(job.ports | known, rng)
        jobs = [replace(job, addresses=(item.address,), ports=drawn) for item in to_check if drawn]
        shown, duration = await scan_all(self._scans, place, jobs)
        suspects = []
        for item in to_check:
            on_random = shown.get(item.address)
            if on_random and on_random.failure:
                found[item.address] = replace(item, failure=on_random.failure)
            elif failure := middlebox_failure(item, known, on_random):
                found[item.address] = unseen(item, failure)
                witnesses = on_random.open if on_random and on_random.open else _sample(item.open - known, rng)
                suspects.append(_Suspect(item, on_random, witnesses))
        if not suspects or not self._connections:
            return MiddleboxCheck(tuple(found.values()), duration=duration)
        by_connection, more = await self._connect(self._connections, suspects, known, job, place)
        return MiddleboxCheck(tuple((found | by_connection).values()), frozenset(by_connection), duration + more)

    async def _connect(
        self,
        connections: SharedScans,
        suspects: list[_Suspect],
        known: PortSet,
        job: ScanJob,
        place: LimitSlot,
    ) -> tuple[dict[str, AddressObservation], float]:
        """Return the addresses whose open ports connections can tell, and the seconds that this took.

        The witnesses come first: a tarpit with 65,535 open ports gets no further connections.
        """
        first, duration = await scan_all(connections, place, [one.connect_job(job, one.witnesses) for one in suspects])
        refused = [
            one
            for one in suspects
            if (shown := first[one.item.address]).failure is None and 2 * len(shown.open) <= len(one.witnesses)
        ]
        jobs = [one.connect_job(job, ports) for one in refused if (ports := one.item.open - one.witnesses)]
        others, more = await scan_all(connections, place, jobs)
        found = {}
        for one in refused:
            address = one.item.address
            connected = _merge(first[address], others.get(address))
            if item := ports_by_connection(one.item, known, one.on_random, connected):
                found[address] = item
        return found, duration + more


def connect_timeout(item: AddressObservation) -> float:
    """Return the least timeout of a connection to an address, in seconds."""
    return max(MIN_CONNECT_TIMEOUT, CONNECT_TIMEOUT_RTTS * (item.rtt or 0.0))


# The rest is pure.


def draw_ports(excluded: PortSet, rng: random.Random) -> PortSet:
    """Draw RANDOM_PORTS ports, none excluded and none of a known service; no ports if nearly all are excluded."""
    drawn = rng.sample(range(_LOWEST_RANDOM_PORT, MAX_PORT + 1), _DRAWS)
    found = PortSet.of(islice((port for port in drawn if port not in excluded and name_of(port) is None), RANDOM_PORTS))
    return found if len(found) == RANDOM_PORTS else PortSet()


def needs_random_ports(item: AddressObservation, known: PortSet) -> bool:
    """Return whether a middlebox may answer for an address: it has open ports, and too few are known to be closed.

    `known` are the ports that are expected or allowed to be open. If these are most of all ports, the answer is no.
    """
    if item.failure or not item.open or covers_most(known):
        return False
    unexpected = item.open - known
    if not unexpected:  # most hosts
        return item.scanned <= known
    return len(unexpected) >= MANY_UNEXPECTED or 2 * len(unexpected) > len(item.scanned - known)


def covers_most(known: PortSet) -> bool:
    """Return whether a specification lets most of all ports be open."""
    return 2 * len(known) > MAX_PORT


def middlebox_failure(
    item: AddressObservation, known: PortSet, on_random: AddressObservation | None = None
) -> Failure | None:
    """Return the failure, with the evidence, if a middlebox answers for an address.

    Args:
        item: what its scan saw.
        known: the ports that are expected or allowed to be open.
        on_random: what it showed on random ports; None, or without ports, if none could be drawn.
    """
    parts = []
    is_middlebox = False
    if on_random and on_random.scanned:
        is_middlebox = 2 * len(on_random.open) > len(on_random.scanned)
        parts.append(f"{len(on_random.open)} of {len(on_random.scanned)} ports drawn at random answered")
    scanned, opened = item.scanned - known, item.open - known
    is_middlebox = is_middlebox or (len(scanned) >= MIN_SCANNED and 2 * len(opened) > len(scanned))
    parts.append(f"{len(item.open):,} of {len(item.scanned):,} scanned{'' if parts else ' ports answered'}")
    if not is_middlebox:
        return None
    return Failure(
        Reason.ANSWERS_EVERYTHING,
        f"{item.address}: {', and '.join(parts)}: a firewall or a proxy (SYN proxy, tarpit) answers in its place",
    )


def cut_off_failure(item: AddressObservation, known: PortSet) -> Failure | None:
    """Return the failure if a middlebox answered for an address that was cut off: it cannot be probed any more."""
    if item.failure is None or not item.is_usable or covers_most(known):
        return None
    return middlebox_failure(item, known)


def ports_by_connection(
    item: AddressObservation, known: PortSet, on_random: AddressObservation | None, connected: AddressObservation
) -> AddressObservation | None:
    """Return what connections show of a host behind a middlebox.

    `connected` is what its open ports, and those of `on_random`, showed to connections. None if no connection stayed
    up, or so many that they do not tell open ports from others.
    """
    opened = item.open & connected.open
    if connected.failure or not opened:
        return None
    found = replace(item, open=opened, filtered=item.filtered | (item.open & connected.filtered), unconfirmed=PortSet())
    still_open = replace(on_random, open=on_random.open & connected.open) if on_random else None
    return None if middlebox_failure(found, known, still_open) else found


def unseen(item: AddressObservation, failure: Failure) -> AddressObservation:
    """Return the observation of an address behind a middlebox: its answers say nothing about its ports."""
    return AddressObservation(item.address, PortSet(), answered=item.answered, rtt=item.rtt, failure=failure)


def _sample(ports: PortSet, rng: random.Random) -> PortSet:
    every = list(ports)
    return PortSet.of(rng.sample(every, min(WITNESSES, len(every))))


def _merge(one: AddressObservation, other: AddressObservation | None) -> AddressObservation:
    """Merge what connections to different ports of an address showed."""
    if other is None:
        return one
    return replace(
        one,
        scanned=one.scanned | other.scanned,
        open=one.open | other.open,
        filtered=one.filtered | other.filtered,
        failure=one.failure or other.failure,
    )
