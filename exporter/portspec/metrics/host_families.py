"""HostState and AuditState → samples of the host families. Pure: those of one host depend on that host alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Generic, TypeVar

from portspec.audit.model import Status
from portspec.exceptions import in_force
from portspec.exposure import highest
from portspec.metrics import catalogue as m
from portspec.ports import PortSet, spell
from portspec.state.budget import dated_of, left_out_of, listeners_of, vulnerabilities_of
from portspec.state.table import OfHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from portspec.audit.state import AuditState
    from portspec.config import PortException
    from portspec.state.snapshot import HostState, ScanResult
    from portspec.state.verdict import Deviation

    Samples = Iterable[tuple[Mapping[str, str], float]]

S = TypeVar("S", bound=OfHost)

# Ports of one address, kind and state that get a series each; more are one series, whose label has them all.
MAX_SINGLE_DEVIATIONS = 100
MAX_PORT_LABEL = 124  # characters, and a comma and an ellipsis: 128 bytes, as state.budget.MAX_LABEL


@dataclass(frozen=True, slots=True)
class Part(Generic[S]):
    """Samples of one family; those of `metric` stand together.

    `rank` says what the series budget cuts first: the lowest. None is never cut, for there are few. `is_timed` ones
    change with every scan, the others only if has_news(). The value of one that `is_left_out` counts
    samples of the host that other parts leave out. Of a part with one sample a host, or none, `value` gives its value,
    or None; it has no label but `host`.
    """

    metric: m.Metric
    samples: Callable[[S], Samples]
    rank: int | None = None
    is_timed: bool = False
    is_left_out: bool = False
    value: Callable[[S], float | None] | None = None


@dataclass(frozen=True, slots=True)
class Families(Generic[S]):
    """The families of a kind of state, in their order; `has_news` tells whether parts that are not timed may differ."""

    parts: tuple[Part[S], ...]
    has_news: Callable[[S, S], bool]


def _has_news(before: HostState, after: HostState) -> bool:
    return (
        before.target is not after.target
        or _findings(before.latest) != _findings(after.latest)
        or _conclusions(before) != _conclusions(after)
        or _exceptions_of(before) != _exceptions_of(after)
        or before.maintenance != after.maintenance
        or (before.missing, before.unexpected) != (after.missing, after.unexpected)
        or before.overdue != after.overdue
    )


def _audit_has_news(before: AuditState, after: AuditState) -> bool:
    """Return whether samples may differ; if only views or priorities do, whether any vulnerability changes its class.

    With a new list of EPSS every host has other priorities, while hardly any vulnerability has another class.
    """
    if replace(after, view=before.view, priorities=before.priorities) != before:
        return True
    found = after.vulnerabilities
    if before.view != after.view:
        return before.ranks != after.ranks
    changed = after.priorities.changed_from(before.priorities, found)
    if not changed:
        return False
    exposures = after.exposures_of(changed)
    return before.priorities.ranks(changed, exposures) != after.priorities.ranks(changed, exposures)


def _findings(result: ScanResult | None) -> tuple[object, ...] | None:
    """Return what samples say of a scan, but for when it was and how long it took."""
    if result is None:
        return None
    seen = [(item.address, item.scanned, item.accepting, item.answered, item.failure) for item in result.addresses]
    return result.judgement, seen


def _conclusions(state: HostState) -> tuple[object, ...] | None:
    """Return the findings of the scan that reached a verdict, if it is another one than the latest."""
    return () if state.conclusive is state.latest else _findings(state.conclusive)


def _exceptions_of(state: HostState) -> tuple[PortException, ...]:
    return in_force(state.target.exceptions, state.judged_at)


def _expected_open(state: HostState) -> Samples:
    if state.conclusive:
        found = state.conclusive.open_ports
        scanned = [item.scanned for item in state.conclusive.addresses if not item.failure]
        for port in state.target.config.specification.expect:
            if any(port in ports for ports in scanned):  # or nothing is known of it yet
                yield {"host": state.host, "port": spell(port)}, port in found


def _other_open(state: HostState) -> Samples:
    if state.conclusive:
        expected = state.target.config.specification.expect
        for port in state.conclusive.open_ports:
            if port not in expected:
                yield {"host": state.host, "port": spell(port)}, 1


def _expected(state: HostState) -> Samples:
    for port in state.target.config.specification.expect:
        yield {"host": state.host, "port": spell(port)}, 1


def _deviations(state: HostState) -> Samples:
    for labels, _ in _grouped(state):
        yield labels, 1


def _deviating_since(state: HostState) -> Samples:
    for labels, items in _grouped(state):
        since = state.deviates_since(items[0].kind, PortSet.of(item.port for item in items))
        if since is not None:
            yield labels, since


def _deviations_overdue(state: HostState) -> Samples:
    for kind, ports in state.overdue.items():
        yield {"host": state.host, "owner": state.target.owner, "kind": kind.value}, len(ports)


def _grouped(state: HostState) -> Iterator[tuple[Mapping[str, str], list[Deviation]]]:
    """Yield the labels of each series of a deviation, and the deviations that it stands for: one, or very many."""
    groups: dict[tuple[str, str, str], list[Deviation]] = {}
    for item in state.deviations:
        groups.setdefault((item.address, item.kind.value, item.state.value), []).append(item)
    for (address, kind, found), items in groups.items():
        labels = {"host": state.host, "address": address, "kind": kind, "state": found}
        if len(items) <= MAX_SINGLE_DEVIATIONS:
            for item in items:
                yield {**labels, "port": spell(item.port), "severity": state.severity_of(item).value}, [item]
        else:
            severity = highest(map(state.severity_of, items))
            yield {**labels, "port": _port_label(items), "severity": severity.value}, items


def _port_label(items: list[Deviation]) -> str:
    spelled = ",".join(PortSet.of(item.port for item in items).spellings())
    return spelled if len(spelled) <= MAX_PORT_LABEL else f"{spelled[:MAX_PORT_LABEL].rpartition(',')[0]},…"


def single_ports(state: HostState) -> set[int]:
    """Return the ports that stand alone in the label of a deviation or of an exception: few, however many deviate."""
    if not state.deviations and not state.target.exceptions:  # most hosts
        return set()
    words = {labels["port"] for labels, _ in chain(_deviations(state), _exceptions(state))}
    return {int(word) for word in words if word.isdecimal()}


def _exceptions(state: HostState) -> Samples:
    """Yield the end of each exception in force: as of the judgement, so that what is in force is what was judged by."""
    ends: dict[str, float] = {}
    for item in _exceptions_of(state):
        for word in item.ports.spellings():
            ends[word] = max(ends.get(word, 0.0), item.until)
    for word, until in ends.items():
        yield {"host": state.host, "port": word}, until


def _failures(state: HostState) -> Samples:
    if state.latest:
        judgement = state.latest.judgement
        found = chain([judgement.failure], (item.failure for item in state.latest.addresses))
        for reason in sorted({failure.reason for failure in found if failure}):
            yield {"host": state.host, "reason": reason.value}, 1


def _host_info(state: HostState) -> Samples:
    if labels := state.target.config.labels:
        yield {"host": state.host, **labels}, 1


def _of_host(
    metric: m.Metric, value: Callable[[S], float | None], *, is_timed: bool = False, is_left_out: bool = False
) -> Part[S]:
    """Return the part of a family with at most one sample per host; None is no sample."""

    def samples(state: S) -> Samples:
        found = value(state)
        return () if found is None else (({"host": state.host}, found),)

    return Part(metric, samples, is_timed=is_timed, is_left_out=is_left_out, value=value)


def _statuses(state: AuditState) -> Samples:
    present = state.status
    for status in Status:
        yield {"host": state.host, "status": status.value}, status is present


def _severities(state: AuditState) -> Samples:
    if state.is_counted:
        for severity, count in state.by_severity.items():
            yield {"host": state.host, "severity": severity.value}, count


def _restarts(state: AuditState) -> Samples:
    if (needs := state.restarts) is not None:
        if needs.processes or (needs.processes is not None and needs.is_complete):
            yield {"host": state.host, "kind": "process"}, len(needs.processes)
        if needs.kernel is not None:
            yield {"host": state.host, "kind": "kernel"}, needs.kernel.newer is not None


def _classes(state: AuditState) -> Samples:
    if state.is_counted:
        for priority, count in state.by_class.items():
            yield {"host": state.host, "class": priority.value}, count


def _vulnerabilities(state: AuditState) -> Samples:
    for package, version, name, severity, fixed_version, priority in vulnerabilities_of(state).series:
        labels = {"host": state.host, "package": package, "version": version, "id": name, "severity": severity}
        yield {**labels, "fixed_version": fixed_version, "class": priority}, 1


def _vulnerable_since(state: AuditState) -> Samples:
    for (package, version, name), at in dated_of(state).series:
        yield {"host": state.host, "package": package, "version": version, "id": name}, at


def _vulnerabilities_overdue(state: AuditState) -> Samples:
    for priority, count in (state.overdue_by_class or {}).items():
        yield {"host": state.host, "owner": state.owner, "class": priority.value}, count


def _oldest(state: AuditState) -> Samples:
    for priority, at in state.oldest_by_class.items():
        yield {"host": state.host, "class": priority.value}, at


def _listeners(state: AuditState) -> Samples:
    for port, process, user, package, unit, container in listeners_of(state).series:
        labels = {"host": state.host, "port": port, "process": process, "user": user}
        yield {**labels, "package": package, "unit": unit, "container": container}, 1


PORT_PARTS: tuple[Part[HostState], ...] = (
    Part(m.PORT_OPEN, _expected_open, rank=3),
    Part(m.PORT_OPEN, _other_open, rank=1),
    Part(m.PORT_EXPECTED, _expected, rank=2),
    Part(m.PORT_DEVIATION, _deviations, rank=5),
    Part(m.PORT_DEVIATION_SINCE, _deviating_since, rank=0),
    Part(m.PORT_DEVIATIONS_OVERDUE, _deviations_overdue),
    Part(m.PORT_EXCEPTION_EXPIRY, _exceptions, rank=4),
    _of_host(m.PORT_MAINTENANCE, lambda state: 1 if state.maintenance else None),
    _of_host(m.PORT_OUT_OF_SPEC, lambda state: len(state.deviations) if state.conclusive else None),
    _of_host(m.PORT_HOST_UP, lambda state: state.conclusive.is_up if state.conclusive else None),
    _of_host(m.PORT_SCAN_SUCCESS, lambda state: state.latest.judgement.conclusive if state.latest else None),
    Part(m.PORT_SCAN_FAILURE, _failures),
    _of_host(m.PORT_LAST_SCAN, lambda state: state.conclusive.finished_at if state.conclusive else None, is_timed=True),
    _of_host(
        m.PORT_SCAN_DURATION, lambda state: state.conclusive.duration if state.conclusive else None, is_timed=True
    ),
    _of_host(m.PORT_LAST_CHANGE, lambda state: state.last_change, is_timed=True),
    _of_host(m.PORT_SCAN_INTERVAL, lambda state: state.target.config.interval or None),
    Part(m.PORT_HOST_INFO, _host_info),
)
AUDIT_PARTS: tuple[Part[AuditState], ...] = (
    _of_host(m.AUDIT_TIMESTAMP, lambda state: state.host_audit.at if state.host_audit else 0.0),
    Part(m.AUDIT_STATUS, _statuses),
    _of_host(m.AUDIT_VULNERABLE_PACKAGES, lambda state: state.vulnerable_packages if state.is_counted else None),
    Part(m.AUDIT_RESTART_NEEDED, _restarts),
    Part(m.AUDIT_VULNERABILITIES, _severities),
    Part(m.AUDIT_VULNERABILITIES_BY_CLASS, _classes),
    Part(m.AUDIT_VULNERABILITIES_OVERDUE, _vulnerabilities_overdue),
    Part(m.AUDIT_OLDEST, _oldest),
    Part(m.AUDIT_VULNERABILITY, _vulnerabilities, rank=2),
    Part(m.AUDIT_VULNERABILITY_SINCE, _vulnerable_since, rank=0),
    Part(m.PORT_LISTENER_INFO, _listeners, rank=1),
    _of_host(m.PORT_MAINTENANCE, lambda state: 1 if state.maintenance else None),  # of hosts that are not scanned
    _of_host(m.AUDIT_SERIES_DROPPED, lambda state: left_out_of(state) or None, is_left_out=True),
)
PORTS = Families(PORT_PARTS, _has_news)
_OF_EARLIER_SCANS = (m.PORT_DEVIATION_SINCE, m.PORT_DEVIATIONS_OVERDUE)  # of which a probe does not know
PROBED = Families(tuple(part for part in PORT_PARTS if part.metric not in _OF_EARLIER_SCANS), _has_news)
AUDITS = Families(AUDIT_PARTS, _audit_has_news)
