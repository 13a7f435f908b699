"""The immutable state that everything downstream reads: metrics, pages, notification."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

from portspec.exceptions import excepted_ports, is_outdated
from portspec.exposure import PortSeverity
from portspec.maintenance import edges, lasting
from portspec.ports import ALL_PORTS, NO_PORTS, PortSet
from portspec.scan import Reason
from portspec.state.table import HostTable
from portspec.state.verdict import Deviation, Judgement, Kind, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from portspec.audit.state import AuditState
    from portspec.config import MaintenanceWindow, PortException
    from portspec.inventory import AuditedHost, Target
    from portspec.scan import AddressObservation

Since: TypeAlias = tuple[tuple[float, PortSet], ...]  # Unix times, and the ports of which something holds since then
OVERDUE_AFTER = 120.0  # seconds beyond two intervals and the duration of a scan, as in the rule PortspecScanStale
MAX_KEPT_ADDRESSES = 256  # of a host, from earlier scans; more only if the latest scan had as many
MAX_KEPT_RANGES = 65_536  # of ports of these addresses
# Probes per second to a host that was cut off: at least, and at most, beyond which there is no limit; and how much
# more after each scan that was not.
_SLOWEST, _FASTEST, _FASTER = 10.0, 2000.0, 1.25


@dataclass(frozen=True, slots=True)
class ScanResult:
    """One finished scan of a host; `finished_at` in Unix seconds, `duration` in seconds.

    If ports that deviated were looked at again since then, `rechecked_at` is when that last changed what is known of
    them, in Unix seconds; the two others stay those of the scan of all ports.
    """

    addresses: tuple[AddressObservation, ...]
    judgement: Judgement
    finished_at: float
    duration: float = 0.0
    rechecked_at: float | None = None

    @property
    def seen_at(self) -> float:
        """When what it tells was last seen to be so, in Unix seconds."""
        return self.finished_at if self.rechecked_at is None else self.rechecked_at

    @property
    def open_ports(self) -> PortSet:
        """The ports open on at least one address that was seen."""
        return _union([item.accepting for item in self.addresses if item.is_usable])

    @property
    def is_up(self) -> bool:
        """True if any address answered any probe."""
        return any(observation.answered for observation in self.addresses)

    def completed_by(self, earlier: ScanResult) -> ScanResult:
        """Take over from an earlier result the addresses that this one could not see, with their deviations.

        An address that could not be seen has not come into specification. One that has left the name is gone. Of many
        that the name may still have, MAX_KEPT_ADDRESSES are kept, first those that deviate, then those that were seen
        last: a name whose addresses change each time must not make its host's state grow.
        """
        if self.judgement.failure is None:
            return self
        # of a seen address None, of one that could not be seen its failure
        found = {observation.address: observation.failure for observation in self.addresses}
        is_whole = self.judgement.failure.reason not in {Reason.RESOLVE, Reason.DENIED}
        kept = [old for old in earlier.addresses if old.failure is None and found.get(old.address, not is_whole)]
        if len(kept) > len(found):
            deviating = {item.address for item in (*earlier.judgement.deviations, *earlier.judgement.excepted)}
            kept = _limited(kept, deviating, max(MAX_KEPT_ADDRESSES, len(found)))
        newer = {item.address: item for item in self.addresses if item.is_usable}
        addresses = {item.address: item for item in self.addresses}
        addresses |= {old.address: _updated(old, newer.get(old.address)) for old in kept}
        # of the ports of a kept address those count that were not seen anew
        seen = {old.address: newer[old.address].scanned if old.address in newer else NO_PORTS for old in kept}
        deviations, excepted = (
            tuple(sorted((*new, *(item for item in old if item.port not in seen.get(item.address, ALL_PORTS)))))
            for new, old in (
                (self.judgement.deviations, earlier.judgement.deviations),
                (self.judgement.excepted, earlier.judgement.excepted),
            )
        )
        judgement = replace(self.judgement, deviations=deviations, excepted=excepted)
        return replace(self, addresses=tuple(addresses.values()), judgement=judgement)

    def with_newer(self, addresses: Iterable[AddressObservation], at: float) -> ScanResult:
        """Put newer observations, of a Unix time, in the place of those of the same addresses; judge it afterwards.

        Where an address could not be seen it stays so: a look at some of its ports tells nothing of the others.
        """
        newer = {item.address: item for item in addresses}
        merged = tuple(item if item.failure else newer.get(item.address, item) for item in self.addresses)
        return replace(self, addresses=merged, rechecked_at=at)

    def judged(self, target: Target, now: float) -> ScanResult:
        """Judge what was observed by the specification of `target`, and its exceptions at `now`, in Unix seconds."""
        judgement = judge(
            self.addresses,
            target.config.specification,
            self.judgement.failure,
            excepted_ports(target.exceptions, now),
        )
        return self if judgement == self.judgement else replace(self, judgement=judgement)


@dataclass(frozen=True, slots=True)
class HostState:
    """What is known of a host: its latest scan, and the latest that reached a verdict.

    Times are in Unix seconds. `last_change` is the last observed change of the set of open ports; None until one is
    observed. The judgements are made with the exceptions in force at `judged_at`, which maintenance does not change;
    whether it lasts is as of then, too. `next_scan` is the next scan or
    recheck of the host; None while it is not scheduled. `pace` limits the probes per second after the host was cut off;
    None if it was not, or long ago. `opened` maps the time of a scan to the open ports that it found open first and
    that every later scan found open. It is empty until the next scan if an older version of portspec wrote the state.
    `missing` is the same for ports that are expected and not open on some address, accepted or not: the time is that
    of the scan, or of the change of conf.yml, that first found them missing. A state that an older version wrote has
    none, so its missing ports count from the start of the exporter. `unexpected` is the same for ports that are open on
    some address and neither expected nor allowed; those of an older version count from when they were opened.
    """

    target: Target
    latest: ScanResult | None = None
    conclusive: ScanResult | None = None
    last_change: float | None = None
    judged_at: float = math.inf
    next_scan: float | None = None
    pace: float | None = None
    opened: Since = ()
    missing: Since = ()
    unexpected: Since = ()

    @property
    def host(self) -> str:
        """The name in conf.yml: the label `host`."""
        return self.target.host

    @property
    def exceptions(self) -> tuple[PortException, ...]:
        """The exceptions that are about it, in force or not."""
        return self.target.exceptions

    @property
    def maintenance(self) -> MaintenanceWindow | None:
        """The maintenance that lasts; None without."""
        windows = self.target.maintenance
        return lasting(windows, self.judged_at) if windows else None

    @property
    def edges(self) -> tuple[float, ...]:
        """The Unix times from which it is judged by something else: other exceptions, maintenance, a deadline."""
        target = self.target
        due = self._due_times() if target.deadlines.has_ports and (self.missing or self.unexpected) else ()
        if not (target.exceptions or target.maintenance):  # most hosts
            return tuple(due)
        return (*(item.until for item in target.exceptions), *edges(target.maintenance), *due)

    @property
    def silenced(self) -> Mapping[str, AddressObservation]:
        """The addresses that were cut off in the latest scan, and what was seen of each then."""
        seen = self.latest.addresses if self.latest else ()
        return {item.address: item for item in seen if item.failure and item.failure.reason is Reason.CUT_OFF}

    @property
    def verdict(self) -> Verdict:
        """The verdict of the latest scan; unknown before the first."""
        return self.latest.judgement.verdict if self.latest else Verdict.UNKNOWN

    @property
    def overdue_at(self) -> float | None:
        """When the verdict is too old to count, in Unix seconds; None before the first scan."""
        latest = self.latest
        if latest is None:
            return None
        return latest.finished_at + 2 * self.target.config.interval + latest.duration + OVERDUE_AFTER

    @property
    def deviations(self) -> tuple[Deviation, ...]:
        """The deviations of the latest conclusive scan."""
        return self.conclusive.judgement.deviations if self.conclusive else ()

    def severity_of(self, item: Deviation) -> PortSeverity:
        """Return how severe a deviation is; a missing port is a warning, whichever it is."""
        return self.target.severities.of(item.port) if item.kind is Kind.UNEXPECTED else PortSeverity.WARNING

    @property
    def excepted(self) -> tuple[Deviation, ...]:
        """The deviations of the latest conclusive scan that do not count, since an exception is in force."""
        return self.conclusive.judgement.excepted if self.conclusive else ()

    def judged(self, target: Target, now: float) -> HostState:
        """Return the state by a target's specification and exceptions at `now`; the same object if nothing differs."""
        latest = self.latest and self.latest.judged(target, now)
        conclusive = (
            latest if self.latest is self.conclusive else self.conclusive and self.conclusive.judged(target, now)
        )
        was_conclusive = self.latest is self.conclusive or (self.latest and self.latest.judgement.conclusive)
        if latest and latest.judgement.conclusive and not was_conclusive:
            # what was observed sufficed for no verdict then, and does now
            promoted = replace(self, target=target, conclusive=conclusive, judged_at=now).after(latest, now)
            return replace(promoted, pace=self.pace)
        is_same = latest is self.latest and conclusive is self.conclusive and target == self.target
        if is_same and not is_outdated(self, now):
            return self
        known = replace(self, target=target, latest=latest, conclusive=conclusive, judged_at=now)
        return _redated(known, now)

    def under(self, target: Target, now: float) -> HostState:
        """Return the state of the same host with what the configuration says of it at `now`, in Unix seconds."""
        if target == self.target:
            return self
        old = self.target
        if (target.config.specification, target.exceptions, target.maintenance) == (
            old.config.specification,
            old.exceptions,
            old.maintenance,
        ):
            return replace(self, target=target)
        return self.judged(target, now)

    def after(self, result: ScanResult, judged_at: float | None = None) -> HostState:
        """Return the state once a scan has finished, its result judged at a Unix time (by default when it finished).

        What is kept from earlier scans is brought to that time.
        """
        at = result.finished_at if judged_at is None else judged_at
        known = self.judged(self.target, at) if is_outdated(self, at) else self
        known = replace(known, pace=_pace(self.pace, result))
        if not result.judgement.conclusive:
            return replace(known, latest=result, judged_at=at)
        conclusive = result if known.conclusive is None else result.completed_by(known.conclusive)
        changed = known.conclusive is not None and _has_changed(known.conclusive, conclusive)
        known = replace(
            known,
            opened=_dated(known.opened, conclusive.open_ports, result.finished_at),
            latest=result,
            conclusive=conclusive,
            last_change=result.finished_at if changed else known.last_change,
            judged_at=at,
        )
        return _redated(known, result.finished_at)

    def after_recheck(self, addresses: Sequence[AddressObservation], now: float) -> HostState:
        """Return the state once ports that deviated were looked at again; `now` in Unix seconds.

        `addresses` are those of the latest conclusive scan, with what was seen now. The same object if that is nothing
        new. Times of the scan stay; a host of which an address could not be seen is unknown without a deviation.
        """
        if self.conclusive is None or self.latest is None or tuple(addresses) == self.conclusive.addresses:
            return self
        conclusive = self.conclusive.with_newer(addresses, now).judged(self.target, now)
        latest = (
            conclusive
            if self.latest is self.conclusive
            else self.latest.with_newer(addresses, now).judged(self.target, now)
        )
        if not latest.judgement.conclusive:
            known = self.judged(self.target, now) if is_outdated(self, now) else self
            return replace(known, latest=latest, judged_at=now)
        changed = _has_changed(self.conclusive, conclusive)
        known = replace(
            self,
            opened=_dated(self.opened, conclusive.open_ports, now),
            latest=latest,
            conclusive=conclusive,
            last_change=now if changed else self.last_change,
            judged_at=now,
        )
        return _redated(known, now)

    def deviates_since(self, kind: Kind, ports: PortSet) -> float | None:
        """Return the Unix time since which the first of some ports deviates in a way; None if none does."""
        dated = self.unexpected if kind is Kind.UNEXPECTED else self.missing
        return next((began for began, found in sorted(dated, key=itemgetter(0)) if found & ports), None)

    @property
    def overdue(self) -> Mapping[Kind, PortSet]:
        """The ports that deviate for longer than they may, none of them accepted, for each kind that has a deadline.

        Nothing before the first scan with a verdict.
        """
        if not self.target.deadlines.has_ports or self.conclusive is None:  # most hosts
            return {}
        return {kind: self._overdue(kind) for kind in Kind if self._limits(kind)}

    def _overdue(self, kind: Kind) -> PortSet:
        ports = PortSet.of(item.port for item in self.deviations if item.kind is kind)
        if not ports:
            return NO_PORTS
        is_unexpected = kind is Kind.UNEXPECTED
        by_severity = self.target.severities.divided(ports) if is_unexpected else {PortSeverity.WARNING: ports}
        dated = self.unexpected if is_unexpected else self.missing
        limits = self._limits(kind)
        return _union(
            those & since
            for severity, those in by_severity.items()
            for began, since in dated
            if severity in limits and began + limits[severity] <= self.judged_at
        )

    def due_at(self, item: Deviation) -> float | None:
        """Return the Unix time by which a deviation is to be fixed; None without a deadline."""
        limit = self.target.deadlines.of_port(item.kind, self.severity_of(item))
        since = None if limit is None else self.deviates_since(item.kind, PortSet.of([item.port]))
        return None if since is None or limit is None else since + limit

    def _due_times(self) -> Iterator[float]:
        """Yield when ports that deviate may be due: whatever their severity is."""
        for kind, dated in ((Kind.MISSING, self.missing), (Kind.UNEXPECTED, self.unexpected)):
            for limit in set(self._limits(kind).values()):
                yield from (began + limit for began, _ in dated)

    def _limits(self, kind: Kind) -> Mapping[PortSeverity, float]:
        """Return for how many seconds ports may deviate in a way, by their severity."""
        severities = PortSeverity if kind is Kind.UNEXPECTED else (PortSeverity.WARNING,)
        found = {severity: self.target.deadlines.of_port(kind, severity) for severity in severities}
        return {severity: limit for severity, limit in found.items() if limit is not None}

    def open_since(self, at: float) -> PortSet:
        """Return the ports that are open, and were so in a scan before a Unix time and in each one since."""
        return _union(ports for began, ports in self.opened if began <= at)


def _redated(state: HostState, at: float) -> HostState:
    """Return a state with since when its ports deviate; those that are new do since `at`, in Unix seconds."""
    found = _deviating(state.conclusive)
    missing = _dated(state.missing, found.get(Kind.MISSING, NO_PORTS), at)
    unexpected = _dated(state.unexpected, found.get(Kind.UNEXPECTED, NO_PORTS), at)
    if missing is state.missing and unexpected is state.unexpected:
        return state
    return replace(state, missing=missing, unexpected=unexpected)


def _dated(before: Since, found: PortSet, at: float) -> Since:
    """Return ports by the time since when: those that are new since `at`. The same object if none differs."""
    if not before and not found:
        return before
    kept = tuple((began, ports & found) for began, ports in before)
    new = found - _union(ports for _, ports in kept)
    if not new and kept == before:
        return before
    return tuple(group for group in (*kept, (at, new)) if group[1])


def _deviating(result: ScanResult | None) -> dict[Kind, PortSet]:
    """Return the ports that deviate by a result, accepted or not, by how they do."""
    found = (*result.judgement.deviations, *result.judgement.excepted) if result else ()
    if not found:  # most hosts
        return {}
    return {kind: PortSet.of(item.port for item in found if item.kind is kind) for kind in Kind}


def _pace(pace: float | None, result: ScanResult) -> float | None:
    """Return the pace after a result: half of that at which an address was cut off, then slowly more."""
    failed = [(item, item.failure.reason) for item in result.addresses if item.answered and item.failure]
    cut = [item for item, reason in failed if reason is Reason.CUT_OFF]
    if cut:
        return max(_SLOWEST, min(_FASTEST, pace or _FASTEST, *(item.pace or _FASTEST for item in cut)) / 2)
    if pace is None or result.judgement.failure or not result.is_up:
        return pace
    return pace * _FASTER if pace * _FASTER <= _FASTEST else None


def _limited(kept: Sequence[AddressObservation], deviating: Collection[str], most: int) -> list[AddressObservation]:
    """Return at most so many observations, and MAX_KEPT_RANGES ranges of ports; first those that deviate."""
    found: list[AddressObservation] = []
    ranges = 0
    for item in sorted(kept, key=lambda old: old.address not in deviating)[:most]:
        ranges += sum(len(ports.ranges) for ports in (item.open, item.filtered, item.unconfirmed))
        if found and ranges > MAX_KEPT_RANGES:
            break
        found.append(item)
    return found


def _updated(old: AddressObservation, newer: AddressObservation | None) -> AddressObservation:
    """Put what was seen of some ports in the place of what was known of them."""
    if newer is None:
        return old
    return replace(
        old,
        open=(old.open - newer.scanned) | newer.open,
        filtered=(old.filtered - newer.scanned) | newer.filtered,
        unconfirmed=(old.unconfirmed - newer.scanned) | newer.unconfirmed,
    )


def _has_changed(before: ScanResult, after: ScanResult) -> bool:
    """Return whether the set of open ports changed on what both scans could see."""
    if before.judgement.failure is None and after.judgement.failure is None:
        return before.open_ports != after.open_ports
    first, second = (
        {item.address: item.accepting for item in result.addresses if not item.failure} for result in (before, after)
    )
    both = first.keys() & second.keys()
    return _union(first[address] for address in both) != _union(second[address] for address in both)


def _union(sets: Iterable[PortSet]) -> PortSet:
    found = list(sets)
    if len(found) == 1:
        return found[0]
    if found and all(ports == found[0] for ports in found[1:]):  # as the addresses of most hosts are
        return found[0]
    return PortSet.of_ranges(chain.from_iterable(ports.ranges for ports in found))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every host's state by its name, in the order of the configuration, and the monitor's totals.

    `audits` are the hosts that have to report, scanned here or not; of those that are `unread` nothing is known yet,
    not even whether they have reported.
    """

    hosts: HostTable[HostState] = field(default_factory=HostTable)
    audits: HostTable[AuditState] = field(default_factory=HostTable)
    unread: tuple[AuditedHost, ...] = ()
    rounds: int = 0
    overruns: int = 0
    retries: int = 0
    rechecks: int = 0
    probes_sent: int = 0
    answers_dropped: int = 0

    @classmethod
    def of(cls, targets: Iterable[Target]) -> Snapshot:
        """Return the snapshot before the first scan."""
        return cls(HostTable(map(HostState, targets)))

    @property
    def is_complete(self) -> bool:
        """True once every host was scanned."""
        return all(state.latest for chunk in self.hosts.chunks for state in chunk)

    def with_state(self, state: HostState) -> Snapshot:
        """Return the snapshot with another state of one host; KeyError if it is not there."""
        return replace(self, hosts=self.hosts.replacing(state))

    def after(self, host: str, result: ScanResult, *, probes_sent: int, answers_dropped: int = 0) -> Snapshot:
        """Return the snapshot once a scan of `host` has finished, with the engines' totals at that time."""
        hosts = self.hosts.replacing(self.hosts[host].after(result))
        return replace(self, hosts=hosts, probes_sent=probes_sent, answers_dropped=answers_dropped)
