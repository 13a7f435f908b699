"""What the report says of a machine, in words: why it needs attention, and the lines at the head of its section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Status
from portspec.exceptions import in_force
from portspec.ports import PortSet
from portspec.report import phrases
from portspec.state.correlation import correlate
from portspec.state.verdict import Kind, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from portspec.audit.model import Vulnerability
    from portspec.audit.state import AuditState
    from portspec.report.fleet import Machine
    from portspec.scan import AddressObservation, Failure
    from portspec.state.correlation import Correlation
    from portspec.state.snapshot import HostState
    from portspec.state.verdict import Deviation

_VERDICTS: Final = {
    Verdict.IN_SPEC: "in specification",
    Verdict.OUT_OF_SPEC: "out of specification",
    Verdict.UNKNOWN: "unknown",
}
STATUSES: Final = {
    Status.CLEAN: "clean",
    Status.VULNERABLE: "vulnerable",
    Status.FAILED: "failed",
    Status.STALE_DATABASE: "stale database",
    Status.UNSUPPORTED: "unsupported",
    Status.NEVER: "never reported",
}
_FAULTS: Final = {
    Status.FAILED: "audit failed",
    Status.STALE_DATABASE: "stale database",
    Status.UNSUPPORTED: "audit unsupported",
}
MAX_GROUPS: Final = 5  # of unexpected ports, by who listens there, that are told at the top


@dataclass(frozen=True, slots=True)
class Fact:
    """Lines under a label; `tone` is "bad", "good" or "", for those who see colours."""

    label: str
    lines: tuple[str, ...]
    tone: str = ""


def needs(machine: Machine, now: float) -> Iterator[str]:
    """Say why a machine needs attention, in the order of Need; nothing for one that does not."""
    state = machine.state
    if state and (found := _of_kind(state, Kind.UNEXPECTED)):
        held = list(_by_holders(found, correlate(state, machine.audit), machine.audit))
        yield from (f"unexpected {words}" for words in held[:MAX_GROUPS])
        if len(held) > MAX_GROUPS:
            yield f"and more, in all {phrases.counted(len(found), 'unexpected port')}"
    if machine.vulnerabilities:
        yield f"{_vulnerabilities(machine)} ({phrases.severities(machine.severities)})"
    if state and (missing := _of_kind(state, Kind.MISSING)):
        yield f"missing {phrases.ports(missing)}"
    if machine.audit and machine.status in _FAULTS:
        yield _with_reason(_FAULTS[machine.status], machine.audit.reason)
    if machine.is_late and machine.audit and machine.audit.host_audit:
        yield f"last report {phrases.duration(now - machine.audit.host_audit.at)} ago"
    if machine.status is Status.NEVER:
        yield STATUSES[Status.NEVER]
    if state and state.verdict is Verdict.UNKNOWN:
        yield _verdict(state)


def facts(machine: Machine, correlation: Correlation | None, now: float) -> Iterator[Fact]:
    """Give the head of a machine's section: the scan, then what both views say together, then the audit."""
    state = machine.state
    if state is None:
        yield Fact("Ports", ("not scanned: this machine only reports",))
    else:
        yield from _scan(state, now)
        yield from _deviations(state, correlation, machine.audit)
    if correlation:
        if correlation.unreachable:
            lines = _by_holders(correlation.unreachable, correlation, machine.audit)
            yield Fact("Listening but not reachable", tuple(phrases.some(lines)))
        if correlation.unheld:
            yield Fact("Reachable but nobody listens", (phrases.ports(correlation.unheld),))
        if correlation.newer:
            lines = _by_holders(correlation.newer, correlation, machine.audit)
            yield Fact("Newly reachable", tuple(lines))
    yield from _audit(machine, now)


def _scan(state: HostState, now: float) -> Iterator[Fact]:
    latest, shown = state.latest, state.conclusive or state.latest
    tone = {Verdict.IN_SPEC: "good", Verdict.OUT_OF_SPEC: "bad"}.get(state.verdict, "")
    lines = [_verdict(state)]
    if latest and latest.judgement.failure and state.verdict is not Verdict.UNKNOWN:
        lines.append(f"not all of it could be seen: {_failure(latest.judgement.failure)}")
    yield Fact("Ports", tuple(lines), tone)
    if latest and shown:
        scanned = phrases.when(latest.finished_at, now)
        is_old = shown is not latest and shown.finished_at != latest.finished_at
        of = [f"what follows is of {phrases.when(shown.finished_at, now)}, when a scan reached a verdict"]
        yield Fact("Scanned", (scanned, *of) if is_old else (scanned,))
    specification = state.target.config.specification
    yield Fact("Expected", (phrases.ports(specification.expect),))
    if specification.allow:
        yield Fact("Allowed", (phrases.ports(specification.allow),))
    if shown and shown.addresses:
        yield Fact("Open", tuple(phrases.some(map(_address, shown.addresses))))


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
        return f"{seen.address}: not seen: {_failure(seen.failure)}"
    doubtful = f", of which unconfirmed {phrases.ports(seen.unconfirmed)}" if seen.unconfirmed else ""
    others = f"{seen.closed:,} closed, {len(seen.filtered):,} filtered"
    return f"{seen.address}: {phrases.ports(seen.open)}{doubtful} ({others})"


def _deviations(state: HostState, correlation: Correlation | None, audit: AuditState | None) -> Iterator[Fact]:
    unexpected: list[str] = []
    missing: list[str] = []
    for (address, kind, found), ports in _grouped(state.deviations).items():
        if kind is Kind.MISSING:
            missing.append(f"{phrases.ports(ports)} on {address}: {found}")
        else:
            for who, those in _holders(ports, correlation, audit).items():
                unexpected.append(f"{phrases.ports(those)} on {address}{who}")
    if unexpected:
        yield Fact("Unexpected", tuple(phrases.some(unexpected)), "bad")
    if missing:
        yield Fact("Missing", tuple(phrases.some(missing)), "bad")
    if state.excepted:
        yield Fact("Accepted", tuple(phrases.some(_accepted(state))))


def _accepted(state: HostState) -> Iterator[str]:
    """Say which deviations do not count, until when and why."""
    exceptions = in_force(state.target.exceptions, state.judged_at)
    for (address, kind, _), ports in _grouped(state.excepted).items():
        rest = ports
        for item in exceptions:
            if covered := item.ports & ports:
                yield f"{phrases.ports(covered)} on {address}, {kind}: {phrases.acceptance(item)}"
                rest = rest - covered
        if rest:  # judged at another time
            yield f"{phrases.ports(rest)} on {address}, {kind}: {phrases.acceptance(None)}"


def _audit(machine: Machine, now: float) -> Iterator[Fact]:
    audit = machine.audit
    if audit is None:
        yield Fact("Audit", ("this machine need not report",))
        return
    status = machine.status or Status.NEVER
    tone = {Status.CLEAN: "good", Status.NEVER: ""}.get(status, "bad")
    yield Fact("Audit", tuple(_audit_lines(machine, status, audit.reason)), tone)
    if host_audit := audit.host_audit:
        tool = " ".join(filter(None, (host_audit.tool, host_audit.tool_version))) or "tool not told"
        reported = f"{phrases.when(host_audit.at, now)}{', late' if machine.is_late else ''}: {tool}"
        at = host_audit.audit.database_at
        database = "of unknown age" if at is None else f"of {phrases.time(at)}, {phrases.duration(now - at)} old"
        yield Fact("Report", (reported, f"database {database}"), "bad" if machine.is_late else "")


def _audit_lines(machine: Machine, status: Status, reason: str) -> Iterator[str]:
    words = STATUSES[status]
    found = ""
    if machine.vulnerabilities:
        packages = phrases.counted(machine.packages, "package")
        found = f"{_vulnerabilities(machine)} in {packages} ({phrases.severities(machine.severities)})"
    if status is Status.VULNERABLE:
        yield f"{words}: {found}"
        if reason:
            yield reason
    elif status is Status.CLEAN and machine.excepted:
        are = "is" if len(machine.excepted) == 1 else "are"
        yield f"{words}, but for {_counted(machine.excepted)} that {are} accepted"
    else:
        yield _with_reason(words, reason)
        if found:
            yield f"all the same it found {found}"


def _with_reason(words: str, reason: str) -> str:
    return f"{words}: {reason}" if reason else words


def _vulnerabilities(machine: Machine) -> str:
    return _counted(machine.vulnerabilities)


def _counted(found: Sequence[Vulnerability]) -> str:
    return phrases.counted(len({item.key for item in found}), "vulnerability", "vulnerabilities")


def _of_kind(state: HostState, kind: Kind) -> PortSet:
    return PortSet.of(item.port for item in state.deviations if item.kind is kind)


def _grouped(deviations: Iterable[Deviation]) -> dict[tuple[str, Kind, str], PortSet]:
    """Give the ports by address, kind and state."""
    found: dict[tuple[str, Kind, str], list[int]] = {}
    for item in deviations:
        found.setdefault((item.address, item.kind, item.state.value), []).append(item.port)
    return {key: PortSet.of(numbers) for key, numbers in found.items()}


def _holders(ports: PortSet, correlation: Correlation | None, audit: AuditState | None) -> dict[str, PortSet]:
    """Give the ports by what there is to say of who listens on them; of "" if the host does not tell."""
    if correlation is None:
        return {"": ports}
    found: dict[str, list[int]] = {}
    for port in ports:
        if port in correlation.listeners:
            words = f": {phrases.programs(phrases.holders(correlation.listeners[port]))}"
        elif port in correlation.unheld:
            words = ": by the report nobody listens there"
        else:
            of = f" of {phrases.time(audit.host_audit.at)}" if audit and audit.host_audit else ""
            words = f": opened after the last audit{of}"
        found.setdefault(words, []).append(port)
    return {words: PortSet.of(numbers) for words, numbers in found.items()}


def _by_holders(ports: PortSet, correlation: Correlation | None, audit: AuditState | None) -> Iterator[str]:
    for words, those in _holders(ports, correlation, audit).items():
        yield f"{phrases.ports(those)}{words}"
