"""The immutable state that everything downstream reads: metrics, pages, notification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from portspec.scan import Reason
from portspec.verdict import Deviation, Judgement, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.inventory import Target
    from portspec.scan import AddressObservation

_CHUNK = 128


@dataclass(frozen=True, slots=True)
class ScanResult:
    """One finished scan of a host; `finished_at` in Unix seconds, `duration` in seconds."""

    addresses: tuple[AddressObservation, ...]
    judgement: Judgement
    finished_at: float
    duration: float = 0.0

    @property
    def open_ports(self) -> tuple[int, ...]:
        """The ports open on at least one address that was seen, ascending."""
        seen = (observation for observation in self.addresses if observation.failure is None)
        return tuple(sorted({port for observation in seen for port in observation.accepting}))

    @property
    def is_up(self) -> bool:
        """True if any address answered any probe."""
        return any(observation.answered for observation in self.addresses)

    def completed_by(self, earlier: ScanResult) -> ScanResult:
        """Take over from an earlier result the addresses that this one could not see, with their deviations.

        An address that could not be seen has not come into specification. One that has left the name is gone.
        """
        if self.judgement.failure is None:
            return self
        # of a seen address None, of one that could not be seen its failure
        found = {observation.address: observation.failure for observation in self.addresses}
        is_whole = self.judgement.failure.reason is not Reason.RESOLVE
        kept = [old for old in earlier.addresses if old.failure is None and found.get(old.address, not is_whole)]
        addresses = {observation.address: observation for observation in (*self.addresses, *kept)}
        kept_addresses = {old.address for old in kept}
        old_deviations = (item for item in earlier.judgement.deviations if item.address in kept_addresses)
        deviations = tuple(sorted((*self.judgement.deviations, *old_deviations)))
        judgement = replace(self.judgement, deviations=deviations)
        return replace(self, addresses=tuple(addresses.values()), judgement=judgement)


@dataclass(frozen=True, slots=True)
class HostState:
    """What is known of a host: its latest scan, and the latest that reached a verdict.

    `last_change` is when the set of open ports was last seen to change, in Unix seconds; None until it is.
    """

    target: Target
    latest: ScanResult | None = None
    conclusive: ScanResult | None = None
    last_change: float | None = None

    @property
    def host(self) -> str:
        """The name in conf.yml: the label `host`."""
        return self.target.host

    @property
    def verdict(self) -> Verdict:
        """The verdict of the latest scan; unknown before the first."""
        return self.latest.judgement.verdict if self.latest else Verdict.UNKNOWN

    @property
    def deviations(self) -> tuple[Deviation, ...]:
        """The deviations of the latest conclusive scan."""
        return self.conclusive.judgement.deviations if self.conclusive else ()

    def after(self, result: ScanResult) -> HostState:
        """Give the state once a scan has finished."""
        if not result.judgement.conclusive:
            return replace(self, latest=result)
        conclusive = result if self.conclusive is None else result.completed_by(self.conclusive)
        changed = self.conclusive is not None and _has_changed(self.conclusive, conclusive)
        return replace(
            self,
            latest=result,
            conclusive=conclusive,
            last_change=result.finished_at if changed else self.last_change,
        )


def _has_changed(before: ScanResult, after: ScanResult) -> bool:
    """Tell whether the set of open ports changed on what both scans could see."""
    if before.judgement.failure is None and after.judgement.failure is None:
        return before.open_ports != after.open_ports
    first, second = (
        {item.address: item.accepting for item in result.addresses if not item.failure} for result in (before, after)
    )
    both = first.keys() & second.keys()
    return {port for address in both for port in first[address]} != {
        port for address in both for port in second[address]
    }


class HostTable(Mapping[str, "HostState"]):
    """An immutable mapping of host to state whose copy with one host replaced is cheap.

    States lie in chunks; a new table shares all of them but one, so that 10,000 hosts cost two tuples of
    about a hundred for each finished scan, not a dictionary of 10,000.
    """

    __slots__ = ("_chunks", "_places")

    def __init__(self, states: Iterable[HostState] = ()) -> None:
        every = tuple(states)
        self._places = {state.host: divmod(place, _CHUNK) for place, state in enumerate(every)}
        self._chunks = tuple(every[start : start + _CHUNK] for start in range(0, len(every), _CHUNK))

    def __getitem__(self, host: str) -> HostState:
        chunk, place = self._places[host]
        return self._chunks[chunk][place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def replacing(self, state: HostState) -> HostTable:
        """Give the table with the state of one host replaced; KeyError if it does not hold that host."""
        number, place = self._places[state.host]
        chunk = self._chunks[number]
        chunk = (*chunk[:place], state, *chunk[place + 1 :])
        table = HostTable()
        table._places = self._places
        table._chunks = (*self._chunks[:number], chunk, *self._chunks[number + 1 :])
        return table


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every host's state by its name, in the order of the configuration, and the monitor's totals."""

    hosts: HostTable = field(default_factory=HostTable)
    rounds: int = 0
    overruns: int = 0
    probes_sent: int = 0
    answers_dropped: int = 0

    @classmethod
    def of(cls, targets: Iterable[Target]) -> Snapshot:
        """Give the snapshot before the first scan."""
        return cls(HostTable(map(HostState, targets)))

    @property
    def is_complete(self) -> bool:
        """True once every host was scanned."""
        return all(state.latest for state in self.hosts.values())

    def after(self, host: str, result: ScanResult, *, probes_sent: int, answers_dropped: int = 0) -> Snapshot:
        """Give the snapshot once a scan of `host` has finished, with the engines' totals at that time."""
        hosts = self.hosts.replacing(self.hosts[host].after(result))
        return replace(self, hosts=hosts, probes_sent=probes_sent, answers_dropped=answers_dropped)
