"""What the report says of each machine, as labelled lines and rows that every format writes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from portspec.audit.model import Status
from portspec.exceptions import in_force
from portspec.ports import PortSet
from portspec.report import wording
from portspec.report.model import FAILED_STATUSES, URGENT, Need
from portspec.report.wording import STATUSES
from portspec.state.correlation import correlate
from portspec.state.verdict import Kind, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from portspec.audit.model import Vulnerability
    from portspec.audit.payload import ListeningSocket
    from portspec.audit.restart import RestartNeeds
    from portspec.audit.state import AuditState
    from portspec.config import MaintenanceWindow
    from portspec.report.model import Machine
    from portspec.scan import AddressObservation, Failure
    from portspec.state.correlation import Correlation
    from portspec.state.snapshot import HostState
    from portspec.state.verdict import Deviation

MAX_SOCKETS: Final = 1000  # rows of a machine
MAX_ADDRESSES: Final = 20  # of a row
MAX_UNEXPECTED_REASONS: Final = 5  # groups of unexpected ports, by process, in a machine's reasons

_VERDICTS: Final = {
    Verdict.IN_SPEC: "in specification",
    Verdict.OUT_OF_SPEC: "out of specification",
    Verdict.UNKNOWN: "unknown",
}
_FAILED_AUDITS: Final = {
    Status.FAILED: "audit failed",
    Status.STALE_DATABASE: "stale database",
    Status.UNSUPPORTED: "audit unsupported",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """Lines under a label; `tone` is "bad", "good" or "", and chooses a colour where there are colours."""

    label: str
    lines: tuple[str, ...]
    tone: str = ""


class SocketRow(NamedTuple):
    """A port, such as "22" or "53/udp", its addresses, the process and what it is part of; "" where unknown.

    A tuple: a report has hundreds of thousands, and a frozen dataclass takes three times as long to create.
    """

    port: str
    addresses: str
    process: str
    user: str
    details: str


def attention_reasons(machine: Machine, now: float) -> Iterator[str]:
    """Yield why a machine needs attention, in the order of Need; nothing for a machine that does not."""
    state = machine.state
    if urgent := wording.classes(machine.classes[:URGENT]):
        yield f"vulnerabilities to fix: {urgent}"
    if state and (found := _ports_of_kind(state, Kind.UNEXPECTED)):
        groups = list(_lines_by_process(found, correlate(state, machine.audit), machine.audit))
        yield from (f"unexpected {words}" for words in groups[:MAX_UNEXPECTED_REASONS])
        if len(groups) > MAX_UNEXPECTED_REASONS:
            yield f"and more ({wording.count(len(found), 'unexpected port')} in total)"
    if overdue := ", ".join(_overdue(machine)):
        yield f"past the deadline: {overdue}"
    if machine.vulnerabilities:
        yield f"{_count_vulnerabilities(machine.vulnerabilities)} ({wording.severities(machine.severities)})"
    if state and (missing := _ports_of_kind(state, Kind.MISSING)):
        yield f"missing {wording.ports(missing)}"
    if machine.audit:
        yield from _audit_reasons(machine, machine.audit, now)
    if state and state.verdict is Verdict.UNKNOWN:
        yield _verdict(state)
    if (window := machine.maintenance) and machine.need is not Need.NONE:
        yield f"under maintenance until {wording.time(window.until)}"


def _overdue(machine: Machine) -> Iterator[str]:
    """Yield what has not been fixed by its deadline: vulnerabilities by class, and ports."""
    by_class = machine.audit.overdue_by_class if machine.audit else None
    if by_class and (found := wording.classes(by_class.values())):
        yield found
    for kind, ports in (machine.state.overdue if machine.state else {}).items():
        if ports:
            yield f"{kind} {wording.ports(ports)}"


def _audit_reasons(machine: Machine, audit: AuditState, now: float) -> Iterator[str]:
    if machine.status in FAILED_STATUSES:
        yield _with_reason(_FAILED_AUDITS[machine.status], audit.reason)
    if machine.is_late and audit.host_audit:
        yield f"last audit {wording.duration(now - audit.host_audit.at)} ago"
    if machine.status is Status.NEVER:
        yield f"audit {STATUSES[Status.NEVER]}"
    if needs := audit.restarts:
        yield _restart_summary(needs)


def facts(machine: Machine, correlation: Correlation | None, now: float) -> Iterator[Fact]:
    """Yield the head of a machine's section: the scan, the correlation of scan and audit, the audit."""
    state = machine.state
    if window := machine.maintenance:
        yield Fact("Maintenance", tuple(_maintenance(window)))
    if state is None:
        yield Fact("Ports", ("not scanned (audit only)",))
    else:
        yield from _scan(state, now)
        yield from _deviations(state, correlation, machine.audit)
    if correlation:
        if correlation.unreachable:
            lines = _lines_by_process(correlation.unreachable, correlation, machine.audit)
            yield Fact("Listening but not reachable", tuple(wording.limit_lines(lines)))
        if correlation.unheld:
            yield Fact("Reachable without listener", (wording.ports(correlation.unheld),))
        if correlation.newer:
            lines = _lines_by_process(correlation.newer, correlation, machine.audit)
            yield Fact("Newly reachable", tuple(lines))
    yield from _audit(machine, now)


def socket_rows(listeners: Iterable[ListeningSocket]) -> list[SocketRow]:
    """Return one row for each port and process, sorted by port; the number of rows is not limited."""
    found: dict[tuple[str, int, str, str, str], dict[str, None]] = {}
    for item in listeners:
        key = item.protocol, item.port, item.process or "", item.user or "", item.details
        found.setdefault(key, {})[item.address] = None
    return [
        SocketRow(str(port) if protocol == "tcp" else f"{port}/{protocol}", _addresses(list(addresses)), *holder)
        for (protocol, port, *holder), addresses in sorted(found.items(), key=lambda item: item[0])
    ]


def _maintenance(window: MaintenanceWindow) -> Iterator[str]:
    yield f"until {wording.time(window.until)}"
    if window.reason:
        yield window.reason
    if window.owner:
        yield f"owner: {window.owner}"


def _addresses(addresses: list[str]) -> str:
    shown = ", ".join(addresses[:MAX_ADDRESSES])
    return shown if len(addresses) <= MAX_ADDRESSES else f"{shown} and {len(addresses) - MAX_ADDRESSES:,} more"


def _scan(state: HostState, now: float) -> Iterator[Fact]:
    latest, shown = state.latest, state.conclusive or state.latest
    tone = {Verdict.IN_SPEC: "good", Verdict.OUT_OF_SPEC: "bad"}.get(state.verdict, "")
    lines = [_verdict(state)]
    if latest and latest.judgement.failure and state.verdict is not Verdict.UNKNOWN:
        lines.append(f"incomplete: {_failure(latest.judgement.failure)}")
    yield Fact("Ports", tuple(lines), tone)
    if latest and shown:
        scanned = wording.time_ago(latest.finished_at, now)
        is_old = shown is not latest and shown.finished_at != latest.finished_at
        of = [f"the results below are from {wording.time_ago(shown.finished_at, now)}, the last conclusive scan"]
        yield Fact("Scanned", (scanned, *of) if is_old else (scanned,))
    specification = state.target.config.specification
    yield Fact("Expected", (wording.ports(specification.expect),))
    if specification.allow:
        yield Fact("Allowed", (wording.ports(specification.allow),))
    if shown and shown.addresses:
        yield Fact("Open", tuple(wording.limit_lines(map(_address, shown.addresses))))


def _verdict(state: HostState) -> str:
    if state.latest is None:
        return "not scanned yet"
    failure = state.latest.judgement.failure
    if state.verdict is Verdict.UNKNOWN and failure:
        return f"unknown: {_failure(failure)}"
    return _VERDICTS[state.verdict]


def _failure(failure: Failure) -> str:
    return f"{failure.detail} ({failure.reason})"


def _address(seen: AddressObservation) -> str:
    if seen.failure:
        return f"{seen.address}: scan failed: {_failure(seen.failure)}"
    unconfirmed = f", of which unconfirmed {wording.ports(seen.unconfirmed)}" if seen.unconfirmed else ""
    others = f"{seen.closed:,} closed, {len(seen.filtered):,} filtered"
    return f"{seen.address}: {wording.ports(seen.open)}{unconfirmed} ({others})"


def _deviations(state: HostState, correlation: Correlation | None, audit: AuditState | None) -> Iterator[Fact]:
    unexpected: list[str] = []
    missing: list[str] = []
    for (address, kind, found), ports in _grouped(state.deviations).items():
        if kind is Kind.MISSING:
            missing.append(f"{wording.ports(ports)} on {address}: {found}")
        else:
            for who, those in _ports_by_process(ports, correlation, audit).items():
                unexpected.append(f"{wording.ports(those)} on {address}{who}")
    if unexpected:
        yield Fact("Unexpected", tuple(wording.limit_lines(unexpected)), "bad")
    if missing:
        yield Fact("Missing", tuple(wording.limit_lines(missing)), "bad")
    if state.excepted:
        yield Fact("Accepted", tuple(wording.limit_lines(_accepted(state))))


def _accepted(state: HostState) -> Iterator[str]:
    """Yield which deviations do not count, until when and why."""
    exceptions = in_force(state.target.exceptions, state.judged_at)
    for (address, kind, _), ports in _grouped(state.excepted).items():
        rest = ports
        for item in exceptions:
            if covered := item.ports & ports:
                yield f"{wording.ports(covered)} on {address}, {kind}: {wording.acceptance(item)}"
                rest = rest - covered
        if rest:  # judged at another time
            yield f"{wording.ports(rest)} on {address}, {kind}: {wording.acceptance(None)}"


def _audit(machine: Machine, now: float) -> Iterator[Fact]:
    audit = machine.audit
    if audit is None:
        yield Fact("Audit", ("not required",))
        return
    status = machine.status or Status.NEVER
    tone = {Status.CLEAN: "good", Status.NEVER: ""}.get(status, "bad")
    yield Fact("Audit", tuple(_audit_lines(machine, status, audit.reason)), tone)
    if host_audit := audit.host_audit:
        tool = " ".join(filter(None, (host_audit.tool, host_audit.tool_version))) or "unknown tool"
        audited = f"{wording.time_ago(host_audit.at, now)}{', late' if machine.is_late else ''}: {tool}"
        at = host_audit.audit.database_at
        database = "of unknown age" if at is None else f"of {wording.time(at)}, {wording.duration(now - at)} old"
        yield Fact("Audited", (audited, f"database {database}"), "bad" if machine.is_late else "")
    if needs := audit.restarts:
        yield Fact("Restart needed", tuple(wording.limit_lines(needs.lines)), "bad")


def _restart_summary(needs: RestartNeeds) -> str:
    """Say what has to be restarted: "restart needed: 2 processes, kernel"."""
    processes = wording.count(len(needs.processes), "process", "processes") if needs.processes else ""
    kernel = "kernel" if needs.kernel and needs.kernel.newer else ""
    return f"restart needed: {', '.join(filter(None, (processes, kernel)))}"


def _audit_lines(machine: Machine, status: Status, reason: str) -> Iterator[str]:
    words = STATUSES[status]
    found = ""
    if machine.vulnerabilities:
        packages = wording.count(machine.packages, "package")
        counts = wording.severities(machine.severities)
        found = f"{_count_vulnerabilities(machine.vulnerabilities)} in {packages} ({counts})"
    if status is Status.VULNERABLE:
        yield f"{words}: {found}"
        if reason:
            yield reason
    elif status is Status.CLEAN and machine.excepted:
        yield f"{words}, except for {_count_vulnerabilities(machine.excepted, 'accepted ')}"
    else:
        yield _with_reason(words, reason)
        if found:
            yield f"found nevertheless: {found}"


def _with_reason(words: str, reason: str) -> str:
    return f"{words}: {reason}" if reason else words


def _count_vulnerabilities(found: Sequence[Vulnerability], adjective: str = "") -> str:
    number = len({item.key for item in found})
    return wording.count(number, f"{adjective}vulnerability", f"{adjective}vulnerabilities")


def _ports_of_kind(state: HostState, kind: Kind) -> PortSet:
    return PortSet.of(item.port for item in state.deviations if item.kind is kind)


def _grouped(deviations: Iterable[Deviation]) -> dict[tuple[str, Kind, str], PortSet]:
    """Return the ports by address, kind and state."""
    found: dict[tuple[str, Kind, str], list[int]] = {}
    for item in deviations:
        found.setdefault((item.address, item.kind, item.state.value), []).append(item.port)
    return {key: PortSet.of(numbers) for key, numbers in found.items()}


def _ports_by_process(ports: PortSet, correlation: Correlation | None, audit: AuditState | None) -> dict[str, PortSet]:
    """Return the ports by the words about the process that listens on them; by "" if the audit has no listeners."""
    if correlation is None:
        return {"": ports}
    found: dict[str, list[int]] = {}
    for port in ports:
        if port in correlation.listeners:
            words = f": {wording.processes(wording.distinct_processes(correlation.listeners[port]))}"
        elif port in correlation.unheld:
            words = ": no listener according to the audit"
        else:
            of = f" of {wording.time(audit.host_audit.at)}" if audit and audit.host_audit else ""
            words = f": opened after the last audit{of}"
        found.setdefault(words, []).append(port)
    return {words: PortSet.of(numbers) for words, numbers in found.items()}


def _lines_by_process(ports: PortSet, correlation: Correlation | None, audit: AuditState | None) -> Iterator[str]:
    for words, those in _ports_by_process(ports, correlation, audit).items():
        yield f"{wording.ports(those)}{words}"
