"""Looks behind what answers in the place of an address; decoys.py says what is concluded from it."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from portspec.ports import PortSet
from portspec.scan.decoys import answers_everything, draw, is_doubtful, of_cut_off, unseen, without_disguise
from portspec.scan.sharing import scan_all

if TYPE_CHECKING:
    from portspec.limit import Place
    from portspec.scan.job import AddressObservation, ScanJob
    from portspec.scan.sharing import SharedScans

WITNESSES: Final = 64  # ports that are connected to first: where most of them stay up, all others would, too
# How long a connection is waited for, at least: seconds, in which the kernel repeats its SYN twice (it must be as hard
# to overlook an open port as it was to find it), and round-trip times.
LEAST_PATIENCE: Final = 3.5
PATIENCE: Final = 3.0
# How long it must stay up: seconds, and round-trip times. A SYN proxy asks its backend once it has our ACK.
LEAST_HOLD: Final = 0.5
HOLD: Final = 5.0


@dataclass(frozen=True, slots=True)
class MiddleboxCheck:
    """What is known of addresses, of which of them by connections alone, and the seconds that this took."""

    addresses: tuple[AddressObservation, ...]
    by_connection: frozenset[str] = frozenset()
    duration: float = 0.0


@dataclass(frozen=True, slots=True)
class _Suspect:
    """An address that seems to answer everything, what it showed on ports drawn at random, and whom to ask first."""

    item: AddressObservation
    decoys: AddressObservation | None
    witnesses: PortSet

    def ask(self, job: ScanJob, ports: PortSet) -> ScanJob:
        hold = max(LEAST_HOLD, HOLD * (self.item.rtt or 0.0))
        return replace(job, addresses=(self.item.address,), ports=ports, patience=connect_timeout(self.item), hold=hold)


class MiddleboxDetector:
    """Tells hosts from what answers for them on every port.

    `scans` asks as the scan did, and `connections` connects; without these a host cannot be told from an impostor.
    """

    def __init__(self, scans: SharedScans, connections: SharedScans | None) -> None:
        self._scans = scans
        self._connections = connections

    async def check(
        self,
        seen: tuple[AddressObservation, ...],
        known: PortSet,
        job: ScanJob,
        place: Place,
        seed: int | str,
    ) -> MiddleboxCheck:
        """Ask ports drawn at random of each address that may answer everything; connect to it where it does so.

        `known` are the ports that may be open, `job` is what was asked of all addresses. The same `seed` gives the
        same ports, as far as they are not among those. An address that answers everything, and connections too, has
        that for a failure.
        """
        doubtful = [item for item in seen if is_doubtful(item, known)]
        cut_off = {item.address: unseen(item, failure) for item in seen if (failure := of_cut_off(item, known))}
        found = {item.address: item for item in seen} | cut_off
        if not doubtful:
            return MiddleboxCheck(tuple(found.values()))
        rng = random.Random(seed)  # noqa: S311 - who knows our memory need not guess
        drawn = draw(job.ports | known, rng)
        jobs = [replace(job, addresses=(item.address,), ports=drawn) for item in doubtful if drawn]
        shown, duration = await scan_all(self._scans, place, jobs)
        suspects = []
        for item in doubtful:
            decoys = shown.get(item.address)
            if decoys and decoys.failure:
                found[item.address] = replace(item, failure=decoys.failure)
            elif failure := answers_everything(item, known, decoys):
                found[item.address] = unseen(item, failure)
                witnesses = decoys.open if decoys and decoys.open else _some(item.open - known, rng)
                suspects.append(_Suspect(item, decoys, witnesses))
        if not suspects or not self._connections:
            return MiddleboxCheck(tuple(found.values()), duration=duration)
        true, more = await self._connect(self._connections, suspects, known, job, place)
        return MiddleboxCheck(tuple((found | true).values()), frozenset(true), duration + more)

    async def _connect(
        self,
        connections: SharedScans,
        suspects: list[_Suspect],
        known: PortSet,
        job: ScanJob,
        place: Place,
    ) -> tuple[dict[str, AddressObservation], float]:
        """Give the addresses of which connections tell what is open, and the seconds that they took.

        First some ports are connected to that cannot be open: a tarpit with 65,535 ports is left alone after these.
        """
        first, duration = await scan_all(connections, place, [one.ask(job, one.witnesses) for one in suspects])
        refused = [
            one
            for one in suspects
            if (told := first[one.item.address]).failure is None and 2 * len(told.open) <= len(one.witnesses)
        ]
        jobs = [one.ask(job, ports) for one in refused if (ports := one.item.open - one.witnesses)]
        others, more = await scan_all(connections, place, jobs)
        true = {}
        for one in refused:
            address = one.item.address
            connected = _together(first[address], others.get(address))
            if item := without_disguise(one.item, known, one.decoys, connected):
                true[address] = item
        return true, duration + more


def connect_timeout(item: AddressObservation) -> float:
    """Give how many seconds a connection to an address is waited for."""
    return max(LEAST_PATIENCE, PATIENCE * (item.rtt or 0.0))


def _some(ports: PortSet, rng: random.Random) -> PortSet:
    every = list(ports)
    return PortSet.of(rng.sample(every, min(WITNESSES, len(every))))


def _together(one: AddressObservation, other: AddressObservation | None) -> AddressObservation:
    """Put together what connections to different ports of an address showed."""
    if other is None:
        return one
    return replace(
        one,
        scanned=one.scanned | other.scanned,
        open=one.open | other.open,
        filtered=one.filtered | other.filtered,
        failure=one.failure or other.failure,
    )
