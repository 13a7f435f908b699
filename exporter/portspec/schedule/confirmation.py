"""What a scan showed, settled: what answers everything is looked behind, what deviates is repeated and confirmed.

In the end what was open is asked whether it still is. What several looks show together is decided in evidence.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from portspec.ports import NO_PORTS, PortSet
from portspec.scan import AddressObservation, Observation, Reason
from portspec.scan.middlebox import MiddleboxDetector
from portspec.scan.sharing import scan_all
from portspec.state import evidence
from portspec.state.verdict import Kind
from portspec.threads import computed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from portspec.config import Specification
    from portspec.limit import LimitSlot
    from portspec.scan import ScanJob
    from portspec.scan.sharing import SharedScans
    from portspec.state.snapshot import ScanResult
    from portspec.state.verdict import Deviation

T = TypeVar("T")

_PORTS_PER_TURN = 2000  # ports: a few milliseconds
_MAX_LIVENESS_CHECKS = 3  # times that an address is asked whether it still answers SYNs, at most


class Settler:
    """Settles what scans show; a deviation counts once it was seen `confirm` times, the scan's own being the first.

    With a `confirmer`, open ports that would be a deviation are connected to with that engine before they count; that
    is one of the repeats. Of an address that answers everything `connections` tell what is open.
    """

    def __init__(
        self, scans: SharedScans, confirmer: SharedScans | None, connections: SharedScans | None, confirm: int
    ) -> None:
        self._scans = scans
        self._confirmer = confirmer
        self._middleboxes = MiddleboxDetector(scans, connections)
        self._repeats = {Kind.MISSING: confirm - 1, Kind.UNEXPECTED: confirm - 1 - bool(confirmer)}

    async def settle(
        self,
        specification: Specification,
        job: ScanJob,
        place: LimitSlot,
        observation: Observation,
        earlier: ScanResult | None,
        seed: int | str,
    ) -> tuple[tuple[AddressObservation, ...], float]:
        """Look behind what answers everything, with ports drawn from a seed; repeat and confirm what deviates.

        In the end what was open is asked whether it still is. An address that answered nothing, and answers when it is
        asked again, is scanned once more: it came up meanwhile, and its silence before that tells nothing of its ports.

        Gives what is known then, and the seconds of all of it.
        """
        seen, duration = await self._settle(specification, job, place, observation, earlier, seed)
        woken = evidence.woken(observation.addresses, seen)
        if not woken:
            return seen, duration
        scanned, more = await scan_all(self._scans, place, [replace(job, addresses=(address,)) for address in woken])
        again = Observation(tuple(scanned.values()), more, 0)
        settled, more = await self._settle(specification, job, place, again, earlier, seed)
        fickle = evidence.woken(again.addresses, settled)
        found = {item.address: evidence.fickle(item) if item.address in fickle else item for item in settled}
        return tuple(found.get(item.address, item) for item in seen), duration + more

    async def _settle(
        self,
        specification: Specification,
        job: ScanJob,
        place: LimitSlot,
        observation: Observation,
        earlier: ScanResult | None,
        seed: int | str,
    ) -> tuple[tuple[AddressObservation, ...], float]:
        known = specification.expect | specification.allow
        checked = await self._middleboxes.check(observation.addresses, known, job, place, seed)
        duration = observation.duration + checked.duration
        found = {item.address: item for item in checked.addresses}
        # a SYN would be answered again by whoever answers everything
        rest = tuple(item for item in found.values() if item.address not in checked.by_connection)
        shown: dict[str, PortSet] = {}
        for number in range(max(self._repeats.values())):
            kinds = [kind for kind, repeats in self._repeats.items() if number < repeats]
            rest, more = await self._repeat(specification, job, place, rest, kinds, earlier, shown)
            duration += more
        if self._confirmer:
            rest, more = await self._confirm(self._confirmer, specification, job, place, rest, shown)
            duration += more
        rest, more = await self._ask_at_the_end(specification, job, place, found, rest, shown, duration)
        duration += more
        found |= {item.address: item for item in rest}
        return tuple(found.values()), duration

    async def _ask_at_the_end(
        self,
        specification: Specification,
        job: ScanJob,
        place: LimitSlot,
        first: Mapping[str, AddressObservation],
        seen: tuple[AddressObservation, ...],
        shown: Mapping[str, PortSet],
        seconds: float,
    ) -> tuple[tuple[AddressObservation, ...], float]:
        """Ask whether what was open `first` still is, unless a later look has `shown` that.

        `seconds` are those that it took so far. Gives what is known then, and the seconds that this took.
        """
        jobs = [
            evidence.formerly_open(first[item.address], item, specification, shown.get(item.address), job)
            for item in seen
        ]
        again, duration = await scan_all(self._scans, place, [asked for asked in jobs if asked])
        checked = tuple(
            evidence.still_open(item, specification, again[item.address], seconds) if item.address in again else item
            for item in seen
        )
        return checked, duration

    async def _repeat(
        self,
        specification: Specification,
        job: ScanJob,
        place: LimitSlot,
        seen: tuple[AddressObservation, ...],
        kinds: Collection[Kind],
        earlier: ScanResult | None,
        shown: dict[str, PortSet],
    ) -> tuple[tuple[AddressObservation, ...], float]:
        """Scan again what deviates in one of these ways; returns what is known then, and the seconds it took.

        Ports that have answered go along: silence means little where nothing else is seen to answer. What is open goes
        into `shown`, by address.
        """
        before = {item.address: item for item in (earlier.addresses if earlier else ()) if item.is_usable}
        asked = {
            item.address: evidence.new_deviations(item, specification, kinds, before.get(item.address))
            for item in seen
            if item.is_usable
        }
        again, duration = await self._look_again(job, place, seen, asked)
        shown |= {address: found.open for address, found in again.items()}
        merged = tuple(
            evidence.merged(item, asked[item.address], again[item.address]) if item.address in again else item
            for item in seen
        )
        return merged, duration

    async def _look_again(
        self, job: ScanJob, place: LimitSlot, seen: Iterable[AddressObservation], asked: Mapping[str, PortSet]
    ) -> tuple[dict[str, AddressObservation], float]:
        """Ask for some ports of some addresses once more, and for others that have answered.

        Gives what is seen, by address, and the seconds it took.
        """
        jobs = []
        for item in seen:
            if ports := asked.get(item.address):
                # An address that was cut off is not waited for again.
                is_silent = item.failure is not None and item.failure.reason is Reason.CUT_OFF
                alive = NO_PORTS if is_silent else evidence.answering(item, ports)
                jobs.append(replace(job, addresses=(item.address,), ports=ports | alive, first=alive, alive=alive))
        return await scan_all(self._scans, place, jobs)

    async def _confirm(
        self,
        confirmer: SharedScans,
        specification: Specification,
        job: ScanJob,
        place: LimitSlot,
        seen: Sequence[AddressObservation],
        shown: dict[str, PortSet],
    ) -> tuple[tuple[AddressObservation, ...], float]:
        """Connect to the open ports that would be a deviation; returns what is known then, and the seconds it took.

        What is open goes into `shown`, by address.
        """
        known = specification.expect | specification.allow
        questions = {item.address: question for item in seen if (question := evidence.question(item, known, job))}
        connected, duration = await scan_all(confirmer, place, questions.values())
        shown |= {address: found.open for address, found in connected.items()}
        # Where nothing is heard of connections: are SYNs still answered?
        again: dict[str, AddressObservation] = {}
        lost = {item.address for item in seen if item.failure}
        deaf = [
            address for address, found in connected.items() if not (found.answered or found.failure or address in lost)
        ]
        for _ in range(_MAX_LIVENESS_CHECKS):
            asked = [address for address in deaf if address not in again or not again[address].answered]
            jobs = [
                replace(questions[address], ports=evidence.sample(questions[address].ports), patience=0.0)
                for address in asked
            ]
            answers, more = await scan_all(self._scans, place, jobs)
            again |= answers
            duration += more
        confirmed = tuple(
            evidence.confirmed(item, known, connected[item.address], again.get(item.address))
            if item.address in connected
            else item
            for item in seen
        )
        return confirmed, duration

    async def ask_again(
        self,
        specification: Specification,
        job: ScanJob,
        seen: tuple[AddressObservation, ...],
        asked: Mapping[str, PortSet],
        place: LimitSlot,
    ) -> tuple[AddressObservation, ...] | None:
        """Ask for some ports of some addresses, by their address, as `job` asks; see Examiner.recheck()."""
        known = specification.expect | specification.allow
        again, _ = await self._look_again(job, place, seen, asked)
        checked = await self._middleboxes.check(tuple(again.values()), known, job, place, job.seed)
        again = {item.address: item for item in checked.addresses}
        if any(item.address in again and again[item.address].answered and not item.answered for item in seen):
            return None
        if self._confirmer:
            # Of the ports that go along only the known ones are asked by connecting, as one that must answer.
            heard = [item for item in again.values() if item.address not in checked.by_connection]
            heard = [replace(item, open=item.open & (asked[item.address] | known)) for item in heard]
            confirmed, _ = await self._confirm(self._confirmer, specification, job, place, heard, {})
            again |= {item.address: item for item in confirmed}
        return tuple(
            evidence.rechecked(item, asked[item.address], again[item.address]) if item.address in again else item
            for item in seen
        )


async def apart(of: Sequence[AddressObservation] | Sequence[Deviation], work: Callable[[], T]) -> T:
    """Do what takes long for a machine that answers on all its ports beside the event loop."""
    size = sum(max(len(item.scanned) - item.closed, 0) if isinstance(item, AddressObservation) else 1 for item in of)
    return work() if size <= _PORTS_PER_TURN else await computed(work)
